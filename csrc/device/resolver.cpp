#include "device/resolver.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <unordered_map>

#include "core/clock.h"
#include "core/hook_profile.h"
#include "core/recorder.h"
#include "device/device_sampler.h"
#include "device/span_timer.h"

namespace wanhook::resolver {
namespace {

constexpr int64_t kNap = 10'000'000;
// In a muted step: what a recorded one left to do is done in the next recorded one, which it belongs to.
constexpr int64_t kMutedNap = 1'000'000'000;
constexpr int64_t kSamplePeriod = 1'000'000'000;

std::atomic<bool> running{false};
std::atomic<bool> give_up{false};

uint64_t resident_bytes() noexcept {
  FILE* status = std::fopen("/proc/self/statm", "re");
  if (status == nullptr) return 0;
  unsigned long long size = 0;
  unsigned long long resident = 0;
  if (std::fscanf(status, "%llu %llu", &size, &resident) != 2) resident = 0;
  std::fclose(status);
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

void say_recording_ended(const Recording& recording, FileState state, uint32_t error) noexcept {
  const char* why = state == FileState::kFull ? "the size limit is reached (raise WANHOOK_MAX_MB or max_mb=)"
                                              : std::strerror(static_cast<int>(error));
  Recorder::say("recording ended early: " + recording.path() + ": " + why);
}

class Rounds {
 public:
  void run() noexcept {
    for (;;) {
      const auto unfinished = Recorder::get().unfinished();
      if (unfinished.empty()) {
        Recorder::get().resolver_wake().sleep(int64_t{3600} * 1'000'000'000);
        continue;
      }
      if (WANHOOK_LEFT_OUT(kNoResolver)) {
        Recorder::get().resolver_wake().sleep(kNap);
        continue;
      }
      for (const Recorder::Unfinished& each : unfinished) {
        cpu_before_.try_emplace(each.recording, read_clock(CLOCK_THREAD_CPUTIME_ID));
        if (!each.stopped) keep_going(each.recording);
      }
      SpanTimer::resolve();
      sample_if_due(unfinished);
      devices_.round(read_clock(CLOCK_MONOTONIC));
      for (const Recorder::Unfinished& each : unfinished) {
        if (each.stopped) finish_if_done(each);
      }
      Recorder::get().resolver_wake().sleep(Recorder::muted() ? kMutedNap : kNap);
    }
  }

 private:
  void keep_going(Recording* recording) noexcept {
    Recorder::get().write_missing_names(recording);
    if (recording->maintain()) return;
    const bool full = recording->file().at_capacity();
    const FileState state = full ? FileState::kFull : FileState::kDiskFull;
    const uint32_t error = full ? 0 : static_cast<uint32_t>(recording->file().prepare_error());
    if (Recorder::get().stop(state, error, recording) == GateResult::kOk) say_recording_ended(*recording, state, error);
  }

  void sample_if_due(const std::vector<Recorder::Unfinished>& unfinished) noexcept {
    const int64_t now = read_clock(CLOCK_MONOTONIC);
    // Early anchors, so that a run that is killed in its first second can still be placed in time.
    const int64_t period = rounds_of_sampling_ < 3 ? kSamplePeriod / 50 : kSamplePeriod;
    if (unfinished.back().recording != newest_) {
      newest_ = unfinished.back().recording;
      rounds_of_sampling_ = 0;
    } else if (now - last_sample_ < period) {
      return;
    }
    last_sample_ = now;
    ++rounds_of_sampling_;
    for (const Recorder::Unfinished& each : unfinished) write_sample(each.recording);
  }

  void write_sample(Recording* recording) noexcept {
    recording->write_anchor();
    recording->write_recorder_sample(
        static_cast<uint64_t>(read_clock(CLOCK_THREAD_CPUTIME_ID) - cpu_before_[recording]),
        static_cast<uint64_t>(read_clock(CLOCK_PROCESS_CPUTIME_ID)), resident_bytes());
    recording->file().release_full();
  }

  void finish_if_done(const Recorder::Unfinished& each) noexcept {
    if (each.recording->pending_spans() > 0 && !give_up.load(std::memory_order_acquire)) return;
    // Names that found no room so far; where the file can take no more, they stay unknown.
    while (!Recorder::get().write_missing_names(each.recording)) {
      if (!each.recording->maintain() || each.recording->file().ready() == 0) break;
    }
    SpanTimer::write_final_anchors(each.recording);
    write_sample(each.recording);
    each.recording->finish(each.state, each.error);
    Recorder::get().forget(each.recording);
    cpu_before_.erase(each.recording);
  }

  DeviceSampler devices_{&SpanTimer::devices_in_use};
  std::unordered_map<Recording*, int64_t> cpu_before_;  // this thread's CPU time when the recording came, ns
  Recording* newest_ = nullptr;
  int64_t last_sample_ = 0;
  uint32_t rounds_of_sampling_ = 0;
};

void* thread_main(void*) {
  pthread_setname_np(pthread_self(), "wanhook");
  static auto* rounds = new Rounds();
  rounds->run();
  return nullptr;
}

template <class Done>
bool wait_until(int64_t timeout_ns, Done done) noexcept {
  const int64_t deadline = read_clock(CLOCK_MONOTONIC) + timeout_ns;
  while (!done()) {
    if (read_clock(CLOCK_MONOTONIC) >= deadline) return false;
    Recorder::get().wake_resolver();
    usleep(200);
  }
  return true;
}

}  // namespace

bool ensure_running() noexcept {
  if (running.exchange(true)) return true;
  // Signals are the host program's: the new thread inherits a mask that blocks them all.
  sigset_t all;
  sigset_t previous;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  const int error = pthread_create(&thread, &attributes, thread_main, nullptr);
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &previous, nullptr);
  if (error != 0) running.store(false);
  return error == 0;
}

bool wait_finished(Recording* recording, int64_t timeout_ns) noexcept {
  if (Recorder::in_forked_child()) return true;
  return wait_until(timeout_ns, [&] { return recording->finished(); });
}

void finish_all(int64_t timeout_ns) noexcept {
  Recorder& recorder = Recorder::get();
  if (recorder.in_forked_child() || !running.load()) return;
  const auto nothing_left = [&] { return recorder.unfinished().empty(); };
  if (wait_until(timeout_ns, nothing_left)) return;
  give_up.store(true, std::memory_order_release);
  wait_until(200'000'000, nothing_left);
}

}  // namespace wanhook::resolver
