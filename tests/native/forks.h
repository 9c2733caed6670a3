// Forks a process that records: while its threads write, and while another thread holds one of the recorder's locks.
//
// Whatever the child calls must return at once and write nothing; the parent must not notice.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <mutex>
#include <string>
#include <thread>

#include "device/scopes.h"
#include "expect.h"
#include "writers.h"

namespace wanhook::test {

// An explicit instantiation may name private members: the one legal way to reach a lock from outside.
template <class Tag, typename Tag::Member member>
struct Reveal {
  friend typename Tag::Member member_of(Tag) { return member; }
};
struct GateMutex {
  using Member = std::mutex Recorder::*;
  friend Member member_of(GateMutex);
};
struct NamesMutex {
  using Member = std::mutex Recorder::*;
  friend Member member_of(NamesMutex);
};
struct ColdMutex {
  using Member = std::mutex Recording::*;
  friend Member member_of(ColdMutex);
};
struct ReturnedBusy {
  using Member = std::atomic_flag Recording::*;
  friend Member member_of(ReturnedBusy);
};
template struct Reveal<GateMutex, &Recorder::gate_mutex_>;
template struct Reveal<NamesMutex, &Recorder::names_mutex_>;
template struct Reveal<ColdMutex, &Recording::cold_mutex_>;
template struct Reveal<ReturnedBusy, &Recording::returned_busy_>;

inline constexpr const char* kChildsName = "a name that only a forked child asks for";
inline constexpr uint32_t kChildsNumber = 63;  // of the writer that a child would be

// Everything that a program can call, from a forked child. A scope may be open from before the fork.
inline bool child_is_silent(Recording* parents, const Scope& open) {
  Recorder& recorder = Recorder::get();
  RecordingOptions options;
  options.path = "child.wanhook";
  int error = -1;
  bool silent = recorder.in_forked_child() && recorder.active() == nullptr && recorder.current() == nullptr;
  silent &= recorder.start(options, &error) == GateResult::kForkedChild && error == 0;
  silent &= recorder.pause() == GateResult::kForkedChild && recorder.resume() == GateResult::kForkedChild;
  silent &= recorder.intern(kChildsName) == 0 && recorder.define_group({}) == 0;
  ScopeRequest request;
  request.name = 1;
  const Scope scope = begin_scope(request);
  silent &= scope.recording == nullptr;
  end_scope(scope, 0);
  end_scope(open, 0);
  mark(1, "{}");
  resolver::ensure_running();
  resolver::wait_finished(parents, int64_t{60} * 1'000'000'000);
  resolver::finish_all(int64_t{60} * 1'000'000'000);
  silent &= recorder.stop(FileState::kStopped, 0) == GateResult::kForkedChild;
  return silent && ::access(options.path.c_str(), F_OK) != 0;
}

// Forks here and now, and checks that the child gets through all of it before its alarm.
inline void fork_silent_child(Recording* recording, const Scope& open) {
  const pid_t child = ::fork();
  EXPECT(child >= 0);
  if (child == 0) {
    ::alarm(20);
    ::_exit(child_is_silent(recording, open) ? 0 : 1);
  }
  int status = -1;
  EXPECT_EQUAL(::waitpid(child, &status, 0), child);
  EXPECT(WIFEXITED(status));
  EXPECT_EQUAL(WEXITSTATUS(status), 0);
}

template <class Hold, class Release>
void fork_while_held(Recording* recording, Hold hold, Release release) {
  std::atomic<bool> held{false};
  std::atomic<bool> forked{false};
  std::thread holder([&] {
    hold();
    held.store(true);
    EXPECT(wait_until([&] { return forked.load(); }));
    release();
  });
  EXPECT(wait_until([&] { return held.load(); }));
  fork_silent_child(recording, {});
  forked.store(true);
  holder.join();
}

inline void fork_while_locks_are_held(Recording* recording) {
  Recorder& recorder = Recorder::get();
  for (std::mutex* mutex : {&(recorder.*member_of(GateMutex())), &(recorder.*member_of(NamesMutex())),
                            &(recording->*member_of(ColdMutex()))}) {
    fork_while_held(recording, [&] { mutex->lock(); }, [&] { mutex->unlock(); });
  }
  std::atomic_flag& busy = recording->*member_of(ReturnedBusy());
  fork_while_held(recording, [&] { EXPECT(!busy.test_and_set()); }, [&] { busy.clear(); });
}

}  // namespace wanhook::test
