// Spans between events that somebody else owns, resolved on a made-up GPU (fake_cuda): what is written, and when the
// owner is let go.
//
//   lent_events [TRACE]   writes a recording, which tests/integration/test_lent_events.py reads; removes it where no
//                         place is given
#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/recorder.h"
#include "device/device_timer.h"
#include "expect.h"

namespace wanhook::test {
namespace {

constexpr uint64_t kQueue = uint64_t{1} << 63;
DeviceTimer* timer = nullptr;
Recording* recording = nullptr;

// As a process group keeps them: shared, and counted.
struct Work {
  std::shared_ptr<CUevent_st> start = std::make_shared<CUevent_st>();
  std::shared_ptr<CUevent_st> end = std::make_shared<CUevent_st>();
  bool held() const { return start.use_count() > 1 || end.use_count() > 1; }
  void finish() { start->done = end->done = true; }
};
struct Keeper {
  std::shared_ptr<CUevent_st> start;
  std::shared_ptr<CUevent_st> end;
};

Work make_work(double begin_us, double end_us, bool done) {
  Work work;
  work.start->at_ms = begin_us * 1e-3;
  work.end->at_ms = end_us * 1e-3;
  work.start->done = work.end->done = done;
  return work;
}

uint32_t write_collective() {
  CollectiveRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kCollective);
  record.flags = kCollectiveAsync | kCollectiveTimed;
  record.id = Recording::next_id();
  record.tick = tick_now();
  EXPECT(recording->append(record) != nullptr);
  return record.id;
}

void lend(const Work& work, uint64_t queue) {
  const uint32_t index = timer->take_lent();
  EXPECT(index != EventPool::kNone);
  EventPair& pair = timer->pair(index);
  pair.begin = work.start.get();
  pair.end = work.end.get();
  pair.stream = reinterpret_cast<cudaStream_t>(queue);
  pair.recording = recording;
  pair.owner = write_collective();
  pair.owner_type = SpanOwner::kCollective;
  pair.keep(Keeper{work.start, work.end});
  recording->span_opened();
  timer->submit(index);
}

bool resolve() { return timer->resolve({recording}); }

void queues_do_not_wait_for_one_another() {
  Work first = make_work(100, 130, true);
  Work second = make_work(200, 260, false);
  Work other = make_work(150, 170, true);
  lend(first, kQueue | 1);
  lend(second, kQueue | 1);
  lend(other, kQueue | 2);
  EXPECT(first.held() && second.held() && other.held());
  EXPECT(resolve());
  EXPECT(!first.held() && second.held() && !other.held());
  EXPECT_EQUAL(recording->pending_spans(), 1);
  second.finish();
  EXPECT(!resolve());
  EXPECT(!second.held());
  EXPECT_EQUAL(timer->outstanding(), 0);
}

void own_pairs_go_beside_lent_ones() {
  const uint32_t index = timer->pool().take();
  EventPair& own = timer->pair(index);
  own.begin->at_ms = 0.300;
  own.end->at_ms = 0.310;
  own.recording = recording;
  own.owner = write_collective();
  own.owner_type = SpanOwner::kCollective;
  own.stream = nullptr;
  recording->span_opened();
  timer->submit(index);
  lend(make_work(305, 345, true), kQueue | 1);
  EXPECT_EQUAL(timer->outstanding(), 2);
  EXPECT(!resolve());
  EXPECT_EQUAL(timer->outstanding(), 0);
}

void events_without_a_time_cost_one_span() {
  Work never = make_work(400, 410, true);
  never.end->at_ms = NAN;
  lend(never, kQueue | 1);
  lend(make_work(500, 570, true), kQueue | 1);
  EXPECT(!resolve());
  EXPECT(!never.held() && !timer->failed());
  EXPECT_EQUAL(recording->file().dropped(), 1);
}

void places_are_used_again() {
  for (int round = 0; round < 1000; ++round) {
    const Work work = make_work(1000 + round, 1000.5 + round, true);
    lend(work, kQueue | 3);
    if (round % 8 == 7) EXPECT(!resolve());
    if (round % 8 == 7) EXPECT(!work.held());
    if (round % 64 == 63) recording->maintain();
  }
  EXPECT_EQUAL(timer->outstanding(), 0);
  EXPECT_EQUAL(recording->pending_spans(), 0);
}

void a_late_span_is_not_written_but_let_go() {
  Work late = make_work(5000, 5001, false);
  lend(late, kQueue | 1);
  resolve();
  recording->finish(FileState::kStopped, 0);
  late.finish();
  EXPECT(!resolve());
  EXPECT(!late.held());
}

void a_broken_device_keeps_nobody_waiting() {
  Work pending = make_work(6000, 6001, false);
  lend(pending, kQueue | 1);
  fake_cuda.broken = cudaErrorLaunchFailure;
  resolve();
  EXPECT(timer->failed());
  resolve();
  EXPECT_EQUAL(recording->pending_spans(), 0);
}

}  // namespace
}  // namespace wanhook::test

int main(int count, char** arguments) {
  using namespace wanhook;
  using namespace wanhook::test;
  RecordingOptions options;
  std::string pattern = (std::filesystem::temp_directory_path() / "lent_events-XXXXXX").string();
  const std::filesystem::path directory = count > 1 ? "" : ::mkdtemp(pattern.data());
  options.path = count > 1 ? arguments[1] : (directory / "trace").string();
  options.capacity_bytes = uint64_t{64} << 20;
  int error = 0;
  EXPECT(Recorder::get().start(options, &error) == GateResult::kOk && error == 0);
  recording = Recorder::get().current();
  recording->maintain();
  timer = new DeviceTimer(0);
  resolve();
  queues_do_not_wait_for_one_another();
  own_pairs_go_beside_lent_ones();
  events_without_a_time_cost_one_span();
  places_are_used_again();
  a_late_span_is_not_written_but_let_go();
  a_broken_device_keeps_nobody_waiting();
  if (!directory.empty()) std::filesystem::remove_all(directory);
  std::puts("lent_events: every scenario passed");
}
