#include "core/recording.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/clock.h"
#include "core/recorder.h"

namespace wanhook {

__thread ThreadState thread_state;

namespace {

// Runs when a thread ends. A pthread key and not a thread_local destructor: registering one of those takes the loader's
// lock, and the first record of a thread can come from a callback that holds torch's allocator lock.
void end_thread(void*) {
  ThreadState& state = thread_state;
  state.ended = true;
  if (state.recording != nullptr && state.writer.chunk() != nullptr) state.recording->give_back(state.writer.chunk());
  state.recording = nullptr;
  state.writer.bind(nullptr);
}

void call_at_thread_end(ThreadState& state) noexcept {
  static const pthread_key_t key = [] {
    pthread_key_t made{};
    pthread_key_create(&made, &end_thread);
    return made;
  }();
  pthread_setspecific(key, &state);
}

std::atomic<uint32_t> next_thread{1};

// A record that begins a chunk, or a chunk's part, written by this thread.
WriterRecord describe_thread(const ThreadState& state) noexcept {
  WriterRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kWriter);
  record.thread = state.thread;
  record.tick = tick_now();
  record.tid = static_cast<uint64_t>(::syscall(SYS_gettid));
  pthread_getname_np(pthread_self(), record.name, sizeof(record.name));
  return record;
}

FileHeader make_header(const RecordingOptions& options) noexcept {
  FileHeader header{};
  std::memcpy(header.magic, kFileMagic, sizeof(kFileMagic));
  header.major = kFormatMajor;
  header.minor = kFormatMinor;
  header.header_bytes = kHeaderBytes;
  header.chunk_bytes = kChunkBytes;
  header.record_bytes = kRecordBytes;
  header.pid = static_cast<uint32_t>(::getpid());
  header.life = options.life;
  const ClockReading now = read_clocks();
  header.start_tick = now.tick;
  header.start_monotonic = now.monotonic;
  header.start_realtime = now.realtime;
  header.tick_period = options.tick_period;
  header.heartbeat = now.monotonic;
  return header;
}

}  // namespace

Recording::Recording(const RecordingOptions& options)
    : level_(options.level), verified_(options.verified), path_(options.path) {}

Recording* Recording::create(const RecordingOptions& options, int* error) {
  auto* recording = new Recording(options);
  *error = recording->file_.create(options.path, options.capacity_bytes, make_header(options));
  if (*error == 0) {
    // Meta needs its chunk from the first moment: without it not even the reason of an early end could be written.
    *error = recording->file_.prepare(kSpareChunks / 2);
    if (recording->file_.ready() >= 4) *error = 0;
    std::lock_guard<std::mutex> lock(recording->cold_mutex_);
    if (*error == 0 && !recording->renew(&recording->meta_writer_, ChunkType::kMeta)) *error = ENOSPC;
  }
  if (*error == 0) {
    recording->write_anchor();
    return recording;
  }
  const bool file_was_made = recording->file_.header() != nullptr;
  recording->file_.close();
  if (file_was_made) ::unlink(options.path.c_str());
  delete recording;
  return nullptr;
}

bool Recording::refill(ThreadState& state, uint32_t slots) noexcept {
  if (state.ended) return false;
  if (state.thread == 0) {
    state.thread = next_thread.fetch_add(1, std::memory_order_relaxed);
    call_at_thread_end(state);
  }
  Chunk* chunk = take_returned(slots + 1);
  if (chunk == nullptr) chunk = file_.acquire(ChunkType::kEvents);
  if (file_.ready() < kSpareChunks / 2) Recorder::get().wake_resolver();
  if (chunk == nullptr) {
    file_.add_dropped(slots);
    return false;
  }
  if (state.recording != this) state.scope = 0;
  state.recording = this;
  state.writer.bind(chunk);
  state.writer.put(describe_thread(state));
  return true;
}

void Recording::give_back(Chunk* chunk) noexcept {
  if (returned_busy_.test_and_set(std::memory_order_acquire)) return;
  for (Chunk*& place : returned_) {
    if (place == nullptr) {
      place = chunk;
      break;
    }
  }
  returned_busy_.clear(std::memory_order_release);
}

Chunk* Recording::take_returned(uint32_t slots) noexcept {
  if (returned_busy_.test_and_set(std::memory_order_acquire)) return nullptr;
  Chunk* taken = nullptr;
  for (Chunk*& place : returned_) {
    if (place != nullptr && kChunkRecords - place->header.count >= slots) {
      taken = place;
      place = nullptr;
      break;
    }
  }
  returned_busy_.clear(std::memory_order_release);
  return taken;
}

bool Recording::renew(ChunkWriter* writer, ChunkType type) noexcept {
  Chunk* chunk = file_.acquire(type);
  if (chunk == nullptr) return false;
  writer->bind(chunk);
  WriterRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kWriter);
  record.tick = tick_now();
  std::memcpy(record.name, "wanhook", 8);
  writer->put(record);
  return true;
}

bool Recording::maintain() noexcept {
  __atomic_store_n(&file_.header()->heartbeat, read_clock(CLOCK_MONOTONIC), __ATOMIC_RELAXED);
  const uint32_t used = file_.used();
  // Four times the last round's need: a burst that doubles from one round to the next still finds room.
  const uint32_t wanted = std::clamp(4 * (used - used_last_round_), kSpareChunks, 16 * kSpareChunks);
  used_last_round_ = used;
  const uint32_t ready = file_.ready();
  const int error = ready < wanted ? file_.prepare(wanted - ready) : 0;
  note_drops();
  return error == 0 || file_.ready() > 0;
}

void Recording::note_drops() noexcept {
  const uint64_t dropped = file_.dropped();
  if (dropped != noted_dropped_) {
    DropRecord record{};
    record.kind = static_cast<uint8_t>(Kind::kDrop);
    record.reason = static_cast<uint8_t>(file_.at_capacity() ? DropReason::kCapacity : DropReason::kNoChunkReady);
    record.tick = tick_now();
    record.total = dropped;
    if (append_cold(record)) noted_dropped_ = dropped;
  }
  if (file_.ready() >= kSpareChunks / 2 && lost_allocator_event_.exchange(false, std::memory_order_acq_rel)) {
    resync_wanted_.store(true, std::memory_order_release);
  }
}

bool Recording::append_meta(std::string_view json) noexcept {
  if (json.size() > kMaxTextBytes) return false;
  MetaRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kMeta);
  record.text_bytes = static_cast<uint32_t>(json.size());
  record.tick = tick_now();
  return append_cold(record, json);
}

void Recording::write_anchor() noexcept {
  const ClockReading now = read_clocks();
  ClockAnchorRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kClockAnchor);
  record.flags = kAnchorHost;
  record.device = -1;
  record.tick = now.tick;
  record.tick_after = now.tick_after;
  record.monotonic = now.monotonic;
  record.realtime = now.realtime;
  append_cold(record);
}

void Recording::write_recorder_sample(uint64_t resolver_cpu_ns, uint64_t process_cpu_ns,
                                      uint64_t resident_bytes) noexcept {
  RecorderSampleRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kRecorderSample);
  record.chunks_used = file_.used();
  record.tick = tick_now();
  record.resolver_cpu = resolver_cpu_ns;
  record.process_cpu = process_cpu_ns;
  record.dropped = file_.dropped();
  record.chunks_ready = file_.ready();
  record.spans_pending = static_cast<uint32_t>(std::max<int64_t>(0, pending_spans()));
  record.resident = resident_bytes;
  append_cold(record);
}

void Recording::finish(FileState state, uint32_t error) noexcept {
  if (finished()) return;
  write_anchor();
  note_drops();
  EndRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kEnd);
  record.state = static_cast<uint8_t>(state);
  record.error = error;
  record.tick = tick_now();
  record.dropped = file_.dropped();
  record.unresolved = static_cast<uint64_t>(std::max<int64_t>(0, pending_spans()));
  {
    std::lock_guard<std::mutex> lock(cold_mutex_);
    put_or_renew(&meta_writer_, ChunkType::kMeta, record, {}, 0);
    file_.set_state(state, error);
    file_.close();
    meta_writer_.bind(nullptr);
    state_writer_.bind(nullptr);
    resolver_writer_.bind(nullptr);
  }
  finished_.store(true, std::memory_order_release);
}

}  // namespace wanhook
