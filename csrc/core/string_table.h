// Names, kept once for the whole process: ids stay the same over all of its recordings. Not synchronised.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>

namespace wanhook {

// Ids fit into 16 bits, where collectives keep them. A program that invents names without end (one a step, say) gets
// id 0, "no name", from there on.
inline constexpr uint32_t kMaxStrings = 65535;
inline constexpr size_t kMaxNameBytes = 1024;

class StringTable {
 public:
  // The id of `text`, cut to kMaxNameBytes; 0 when the table is full. `added` tells whether it is new.
  uint32_t intern(std::string_view text, bool* added) {
    // Not in the middle of a UTF-8 sequence: readers decode each name by itself.
    if (text.size() > kMaxNameBytes) {
      size_t end = kMaxNameBytes;
      while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
      text = text.substr(0, end);
    }
    *added = false;
    const auto found = ids_.find(text);
    if (found != ids_.end()) return found->second;
    if (texts_.size() >= kMaxStrings) return 0;
    texts_.emplace_back(text);
    const auto id = static_cast<uint32_t>(texts_.size());
    ids_.emplace(texts_.back(), id);
    *added = true;
    return id;
  }

  uint32_t size() const noexcept { return static_cast<uint32_t>(texts_.size()); }
  std::string_view text(uint32_t id) const { return texts_[id - 1]; }

 private:
  std::deque<std::string> texts_;  // a deque, because ids_ points into the strings
  std::unordered_map<std::string_view, uint32_t> ids_;
};

}  // namespace wanhook
