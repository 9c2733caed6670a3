// The process's one recorder: the gate that every hook asks, the names and groups that all recordings share, and the
// recordings that are not finished yet.
//
// It lives in leaked memory, so hooks may ask it at any time, also while static destructors run. In a forked child the
// gate is closed for good and every function returns at once without touching a lock that the parent may have held.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "core/recording.h"
#include "core/string_table.h"
#include "core/wake_up.h"

namespace wanhook {

struct GroupInfo {
  uint32_t name = 0;     // string ids
  uint32_t backend = 0;
  int32_t rank = -1;
  int32_t size = 0;
  std::vector<uint32_t> members;  // global ranks, empty when unknown
};

// Why the gate of a recording that goes on is closed; it opens when no reason is left.
enum class Hold : uint8_t { kPaused = 1, kMuted = 2 };

enum class GateResult { kOk, kNotRecording, kAlreadyRecording, kForkedChild };

class Recorder {
 public:
  static Recorder& get() noexcept;

  // Null while nothing is recorded: off, paused, or a forked child.
  static Recording* active() noexcept { return gate_.active.load(std::memory_order_acquire); }
  // The recording that was started and not stopped, paused or not.
  static Recording* current() noexcept { return gate_.current.load(std::memory_order_acquire); }
  // Inside a muted step of the perturbation check (device/step_check.h).
  static bool muted() noexcept { return (gate_.holds.load(std::memory_order_relaxed) & uint8_t(Hold::kMuted)) != 0; }
  static bool in_forked_child() noexcept { return gate_.forked_child.load(std::memory_order_relaxed); }

  // `error` is an errno value when the file could not be made.
  GateResult start(RecordingOptions options, int* error);
  // `expected`, here and below: only if that is still the current recording (kNotRecording else); null for any.
  GateResult pause(Hold reason = Hold::kPaused, const Recording* expected = nullptr) noexcept;
  GateResult resume(Hold reason = Hold::kPaused, const Recording* expected = nullptr) noexcept;
  // Closes the gate and hands the recording to the resolver, which finishes it once the last GPU spans are known.
  GateResult stop(FileState state, uint32_t error, const Recording* expected = nullptr) noexcept;

  // String id; 0 in a forked child, or when there are too many names.
  uint32_t intern(std::string_view text) noexcept;
  // Group index for collectives; 0 when there are too many groups.
  uint16_t define_group(GroupInfo group) noexcept;

  // A sentence on stderr. Not for hooks.
  static void say(const std::string& sentence) noexcept;
  // The same, and kept for notes(), which the meta data take up: something is not recorded in this process any more.
  void say_and_note(const std::string& sentence) noexcept;
  std::vector<std::string> notes();

  // Never blocks; safe from every hook.
  void wake_resolver() noexcept { resolver_wake_.wake(); }
  WakeUp& resolver_wake() noexcept { return resolver_wake_; }

  struct Unfinished {
    Recording* recording;
    bool stopped;      // the gate is closed for good, finish when no span is pending
    FileState state;
    uint32_t error;
  };
  std::vector<Unfinished> unfinished();
  // Writes names that found no room when they were new; false while some still find none. The resolver's part.
  bool write_missing_names(Recording* recording) noexcept;
  void forget(Recording* recording) noexcept;

 private:
  Recorder();
  static void close_gate_in_child() noexcept;
  static bool is_current(const Recording* expected) noexcept;
  bool write_names(Recording* recording) noexcept;
  static bool write_group(Recording* recording, uint16_t index, const GroupInfo& group) noexcept;

  // Static, so that a closed gate costs one load and no look at the object; one cache line, which hooks only read.
  struct alignas(64) Gate {
    std::atomic<Recording*> active{nullptr};
    std::atomic<Recording*> current{nullptr};
    std::atomic<uint8_t> holds{0};  // Hold; written under gate_mutex_
    std::atomic<bool> forked_child{false};
  };
  static Gate gate_;
  WakeUp resolver_wake_;

  std::mutex gate_mutex_;  // start, pause, resume, stop; taken before names_mutex_
  std::vector<Recording*> recordings_;  // all there ever were, never freed: a hook may still hold one
  std::vector<Unfinished> unfinished_;

  std::mutex names_mutex_;
  StringTable strings_;
  std::vector<GroupInfo> groups_;
  std::vector<std::string> notes_;
  Recording* named_ = nullptr;    // the recording that the next two are about: the one that was started last
  bool names_ran_out_ = false;
  bool said_names_ran_out_ = false;
  uint32_t strings_written_ = 0;
  size_t groups_written_ = 0;
};

}  // namespace wanhook
