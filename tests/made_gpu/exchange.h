// What ranks exchange, file by file, and how what they bring is summed.
#pragma once

#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace made_gpu {

// What one rank brings: the time at which its stream got there, and its bytes.
struct Brought {
  int64_t arrived;
  std::vector<char> bytes;
};

// Written at once: whoever finds the file finds all of it.
void bring(const std::string& path, int64_t arrived, const void* bytes, size_t size);
bool is_there(const std::string& path);
std::optional<Brought> look(const std::string& path);

size_t size_of(ncclDataType_t type);
// into = into op more; ncclAvg adds, and average() ends it.
void add(void* into, const void* more, size_t count, ncclDataType_t type, ncclRedOp_t op);
void average(void* values, size_t count, ncclDataType_t type, int ranks);

}  // namespace made_gpu
