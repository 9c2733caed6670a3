#include "core/recorder.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "core/clock.h"

namespace wanhook {
namespace {

const ClockReading library_loaded = read_clocks();

// From the moment this library was loaded to now; both readings are a few ten ns wide.
double estimate_tick_period() noexcept {
  const ClockReading now = read_clocks();
  const auto ticks = static_cast<double>(now.tick - library_loaded.tick);
  return ticks > 0 ? static_cast<double>(now.monotonic - library_loaded.monotonic) / ticks : 0;
}

GateRecord make_gate_record(bool open) noexcept {
  GateRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kGate);
  record.open = open ? 1 : 0;
  record.tick = tick_now();
  return record;
}

bool write_string(Recording* recording, uint32_t id, std::string_view text) noexcept {
  StringRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kString);
  record.id = id;
  record.text_bytes = static_cast<uint32_t>(text.size());
  return recording->append_cold(record, text);
}

}  // namespace

Recorder::Gate Recorder::gate_;

Recorder& Recorder::get() noexcept {
  static auto* recorder = new Recorder();
  return *recorder;
}

Recorder::Recorder() {
  pthread_atfork(nullptr, nullptr, [] { close_gate_in_child(); });
}

void Recorder::close_gate_in_child() noexcept {
  gate_.forked_child.store(true, std::memory_order_relaxed);
  gate_.active.store(nullptr, std::memory_order_relaxed);
  gate_.current.store(nullptr, std::memory_order_relaxed);
  thread_state.recording = nullptr;
  thread_state.writer.bind(nullptr);
}

GateResult Recorder::start(RecordingOptions options, int* error) {
  *error = 0;
  if (in_forked_child()) return GateResult::kForkedChild;
  std::lock_guard<std::mutex> lock(gate_mutex_);
  if (current() != nullptr) return GateResult::kAlreadyRecording;
  options.life = static_cast<uint32_t>(recordings_.size());
  options.tick_period = estimate_tick_period();
  Recording* recording = Recording::create(options, error);
  if (recording == nullptr) return GateResult::kOk;
  recordings_.push_back(recording);
  unfinished_.push_back({recording, false, FileState::kRecording, 0});
  {
    // Under one lock with intern(): each name is either written here or by the intern() that adds it.
    std::lock_guard<std::mutex> names_lock(names_mutex_);
    named_ = recording;
    strings_written_ = 0;
    groups_written_ = 0;
    while (!write_names(recording) && recording->maintain() && recording->file().ready() > 0) continue;
    gate_.current.store(recording, std::memory_order_release);
  }
  gate_.holds.store(0, std::memory_order_relaxed);
  gate_.active.store(recording, std::memory_order_release);
  wake_resolver();
  return GateResult::kOk;
}

bool Recorder::is_current(const Recording* expected) noexcept {
  const Recording* recording = current();
  return recording != nullptr && (expected == nullptr || recording == expected);
}

GateResult Recorder::pause(Hold reason, const Recording* expected) noexcept {
  if (in_forked_child()) return GateResult::kForkedChild;
  std::lock_guard<std::mutex> lock(gate_mutex_);
  if (!is_current(expected)) return GateResult::kNotRecording;
  gate_.holds.fetch_or(static_cast<uint8_t>(reason), std::memory_order_relaxed);
  if (gate_.active.exchange(nullptr, std::memory_order_acq_rel) != nullptr)
    current()->append_cold(make_gate_record(false));
  return GateResult::kOk;
}

GateResult Recorder::resume(Hold reason, const Recording* expected) noexcept {
  if (in_forked_child()) return GateResult::kForkedChild;
  std::lock_guard<std::mutex> lock(gate_mutex_);
  if (!is_current(expected)) return GateResult::kNotRecording;
  Recording* recording = current();
  const auto left = static_cast<uint8_t>(gate_.holds.load(std::memory_order_relaxed) & ~static_cast<uint8_t>(reason));
  gate_.holds.store(left, std::memory_order_relaxed);
  if (left == 0 && active() == nullptr) {
    recording->append_cold(make_gate_record(true));
    gate_.active.store(recording, std::memory_order_release);
    wake_resolver();
  }
  return GateResult::kOk;
}

GateResult Recorder::stop(FileState state, uint32_t error, const Recording* expected) noexcept {
  if (in_forked_child()) return GateResult::kForkedChild;
  std::lock_guard<std::mutex> lock(gate_mutex_);
  if (!is_current(expected)) return GateResult::kNotRecording;
  Recording* recording = current();
  gate_.active.store(nullptr, std::memory_order_release);
  gate_.holds.store(0, std::memory_order_relaxed);
  {
    std::lock_guard<std::mutex> names_lock(names_mutex_);
    gate_.current.store(nullptr, std::memory_order_release);
  }
  for (Unfinished& each : unfinished_) {
    if (each.recording == recording) each = {recording, true, state, error};
  }
  wake_resolver();
  return GateResult::kOk;
}

uint32_t Recorder::intern(std::string_view text) noexcept {
  if (in_forked_child()) return 0;
  std::lock_guard<std::mutex> lock(names_mutex_);
  bool added = false;
  const uint32_t id = strings_.intern(text, &added);
  if (id == 0) names_ran_out_ = true;
  Recording* recording = current();
  if (added && recording != nullptr) write_names(recording);
  return id;
}

uint16_t Recorder::define_group(GroupInfo group) noexcept {
  if (in_forked_child()) return 0;
  std::lock_guard<std::mutex> lock(names_mutex_);
  if (groups_.size() >= UINT16_MAX) return 0;
  groups_.push_back(std::move(group));
  const auto index = static_cast<uint16_t>(groups_.size());
  Recording* recording = current();
  if (recording != nullptr) write_names(recording);
  return index;
}

bool Recorder::write_names(Recording* recording) noexcept {
  for (; strings_written_ < strings_.size(); ++strings_written_) {
    const uint32_t id = strings_written_ + 1;
    if (!write_string(recording, id, strings_.text(id))) return false;
  }
  for (; groups_written_ < groups_.size(); ++groups_written_) {
    if (!write_group(recording, static_cast<uint16_t>(groups_written_ + 1), groups_[groups_written_])) return false;
  }
  return true;
}

bool Recorder::write_missing_names(Recording* recording) noexcept {
  std::unique_lock<std::mutex> lock(names_mutex_);
  const bool complete = recording != named_ || write_names(recording);
  if (names_ran_out_ && !said_names_ran_out_) {
    said_names_ran_out_ = true;
    lock.unlock();
    say_and_note("there are " + std::to_string(kMaxStrings) +
                 " different names, and no room for more: what is named later has no name (put what varies into "
                 "arguments, as in trace(\"step\", number=7))");
  }
  return complete;
}

bool Recorder::write_group(Recording* recording, uint16_t index, const GroupInfo& group) noexcept {
  const std::string_view members(reinterpret_cast<const char*>(group.members.data()),
                                 std::min(group.members.size() * sizeof(uint32_t), kMaxTextBytes));
  GroupRecord record{};
  record.kind = static_cast<uint8_t>(Kind::kGroup);
  record.group = index;
  record.name = group.name;
  record.backend = group.backend;
  record.rank = group.rank;
  record.size = group.size;
  record.text_bytes = static_cast<uint32_t>(members.size());
  return recording->append_cold(record, members);
}

void Recorder::say(const std::string& sentence) noexcept {
  if (in_forked_child()) return;
  const std::string line = "wanhook: " + sentence + "\n";
  if (::write(STDERR_FILENO, line.data(), line.size()) < 0) return;
}

void Recorder::say_and_note(const std::string& sentence) noexcept {
  if (in_forked_child()) return;
  say(sentence);
  std::lock_guard<std::mutex> lock(names_mutex_);
  notes_.push_back(sentence);
}

std::vector<std::string> Recorder::notes() {
  if (in_forked_child()) return {};
  std::lock_guard<std::mutex> lock(names_mutex_);
  return notes_;
}

std::vector<Recorder::Unfinished> Recorder::unfinished() {
  std::lock_guard<std::mutex> lock(gate_mutex_);
  return unfinished_;
}

void Recorder::forget(Recording* recording) noexcept {
  std::lock_guard<std::mutex> lock(gate_mutex_);
  unfinished_.erase(std::remove_if(unfinished_.begin(), unfinished_.end(),
                                   [&](const Unfinished& each) { return each.recording == recording; }),
                    unfinished_.end());
}

}  // namespace wanhook
