// wanhook._C: what the Python half of the recorder calls. No logic; wanhook/_C.pyi describes it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core/clock.h"
#include "core/disk.h"
#include "core/hook_profile.h"
#include "core/recorder.h"
#include "device/resolver.h"
#include "device/scopes.h"
#include "device/span_timer.h"
#include "hooks/coalesced_group.h"
#include "hooks/collective_hook.h"
#include "hooks/memory_hook.h"
#include "hooks/process_groups.h"
#include "python/coalesced_launch.h"
#include "python/native_calls.h"
#include "python/role_type.h"
#include "python/scope_types.h"
#include "python/wait_functions.h"
#include "python/watermark.h"
#include "python/without_gil.h"

namespace py = pybind11;

namespace wanhook {
namespace {

// In builds for profiling: the ticks of each call, in the order of HookPart, since the last call of it; what to leave
// out from now on, as bits of LeftOut.
void add_profiling([[maybe_unused]] py::module_& module) {
#if defined(WANHOOK_PROFILE_HOOKS)
  module.def("take_hook_times", [] {
    for (int turn = 0; turn < 1000; ++turn) WANHOOK_TIME_HOOK(HookPart::kEmpty);
    std::vector<std::vector<uint32_t>> rows;
    for (HookTime& time : hook_times) {
      rows.emplace_back(time.ticks.begin(), time.ticks.begin() + std::min(time.calls, HookTime::kKept));
      time.calls = 0;
    }
    return rows;
  });
#endif
#if defined(WANHOOK_LEAVE_OUT)
  module.def("leave_out", [](uint32_t parts) { left_out.store(parts, std::memory_order_relaxed); });
#endif
}

// 0, or an errno value; EBUSY when a recording runs already or this is a forked child.
int start(const std::string& path, uint64_t capacity_bytes, int level, const std::string& verified) {
  RecordingOptions options;
  options.path = path;
  options.capacity_bytes = capacity_bytes;
  options.level = static_cast<ScopeLevel>(level);
  if (!verified.empty()) options.verified = Recorder::get().intern(verified);
  if (!resolver::ensure_running()) return EAGAIN;
  int error = 0;
  return Recorder::get().start(options, &error) == GateResult::kOk ? error : EBUSY;
}

// Waits for the file to be finished only while no GPU span is pending, and at most `wait_ns` in all.
bool stop(bool at_exit, int64_t wait_ns) {
  Recording* recording = Recorder::current();
  if (recording == nullptr) return false;
  if (Recorder::get().stop(at_exit ? FileState::kExited : FileState::kStopped, 0) != GateResult::kOk) return false;
  if (recording->pending_spans() == 0 || wait_ns > 0) {
    resolver::wait_finished(recording,
                            recording->pending_spans() == 0 ? std::max<int64_t>(wait_ns, 2'000'000'000) : wait_ns);
  }
  return true;
}

bool append_meta(const std::string& json) {
  Recording* recording = Recorder::current();
  return recording != nullptr && recording->append_meta(json);
}

void snapshot(int reason) {
  Recording* recording = Recorder::active();
  if (recording != nullptr) snapshot_state(recording, static_cast<StateReason>(reason));
}

void sample(int edge) {
  Recording* recording = Recorder::active();
  if (recording != nullptr) sample_memory(recording, 0, static_cast<SampleEdge>(edge));
}

// One kernel as Python has it: name, device, stream number, begin, end, launch.
using KernelRow = std::tuple<std::string, int, uint64_t, int64_t, int64_t, int64_t>;

// How many were written; the others were dropped and counted.
size_t append_kernels(uint32_t window, const std::vector<KernelRow>& rows) {
  Recording* recording = Recorder::current();
  if (recording == nullptr) return 0;
  size_t written = 0;
  for (const auto& [name, device, stream_number, begin, end, launch] : rows) {
    KernelSpanRecord record{};
    record.kind = static_cast<uint8_t>(Kind::kKernelSpan);
    record.device = static_cast<int8_t>(device);
    record.name = Recorder::get().intern(name);
    record.begin = begin;
    record.end = end;
    record.launch = launch;
    record.stream_number = stream_number;
    record.window = window;
    if (recording->append(record) != nullptr) ++written;
  }
  return written;
}

// As os.fsdecode() has it: a path need not be text.
py::object path_text(const std::string& path) {
  PyObject* text = PyUnicode_DecodeFSDefaultAndSize(path.data(), static_cast<Py_ssize_t>(path.size()));
  if (text == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(text);
}

py::dict status() {
  Recorder& recorder = Recorder::get();
  Recording* recording = recorder.current();
  py::dict result;
  result["recording"] = recording != nullptr;
  result["paused"] = recording != nullptr && recorder.active() == nullptr;
  result["forked_child"] = recorder.in_forked_child();
  result["path"] = recording == nullptr ? py::object(py::none()) : path_text(recording->path());
  result["dropped"] = recording == nullptr ? 0 : recording->file().dropped();
  result["pending_spans"] = recording == nullptr ? 0 : recording->pending_spans();
  result["notes"] = recorder.notes();
  result["cuda_memory"] = cuda_memory_attached();
  result["cpu_memory"] = cpu_memory_attached();
  return result;
}

std::vector<std::string> leftovers() {
  std::vector<std::string> found;
  if (Recorder::current() != nullptr) found.emplace_back("a recording is running");
  if (thread_state.scope != 0) found.emplace_back("a scope is open on this thread");
  if (wait_is_open()) found.emplace_back("a wait is open on this thread");
  if (thread_state.role != 0) found.emplace_back("a role is set on this thread");
  if (thread_state.coalesced != 0 || coalesced_calls.depth != 0)
    found.emplace_back("a coalesced group is open on this thread");
  return found;
}

}  // namespace
}  // namespace wanhook

PYBIND11_MODULE(_C, module) {
  using namespace wanhook;
  if (!add_scope_types(module.ptr()) || !add_role_type(module.ptr()) || !add_wait_functions(module.ptr()) ||
      !add_native_calls(module.ptr()) || !add_coalesced_launch(module.ptr())) {
    throw py::error_already_set();
  }
  const py::call_guard<WithoutGil> without_gil;
  module.attr("torch_built") = WANHOOK_TORCH_BUILT;
#ifdef WANHOOK_CUDA
  module.attr("has_cuda") = true;
#else
  module.attr("has_cuda") = false;
#endif
  module.def("attach_cuda_memory", &attach_cuda_memory, without_gil);
  module.def("attach_cpu_memory", &attach_cpu_memory, without_gil);
  module.def("cuda_allocator_settings", &cuda_allocator_settings);
  module.def("attach_collectives", &attach_collectives);
  module.def("start", &start, without_gil);
  module.def("stop", &stop, without_gil);
  module.def("pause", [] { return Recorder::get().pause() == GateResult::kOk; }, without_gil);
  module.def("resume", [] { return Recorder::get().resume() == GateResult::kOk; }, without_gil);
  module.def("finish_all", &resolver::finish_all, without_gil);
  module.def("append_meta", &append_meta, without_gil);
  module.def("append_kernels", &append_kernels, without_gil);
  module.def("snapshot", &snapshot, without_gil);
  module.def("sample", &sample, without_gil);
  module.def("status", &status);
  module.def("leftovers", &leftovers);
  module.def("enter_coalesced", &enter_coalesced);
  module.def("leave_coalesced", &leave_coalesced);
  module.def("open_coalesced", &open_coalesced);
  // 0: all of them; -1 is nobody's address.
  module.def(
      "forget_group", [](int64_t address) { forget_group(reinterpret_cast<const c10d::ProcessGroup*>(address)); },
      without_gil);
  module.def("set_watermark", [](std::optional<float> share, const py::object& reached) {
    set_watermark(share.value_or(kNoWatermark), reached.ptr());
  });
  module.def("inject_disk_fault", &disk::inject_fault);
  module.def("inject_memory_use", &inject_memory_use);
  add_profiling(module);
  module.def("spans_outstanding", &SpanTimer::outstanding);
  module.def("cpu_memory_totals", [] {
    const CpuMemoryTotals totals = cpu_memory_totals();
    return std::make_pair(totals.allocations, totals.frees);
  });
}
