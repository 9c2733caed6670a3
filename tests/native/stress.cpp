// The core under fire: writer threads, growth, pause and resume, stop while writing, threads that come and go, full
// disks and forks, all against a reader that looks at the same time. Meant for the sanitizers (`make sanitize`).
//
//   stress [DIRECTORY]     files are made in DIRECTORY (default: a fresh one under TMPDIR) and removed
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>

#include "core/disk.h"
#include "device/scopes.h"
#include "writers.h"

// ThreadSanitizer does not support threads in the child of a process that has some.
#if !defined(__SANITIZE_THREAD__)
#include "forks.h"
#define WANHOOK_TEST_FORKS 1
#endif

namespace wanhook::test {
namespace {

constexpr uint32_t kWriters = 4;

std::string trace_path(const std::string& name) { return name + ".wanhook"; }

uint32_t mark_name() { return Recorder::get().intern("a numbered mark"); }

// Reads a finished file; its header and its end record agree.
Contents read_finished(const std::string& path, FileState state, uint32_t error = 0) {
  const MappedFile file(path);
  Contents contents = read_contents(file);
  EXPECT_EQUAL(file.state(), state);
  EXPECT_EQUAL(file.header().error, error);
  EXPECT_EQUAL(contents.ends.size(), 1);
  EXPECT_EQUAL(contents.ends[0].state, state);
  EXPECT_EQUAL(contents.ends[0].error, error);
  EXPECT(contents.ends[0].dropped <= file.header().dropped);
  EXPECT(contents.strings.count(mark_name()) == 1 && contents.strings[mark_name()] == "a numbered mark");
  std::filesystem::remove(path);
  return contents;
}

void say(const char* scenario, uint64_t records, const char* what = "records") {
  std::printf("stress: %s: %llu %s\n", scenario, static_cast<unsigned long long>(records), what);
  std::fflush(stdout);
}

void growth_under_a_live_reader() {
  const std::string path = trace_path("growth");
  Recording* recording = start_recording(path);
  WriterThreads writers(kWriters, mark_name());
  {
    LiveReader reader(recording, /*through_file=*/true);
    writers.wait_for(250'000);
    writers.stop();  // before the reader, which may be slow to end: they would fill the file meanwhile
  }
  finish_recording(recording);
  const Contents contents = read_finished(path, FileState::kStopped);
  expect_exactly(writers, {contents});
  EXPECT_EQUAL(contents.ends[0].dropped, writers.dropped_slots());
  EXPECT_EQUAL(contents.last_drop, writers.dropped_slots());
  EXPECT(contents.event_chunks >= 20);
  EXPECT_EQUAL(contents.threads.size(), kWriters);
  say("growth under a live reader", contents.records);
}

void pause_and_resume() {
  constexpr int kTimes = 300;
  const std::string path = trace_path("pause");
  Recording* recording = start_recording(path);
  WriterThreads writers(kWriters, mark_name());
  for (int time = 0; time < kTimes; ++time) {
    EXPECT(Recorder::get().pause() == GateResult::kOk && Recorder::get().active() == nullptr);
    EXPECT(Recorder::get().pause() == GateResult::kOk && Recorder::get().current() == recording);
    EXPECT(Recorder::get().resume() == GateResult::kOk && Recorder::get().active() == recording);
    writers.wait_for(20);
  }
  writers.stop();
  finish_recording(recording);
  EXPECT(Recorder::get().pause() == GateResult::kNotRecording);
  EXPECT(Recorder::get().resume() == GateResult::kNotRecording);
  const Contents contents = read_finished(path, FileState::kStopped);
  expect_exactly(writers, {contents});
  EXPECT_EQUAL(contents.gates.size(), 2 * kTimes);
  for (size_t index = 0; index < contents.gates.size(); ++index) EXPECT_EQUAL(contents.gates[index], index % 2);
  say("pause and resume", contents.records);
}

// Writers pass the gate at any moment, so some write into a recording that has just been finished: that must stay safe,
// and what they wrote must be there.
void many_recordings_stopped_while_writing() {
  constexpr int kRecordings = 15;
  WriterThreads writers(kWriters, mark_name());
  std::vector<std::string> paths;
  for (int number = 0; number < kRecordings; ++number) {
    paths.push_back(trace_path("row-" + std::to_string(number)));
    Recording* recording = start_recording(paths.back());
    LiveReader reader(recording, /*through_file=*/false);
    writers.wait_for(3'000);
    EXPECT(Recorder::get().stop(FileState::kStopped, 0) == GateResult::kOk);
    EXPECT(Recorder::get().stop(FileState::kStopped, 0) == GateResult::kNotRecording);
    if (number % 2 == 0) EXPECT(resolver::wait_finished(recording, int64_t{60} * 1'000'000'000));
  }
  writers.stop();
  resolver::finish_all(int64_t{60} * 1'000'000'000);
  EXPECT(Recorder::get().unfinished().empty());
  std::vector<Contents> files;
  uint64_t records = 0;
  for (const std::string& path : paths) {
    files.push_back(read_finished(path, FileState::kStopped));
    records += files.back().records;
  }
  expect_exactly(writers, files);
  say("recordings stopped while writing", records);
}

void threads_that_come_and_go() {
  constexpr uint64_t kEach = 30;
  const std::string path = trace_path("threads");
  Recording* recording = start_recording(path);
  const uint32_t name = mark_name();
  Writer writer;
  for (int time = 0; time < 300; ++time) {
    std::thread([&] {
      for (uint64_t n = 0; n < kEach; ++n) writer.append(recording, name);
    }).join();
  }
  const uint32_t used_one_by_one = recording->file().used();
  for (int round = 0; round < 60; ++round) {
    std::vector<std::thread> threads;
    for (uint32_t index = 1; index <= kWriters; ++index) {
      threads.emplace_back([=] {
        for (uint64_t n = 1; n <= kEach; ++n) EXPECT(append_numbered(recording, index, round * kEach + n, name));
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  finish_recording(recording);
  const Contents contents = read_finished(path, FileState::kStopped);
  EXPECT_EQUAL(writer.dropped_slots, 0);
  EXPECT(contents.numbers.at(0) == writer.written);
  for (uint32_t index = 1; index <= kWriters; ++index) EXPECT_EQUAL(contents.numbers.at(index).size(), 60 * kEach);
  // 300 threads, one after the other, share few chunks: each goes on where the one before it ended.
  EXPECT(used_one_by_one <= 1 + 1 + 300 * (3 * kEach) / kChunkRecords);
  say("threads that come and go", contents.records);
}

void scopes_and_their_arguments() {
  constexpr int kScopes = 500;
  const std::string path = trace_path("scopes");
  Recording* recording = start_recording(path);
  std::vector<std::thread> threads;
  for (uint32_t index = 0; index < kWriters; ++index) {
    threads.emplace_back([index] {
      ScopeRequest request;
      request.name = Recorder::get().intern("a scope");
      for (int number = 0; number < kScopes; ++number) {
        const std::string args = make_text(index, static_cast<uint64_t>(number));
        request.args = args;
        const Scope outer = begin_scope(request);
        request.parent = outer.id;
        request.parent_recording = outer.recording;
        end_scope(begin_scope(request), 0);
        end_scope(outer, kScopeException);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  finish_recording(recording);
  const Contents contents = read_finished(path, FileState::kStopped);
  EXPECT_EQUAL(contents.ends[0].dropped, 0);
  EXPECT_EQUAL(contents.scope_args.size(), 2 * kScopes * kWriters);
  EXPECT_EQUAL(contents.scope_ends.size(), 2 * kScopes * kWriters);
  std::map<std::string, int> uses;
  for (const auto& [id, args] : contents.scope_args) {
    EXPECT_EQUAL(contents.scope_ends.count(id), 1);
    ++uses[args];
  }
  EXPECT_EQUAL(uses.size(), kScopes * kWriters);
  for (const auto& [args, count] : uses) EXPECT_EQUAL(count, 2);
  say("scopes and their arguments", contents.records);
}

void names_and_groups_from_all_threads() {
  constexpr uint32_t kNames = 400;
  const std::string paths[] = {trace_path("names-0"), trace_path("names-1")};
  Recording* recording = start_recording(paths[0]);
  std::vector<std::vector<uint32_t>> ids(kWriters);
  std::vector<std::thread> threads;
  for (uint32_t index = 0; index < kWriters; ++index) {
    threads.emplace_back([&ids, index] {
      for (uint32_t number = 0; number < kNames; ++number) {
        ids[index].push_back(Recorder::get().intern("name " + std::to_string(number)));
        if (number % 50 == 0) EXPECT(Recorder::get().define_group({1, 1, 0, 3, {index, number, 7}}) != 0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const uint32_t clipped = Recorder::get().intern(std::string(5000, 'x') + "\xc3\xa9");
  finish_recording(recording);
  Recording* second = start_recording(paths[1]);
  finish_recording(second);
  for (const std::string& path : paths) {
    const Contents contents = read_finished(path, FileState::kStopped);
    for (uint32_t index = 0; index < kWriters; ++index) {
      EXPECT(ids[index] == ids[0]);
      for (uint32_t number = 0; number < kNames; ++number) {
        EXPECT(contents.strings.at(ids[index][number]) == "name " + std::to_string(number));
      }
    }
    EXPECT_EQUAL(contents.strings.at(clipped).size(), kMaxNameBytes);
    EXPECT_EQUAL(contents.groups.size(), kWriters * kNames / 50);
    for (const auto& [group, members] : contents.groups) EXPECT(members.size() == 3 && members[2] == 7);
  }
  say("names and groups from all threads", kNames, "names");
}

// What the block writes to stderr goes to a file instead, and comes back as text.
std::string errors_of(const std::function<void()>& block) {
  const int kept = ::dup(STDERR_FILENO);
  std::FILE* file = std::tmpfile();
  EXPECT(kept >= 0 && file != nullptr && ::dup2(::fileno(file), STDERR_FILENO) >= 0);
  block();
  ::dup2(kept, STDERR_FILENO);
  ::close(kept);
  std::rewind(file);
  char text[4096];
  const size_t bytes = std::fread(text, 1, sizeof(text), file);
  std::fclose(file);
  return {text, bytes};
}

void ends_early(const char* scenario, uint64_t capacity, int64_t fault_after, FileState state, uint32_t error) {
  const std::string path = trace_path("early");
  Recording* recording = start_recording(path, capacity);
  if (fault_after >= 0) disk::inject_fault(fault_after, static_cast<int>(error));
  WriterThreads writers(kWriters, mark_name());
  const std::string errors = errors_of([&] {
    EXPECT(wait_until([] { return Recorder::get().current() == nullptr; }));
    EXPECT(resolver::wait_finished(recording, int64_t{60} * 1'000'000'000));
  });
  disk::inject_fault(0, 0);
  ::usleep(1000);  // writers go on in vain
  writers.stop();
  EXPECT(errors.find(path) != std::string::npos && errors.find('\n') == errors.size() - 1);
  EXPECT(std::filesystem::file_size(path) <= capacity);
  const Contents contents = read_finished(path, state, error);
  expect_exactly(writers, {contents});
  say(scenario, contents.records);
}

void no_room_at_the_start() {
  constexpr int kCallsNeeded = 3 + 4;  // create, the header's page, the mapping, and four chunks
  const std::string path = trace_path("start");
  for (int call = 0; call <= kCallsNeeded; ++call) {
    disk::inject_fault(call, ENOSPC);
    RecordingOptions options;
    options.path = path;
    int error = -1;
    EXPECT(Recorder::get().start(options, &error) == GateResult::kOk);
    disk::inject_fault(0, 0);
    EXPECT_EQUAL(error, call < kCallsNeeded ? ENOSPC : 0);
    EXPECT_EQUAL(Recorder::get().current() != nullptr, call == kCallsNeeded);
    EXPECT_EQUAL(std::filesystem::exists(path), call == kCallsNeeded);
  }
  all_recordings().push_back(Recorder::get().current());
  finish_recording(all_recordings().back());
  read_finished(path, FileState::kStopped);
  say("no room at the start", kCallsNeeded, "refused calls");
}

#ifdef WANHOOK_TEST_FORKS
void forks() {
  const std::string path = trace_path("forks");
  Recording* recording = start_recording(path);
  ScopeRequest request;
  request.name = mark_name();
  const Scope open = begin_scope(request);
  WriterThreads writers(kWriters, mark_name());
  for (int time = 0; time < 40; ++time) {
    writers.wait_for(200);
    fork_silent_child(recording, open);
  }
  fork_while_locks_are_held(recording);
  writers.wait_for(200);
  writers.stop();
  end_scope(open, 0);
  finish_recording(recording);
  const Contents contents = read_finished(path, FileState::kStopped);
  expect_exactly(writers, {contents});
  EXPECT_EQUAL(contents.threads.size(), kWriters + 1);
  EXPECT_EQUAL(contents.scope_ends.count(open.id), 1);
  for (const auto& [id, text] : contents.strings) EXPECT(text != kChildsName);
  say("forks", contents.records);
}
#endif

// Last, because there are no ids left afterwards.
void more_names_than_ids() {
  const std::string paths[] = {trace_path("many-0"), trace_path("many-1")};
  Recording* recording = start_recording(paths[0]);
  uint32_t refused = 0;
  for (uint32_t number = 0; number < kMaxStrings + 100; ++number) {
    refused += Recorder::get().intern("number " + std::to_string(number)) == 0;
  }
  EXPECT(refused >= 100 && mark_name() != 0);
  finish_recording(recording);
  finish_recording(start_recording(paths[1]));
  for (const std::string& path : paths) {
    const Contents contents = read_finished(path, FileState::kStopped);
    EXPECT_EQUAL(contents.strings.size(), kMaxStrings);
  }
  say("more names than ids", refused, "refused");
}

void run_all() {
  growth_under_a_live_reader();
  pause_and_resume();
  many_recordings_stopped_while_writing();
  threads_that_come_and_go();
  scopes_and_their_arguments();
  names_and_groups_from_all_threads();
  ends_early("disk full in the middle", uint64_t{1} << 30, 30, FileState::kDiskFull, ENOSPC);
  ends_early("capacity reached", uint64_t{6} << 20, -1, FileState::kFull, 0);
  no_room_at_the_start();
#ifdef WANHOOK_TEST_FORKS
  forks();
#endif
  more_names_than_ids();
}

}  // namespace
}  // namespace wanhook::test

int main(int count, char** arguments) {
  std::string pattern = (std::filesystem::temp_directory_path() / "wanhook-stress-XXXXXX").string();
  const std::filesystem::path directory = count > 1 ? arguments[1] : ::mkdtemp(pattern.data());
  std::filesystem::current_path(directory);
  wanhook::test::run_all();
  if (count == 1) std::filesystem::remove_all(directory);
  std::puts("stress: every scenario passed");
  return 0;
}
