#include "hooks/nccl_events.h"

namespace wanhook {

bool keep_nccl_events(c10d::ProcessGroup&) noexcept { return false; }
bool time_nccl_work(Recording*, const c10d::Work&, const NcclWork&) noexcept { return false; }

}  // namespace wanhook
