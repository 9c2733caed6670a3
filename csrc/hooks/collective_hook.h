// Every collective of torch.distributed, seen at the dispatcher.
//
// Each operator of the c10d namespace has a fallthrough for BackendSelect; a boxed kernel there sees all calls (Python,
// functional collectives, FSDP, C++) and hands them on unchanged. It is registered once a process and gated by the
// recorder: taking it away while another thread calls a collective breaks that call. Sequence numbers are counted also
// while nothing is recorded, so that ranks which begin to record at different calls stay in step.
//
// Not seen, because they are no operators: startCoalescing/endCoalescing (coalesced_group.h), and calls on a backend
// object itself.
#pragma once

#include <string>
#include <vector>

namespace wanhook {

// Names of the operators that are hooked. Idempotent.
std::vector<std::string> attach_collectives();

}  // namespace wanhook
