// Reads what a trace file has published, while it is written or afterwards, and checks every record in it.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "expect.h"
#include "numbered.h"

namespace wanhook::test {

// The chunks that follow a header page: in a writer's own mapping, or in one of ours.
struct ChunkRange {
  const Chunk* chunks;
  uint32_t count;
};

template <class Record>
Record as(const unsigned char* slot) noexcept {
  Record record;
  std::memcpy(&record, slot, kRecordBytes);
  return record;
}

// Calls visit(slot, text) for each published record with its text. Counts are loaded with acquire order: everything
// behind one was written before it.
template <class Visit>
uint64_t visit_records(const ChunkRange& range, Visit visit) {
  uint64_t records = 0;
  for (uint32_t index = 0; index < range.count; ++index) {
    const Chunk& chunk = range.chunks[index];
    const uint32_t magic = __atomic_load_n(&chunk.header.magic, __ATOMIC_ACQUIRE);
    if (magic == 0) continue;
    EXPECT_EQUAL(magic, kChunkMagic);
    EXPECT_EQUAL(chunk.header.sequence, index);
    const uint32_t count = __atomic_load_n(&chunk.header.count, __ATOMIC_ACQUIRE);
    EXPECT(count <= kChunkRecords);
    for (uint32_t slot = 0; slot < count;) {
      const unsigned char* record = chunk.records[slot++];
      std::string text;
      while (slot < count && chunk.records[slot][0] == static_cast<uint8_t>(Kind::kText)) {
        const auto piece = as<TextRecord>(chunk.records[slot++]);
        EXPECT(piece.bytes > 0 && piece.bytes <= kTextBytes);
        text.append(piece.text, piece.bytes);
      }
      visit(record, std::string_view(text), chunk.header.type);
    }
    records += count;
  }
  return records;
}

// A trace file mapped as another process would map it.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT(fd >= 0);
    struct stat status{};
    EXPECT(::fstat(fd, &status) == 0 && status.st_size >= kHeaderBytes);
    bytes_ = static_cast<size_t>(status.st_size);
    base_ = ::mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, fd, 0);
    EXPECT(base_ != MAP_FAILED);
    ::close(fd);
    EXPECT(std::memcmp(header().magic, kFileMagic, sizeof(kFileMagic)) == 0);
  }
  ~MappedFile() { ::munmap(base_, bytes_); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const FileHeader& header() const noexcept { return *static_cast<const FileHeader*>(base_); }
  FileState state() const noexcept {
    return static_cast<FileState>(__atomic_load_n(&header().state, __ATOMIC_ACQUIRE));
  }
  size_t bytes() const noexcept { return bytes_; }
  ChunkRange chunks() const noexcept {
    const auto* first = static_cast<const unsigned char*>(base_) + kHeaderBytes;
    return {reinterpret_cast<const Chunk*>(first), static_cast<uint32_t>((bytes_ - kHeaderBytes) / kChunkBytes)};
  }

 private:
  void* base_ = nullptr;
  size_t bytes_ = 0;
};

// The same chunks through the mapping of the recording itself: the view in which TSan sees both sides.
inline ChunkRange chunks_in_memory(Recording& recording) noexcept {
  const auto* header = reinterpret_cast<const unsigned char*>(recording.file().header());
  return {reinterpret_cast<const Chunk*>(header + kHeaderBytes), recording.file().used()};
}

// Everything of one file, checked.
struct Contents {
  std::map<uint32_t, std::vector<uint64_t>> numbers;  // by writer, ascending
  std::map<uint32_t, std::string> strings;
  std::map<uint32_t, std::vector<uint32_t>> groups;   // members by group
  std::map<uint32_t, std::string> scope_args;         // by scope id
  std::multiset<uint32_t> scope_ends;
  std::set<uint64_t> threads;                         // the operating system's ids
  std::vector<bool> gates;
  std::vector<EndRecord> ends;
  uint64_t last_drop = 0;
  uint64_t records = 0;
  uint32_t event_chunks = 0;

  void add(const unsigned char* slot, std::string_view text, uint8_t chunk_type);

 private:
  void add_mark(const MarkRecord& record, std::string_view text);
};

inline void Contents::add_mark(const MarkRecord& record, std::string_view text) {
  EXPECT_EQUAL(record.text_bytes, text.size());
  for (uint32_t writer = 0; writer < 64; ++writer) {
    if (record.scope != static_cast<uint32_t>(check_of(writer, record.request))) continue;
    EXPECT(text == make_text(writer, record.request));
    numbers[writer].push_back(record.request);
    return;
  }
  EXPECT(!"a mark of one of the writers");
}

inline void Contents::add(const unsigned char* slot, std::string_view text, uint8_t chunk_type) {
  const bool in_meta_chunk = chunk_type == static_cast<uint8_t>(ChunkType::kMeta);
  switch (static_cast<Kind>(slot[0])) {
    case Kind::kAllocator: {
      const auto record = as<AllocatorRecord>(slot);
      EXPECT(is_whole(record) && !in_meta_chunk);
      numbers[static_cast<uint32_t>(record.device)].push_back(record.sequence);
      return;
    }
    case Kind::kMark:
      return add_mark(as<MarkRecord>(slot), text);
    case Kind::kWriter:
      if (!in_meta_chunk) threads.insert(as<WriterRecord>(slot).tid);
      return;
    case Kind::kString: {
      const auto record = as<StringRecord>(slot);
      EXPECT_EQUAL(record.text_bytes, text.size());
      EXPECT(strings.emplace(record.id, text).second);
      return;
    }
    case Kind::kGroup: {
      const auto record = as<GroupRecord>(slot);
      std::vector<uint32_t> members(text.size() / sizeof(uint32_t));
      std::memcpy(members.data(), text.data(), text.size());
      EXPECT(groups.emplace(record.group, members).second);
      return;
    }
    case Kind::kScopeBegin:
      EXPECT(scope_args.emplace(as<ScopeBeginRecord>(slot).id, text).second);
      return;
    case Kind::kScopeEnd:
      scope_ends.insert(as<ScopeEndRecord>(slot).id);
      return;
    case Kind::kGate:
      return gates.push_back(as<GateRecord>(slot).open != 0);
    case Kind::kDrop:
      last_drop = as<DropRecord>(slot).total;
      return;
    case Kind::kEnd:
      return ends.push_back(as<EndRecord>(slot));
    case Kind::kMeta:
    case Kind::kClockAnchor:
    case Kind::kRecorderSample:
      EXPECT(in_meta_chunk);
      return;
    default:
      EXPECT(!"a kind that this program writes");
  }
}

inline Contents read_contents(const MappedFile& file) {
  Contents contents;
  const ChunkRange range = file.chunks();
  contents.records = visit_records(
      range, [&](const unsigned char* slot, std::string_view text, uint8_t type) { contents.add(slot, text, type); });
  for (auto& [writer, numbers] : contents.numbers) std::sort(numbers.begin(), numbers.end());
  for (uint32_t index = 0; index < range.count; ++index) {
    contents.event_chunks += range.chunks[index].header.type == static_cast<uint8_t>(ChunkType::kEvents);
  }
  return contents;
}

}  // namespace wanhook::test
