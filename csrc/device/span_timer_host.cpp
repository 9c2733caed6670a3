// CPU builds: no device, nothing to time.
#include "device/span_timer.h"

namespace wanhook {

uint32_t SpanTimer::begin(Recording*, StreamRef) noexcept { return 0; }
void SpanTimer::end(uint32_t, SpanOwner, uint32_t) noexcept {}
void SpanTimer::abandon(uint32_t) noexcept {}
bool SpanTimer::resolve() noexcept { return false; }
void SpanTimer::write_final_anchors(Recording*) noexcept {}
std::vector<DeviceInUse> SpanTimer::devices_in_use() { return {}; }
uint32_t SpanTimer::outstanding() noexcept { return 0; }

}  // namespace wanhook
