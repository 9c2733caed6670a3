#include "hooks/streams.h"

namespace wanhook {

StreamRef stream_on_device(int) noexcept { return {}; }
void provide_current_stream() noexcept {}

}  // namespace wanhook
