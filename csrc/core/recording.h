// One recording: a trace file, the threads that write into it, and how it ends.
//
// append() is the hot path: any thread, no lock, no allocation, no system call, never throws; when no chunk is ready
// the record is dropped and counted. Everything else is cold. A recording is never destroyed, because a thread that
// read the pointer before the gate closed may still use it.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <string_view>

#include "core/record.h"
#include "core/thread_state.h"
#include "core/trace_file.h"

namespace wanhook {

struct RecordingOptions {
  std::string path;
  uint64_t capacity_bytes = uint64_t{2} << 30;
  ScopeLevel level = ScopeLevel::kOp;
  uint32_t verified = 0;
  uint32_t life = 0;
  double tick_period = 0;
};

class Recording {
 public:
  // Null and an errno value in `error` when the file cannot be made.
  static Recording* create(const RecordingOptions& options, int* error);

  // Writes one record into this thread's chunk; null when it was dropped. The place stays valid.
  template <class Record>
  Record* append(const Record& record) noexcept {
    ThreadState& state = this_thread();
    if (!ready_for(state, 1)) return nullptr;
    return state.writer.put(record);
  }

  // The same without a copy: see ChunkWriter::make(). `state`: this_thread().
  template <class Record, class Fill>
  Record* append_made(ThreadState& state, const Fill& fill) noexcept {
    if (!ready_for(state, 1)) return nullptr;
    return state.writer.template make<Record>(fill);
  }

  // The same with text behind it, at most kMaxTextBytes.
  template <class Record>
  bool append(const Record& record, std::string_view text) noexcept {
    const uint32_t slots = slots_for_text(text.size());
    ThreadState& state = this_thread();
    if (!ready_for(state, slots)) return false;
    state.writer.put(record, text);
    return true;
  }

  // Cold records (meta, strings, groups, anchors, samples, drops), from any thread, under a mutex. The last slots of
  // the current meta chunk are kept for write_end(). False when there was no room.
  template <class Record>
  bool append_cold(const Record& record, std::string_view text = {}) noexcept {
    std::lock_guard<std::mutex> lock(cold_mutex_);
    return put_or_renew(&meta_writer_, ChunkType::kMeta, record, text, kReservedSlots);
  }

  // Fetches the lines that this thread's next record goes to: for a hook that has other things to do before.
  static void expect_record(const ThreadState& state) noexcept { state.writer.expect(); }

  // A JSON object; what is longer than kMaxTextBytes is left out.
  bool append_meta(std::string_view json) noexcept;

  // Allocator state records go into chunks of their own, so that `wrap` can carry them over as a whole.
  template <class Record>
  bool append_state(const Record& record) noexcept {
    std::lock_guard<std::mutex> lock(cold_mutex_);
    return put_or_renew(&state_writer_, ChunkType::kState, record, {}, 0);
  }

  // One number space for scopes and collectives of the whole process, so that a scope which outlives its recording
  // cannot be taken for one of the next recording.
  static uint32_t next_id() noexcept {
    const uint32_t id = next_id_.fetch_add(1, std::memory_order_relaxed);
    return id != 0 ? id : next_id_.fetch_add(1, std::memory_order_relaxed);
  }
  uint32_t next_snapshot() noexcept { return next_snapshot_.fetch_add(1, std::memory_order_relaxed); }
  uint32_t next_verified_step() noexcept { return next_verified_step_.fetch_add(1, std::memory_order_relaxed); }
  // String id of the scopes that are steps of the perturbation check without saying so; 0 for none.
  uint32_t verified() const noexcept { return verified_; }
  ScopeLevel level() const noexcept { return level_; }
  TraceFile& file() noexcept { return file_; }
  const std::string& path() const noexcept { return path_; }

  // Spans that the resolver still has to write into this file.
  void span_opened() noexcept { pending_spans_.fetch_add(1, std::memory_order_relaxed); }
  void span_closed() noexcept { pending_spans_.fetch_sub(1, std::memory_order_release); }
  int64_t pending_spans() const noexcept { return pending_spans_.load(std::memory_order_acquire); }

  // An allocator event was lost, so exact replay needs a fresh state snapshot as soon as there is room again.
  void allocator_event_lost() noexcept { lost_allocator_event_.store(true, std::memory_order_relaxed); }
  bool wants_resync() const noexcept { return resync_wanted_.load(std::memory_order_relaxed); }
  bool take_resync() noexcept { return resync_wanted_.exchange(false, std::memory_order_acq_rel); }

  // Resolver's part -------------------------------------------------------------------------------------------------

  // Writes into a chunk of the resolver's own, because it serves several recordings at a time.
  template <class Record>
  bool append_resolved(const Record& record) noexcept {
    if (!resolver_writer_.has_room(1) && !renew(&resolver_writer_, ChunkType::kEvents)) {
      file_.add_dropped(1);
      return false;
    }
    resolver_writer_.put(record);
    return true;
  }

  // Prepares chunks ahead of need and notes drops. False when the file can take no more and writers have run dry.
  bool maintain() noexcept;
  void write_anchor() noexcept;
  void write_recorder_sample(uint64_t resolver_cpu_ns, uint64_t process_cpu_ns, uint64_t resident_bytes) noexcept;
  // Writes the end record, gives unused room back and closes the file. Once.
  void finish(FileState state, uint32_t error) noexcept;
  bool finished() const noexcept { return finished_.load(std::memory_order_acquire); }

  // Called when a thread ends: what is left of its chunk serves the next thread.
  void give_back(Chunk* chunk) noexcept;

 private:
  static constexpr uint32_t kReservedSlots = 4;
  static constexpr uint32_t kSpareChunks = 16;

  explicit Recording(const RecordingOptions& options);
  bool ready_for(ThreadState& state, uint32_t slots) noexcept {
    const bool ready = state.recording == this && state.writer.has_room(slots);
    return __builtin_expect(ready, 1) || refill(state, slots);
  }
  __attribute__((cold)) bool refill(ThreadState& state, uint32_t slots) noexcept;
  Chunk* take_returned(uint32_t slots) noexcept;
  void note_drops() noexcept;

  template <class Record>
  bool put_or_renew(ChunkWriter* writer, ChunkType type, const Record& record, std::string_view text,
                    uint32_t reserve) noexcept {
    const uint32_t slots = slots_for_text(text.size());
    if (!writer->has_room(slots + reserve) && !renew(writer, type)) return false;
    writer->put(record, text);
    return true;
  }
  bool renew(ChunkWriter* writer, ChunkType type) noexcept;

  inline static std::atomic<uint32_t> next_id_{1};

  // What scopes and collectives ask for lies in one cache line.
  alignas(64) const ScopeLevel level_;
  std::atomic<bool> resync_wanted_{false};
  std::atomic<bool> lost_allocator_event_{false};
  std::atomic<bool> finished_{false};
  const uint32_t verified_;
  std::atomic<int64_t> pending_spans_{0};
  std::atomic<uint32_t> next_snapshot_{1};
  std::atomic<uint32_t> next_verified_step_{0};
  const std::string path_;
  TraceFile file_;

  std::mutex cold_mutex_;
  ChunkWriter meta_writer_{};
  ChunkWriter state_writer_{};

  ChunkWriter resolver_writer_{};

  // Part-filled chunks of threads that ended. A spin flag that is only ever tried, never waited for.
  std::atomic_flag returned_busy_ = ATOMIC_FLAG_INIT;
  Chunk* returned_[8] = {};

  uint64_t noted_dropped_ = 0;
  uint32_t used_last_round_ = 0;
};

}  // namespace wanhook
