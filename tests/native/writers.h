// Threads that append numbered records for as long as they are told, and remember which ones were taken.
#pragma once

#include <pthread.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/recorder.h"
#include "device/resolver.h"
#include "expect.h"
#include "numbered.h"
#include "published.h"

namespace wanhook::test {

template <class Condition>
bool wait_until(Condition condition, int64_t seconds = 60) {
  const int64_t deadline = read_clock(CLOCK_MONOTONIC) + seconds * 1'000'000'000;
  while (!condition()) {
    if (read_clock(CLOCK_MONOTONIC) > deadline) return false;
    ::usleep(200);
  }
  return true;
}

// Recordings are leaked by design; kept here, they are no leak to a sanitizer.
inline std::vector<Recording*>& all_recordings() {
  static auto* recordings = new std::vector<Recording*>();
  return *recordings;
}

inline Recording* start_recording(const std::string& path, uint64_t capacity = uint64_t{1} << 30) {
  EXPECT(resolver::ensure_running());
  RecordingOptions options;
  options.path = path;
  options.capacity_bytes = capacity;
  int error = 0;
  EXPECT(Recorder::get().start(options, &error) == GateResult::kOk);
  EXPECT_EQUAL(error, 0);
  all_recordings().push_back(Recorder::get().current());
  return all_recordings().back();
}

inline void finish_recording(Recording* recording) {
  Recorder::get().stop(FileState::kStopped, 0);
  EXPECT(resolver::wait_finished(recording, int64_t{60} * 1'000'000'000));
}

struct Writer {
  uint32_t index = 0;
  uint64_t next = 1;
  std::vector<uint64_t> written;
  uint64_t dropped_slots = 0;

  void append(Recording* recording, uint32_t name) {
    const uint64_t number = next++;
    if (append_numbered(recording, index, number, name)) {
      written.push_back(number);
    } else {
      dropped_slots += slots_of(index, number);
    }
  }
};

// `count` writers, numbered from 0, that append through the gate until stop(): the first kAtFullSpeed records each as
// fast as they can, what comes after at a walk, or a starved machine would let them fill any file.
class WriterThreads {
 public:
  WriterThreads(uint32_t count, uint32_t name) {
    for (uint32_t index = 0; index < count; ++index) {
      writers_.push_back(std::make_unique<Writer>());
      writers_.back()->index = index;
      threads_.emplace_back([this, name, writer = writers_.back().get()] { run(writer, name); });
    }
  }
  ~WriterThreads() { stop(); }

  void stop() {
    done_.store(true);
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  // Until the writers have appended this many more records, taken or dropped.
  void wait_for(uint64_t more) const {
    const uint64_t until = appended_.load() + more;
    EXPECT(wait_until([&] { return appended_.load() >= until; }));
  }

  const std::vector<std::unique_ptr<Writer>>& writers() const noexcept { return writers_; }
  uint64_t dropped_slots() const noexcept {
    uint64_t total = 0;
    for (const auto& writer : writers_) total += writer->dropped_slots;
    return total;
  }

 private:
  static constexpr uint64_t kAtFullSpeed = 100'000;

  void run(Writer* writer, uint32_t name) {
    while (!done_.load(std::memory_order_relaxed)) {
      Recording* recording = Recorder::get().active();
      if (recording != nullptr) writer->append(recording, name);
      appended_.fetch_add(recording != nullptr, std::memory_order_relaxed);
      if (recording == nullptr || writer->next % 64 == 0) ::sched_yield();
      if (writer->next > kAtFullSpeed && writer->next % 16 == 0) ::usleep(200);
    }
  }

  std::atomic<bool> done_{false};
  std::atomic<uint64_t> appended_{0};
  std::vector<std::unique_ptr<Writer>> writers_;
  std::vector<std::thread> threads_;
};

// What the writers were told they had written is in these files, each number once, and nothing else is.
inline void expect_exactly(const WriterThreads& threads, const std::vector<Contents>& files) {
  for (const auto& writer : threads.writers()) {
    std::vector<uint64_t> found;
    for (const Contents& file : files) {
      const auto numbers = file.numbers.find(writer->index);
      if (numbers != file.numbers.end()) found.insert(found.end(), numbers->second.begin(), numbers->second.end());
    }
    std::sort(found.begin(), found.end());
    EXPECT_EQUAL(found.size(), writer->written.size());
    EXPECT(found == writer->written);
  }
}

// Reads a growing recording again and again, as another process would and through its own mapping, until destroyed.
// Destroy it before the recording is finished: that cuts the file.
class LiveReader {
 public:
  LiveReader(Recording* recording, bool through_file)
      : thread_([this, recording, through_file] {
          while (!done_.load(std::memory_order_relaxed)) {
            if (through_file) check(MappedFile(recording->path()).chunks(), &seen_in_file_);
            check(chunks_in_memory(*recording), &seen_in_memory_);
            rounds_.fetch_add(1, std::memory_order_relaxed);
          }
        }) {}
  ~LiveReader() {
    wait_until([this] { return rounds_.load() > 1; });
    done_.store(true);
    thread_.join();
  }

 private:
  static void check(const ChunkRange& chunks, uint64_t* seen) {
    Contents contents;
    const uint64_t records = visit_records(chunks, [&](const unsigned char* slot, std::string_view text, uint8_t type) {
      contents.add(slot, text, type);
    });
    EXPECT(records >= *seen);
    *seen = records;
  }

  std::atomic<bool> done_{false};
  std::atomic<uint64_t> rounds_{0};
  uint64_t seen_in_file_ = 0;
  uint64_t seen_in_memory_ = 0;
  std::thread thread_;
};

}  // namespace wanhook::test
