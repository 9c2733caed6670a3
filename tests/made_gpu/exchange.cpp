#include "exchange.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace made_gpu {
namespace {

float from_bfloat(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

uint16_t to_bfloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <class Value>
Value joined(Value a, Value b, ncclRedOp_t op) {
  switch (op) {
    case ncclProd:
      return static_cast<Value>(a * b);
    case ncclMax:
      return std::max(a, b);
    case ncclMin:
      return std::min(a, b);
    default:
      return static_cast<Value>(a + b);
  }
}

template <class Value>
void add_as(void* into, const void* more, size_t count, ncclRedOp_t op) {
  auto* a = static_cast<Value*>(into);
  const auto* b = static_cast<const Value*>(more);
  for (size_t index = 0; index < count; ++index) a[index] = joined(a[index], b[index], op);
}

}  // namespace

void bring(const std::string& path, int64_t arrived, const void* bytes, size_t size) {
  const std::string draft = path + ".draft";
  const int file = open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) return;
  bool whole = write(file, &arrived, sizeof arrived) == sizeof arrived;
  for (size_t done = 0; whole && done < size;) {
    const ssize_t wrote = write(file, static_cast<const char*>(bytes) + done, size - done);
    whole = wrote > 0;
    done += whole ? static_cast<size_t>(wrote) : 0;
  }
  close(file);
  if (whole) rename(draft.c_str(), path.c_str());
}

bool is_there(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::optional<Brought> look(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return std::nullopt;
  Brought found{};
  struct stat status{};
  fstat(file, &status);
  found.bytes.resize(static_cast<size_t>(status.st_size) - sizeof found.arrived);
  bool whole = read(file, &found.arrived, sizeof found.arrived) == sizeof found.arrived;
  for (size_t done = 0; whole && done < found.bytes.size();) {
    const ssize_t got = read(file, found.bytes.data() + done, found.bytes.size() - done);
    whole = got > 0;
    done += whole ? static_cast<size_t>(got) : 0;
  }
  close(file);
  return whole ? std::optional<Brought>(std::move(found)) : std::nullopt;
}

size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
    case ncclFloat8e4m3:
    case ncclFloat8e5m2:
      return 1;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
      return 4;
    default:
      return 8;
  }
}

void add(void* into, const void* more, size_t count, ncclDataType_t type, ncclRedOp_t op) {
  switch (type) {
    case ncclFloat32:
      return add_as<float>(into, more, count, op);
    case ncclFloat64:
      return add_as<double>(into, more, count, op);
    case ncclInt32:
      return add_as<int32_t>(into, more, count, op);
    case ncclUint32:
      return add_as<uint32_t>(into, more, count, op);
    case ncclInt64:
      return add_as<int64_t>(into, more, count, op);
    case ncclUint64:
      return add_as<uint64_t>(into, more, count, op);
    case ncclInt8:
      return add_as<int8_t>(into, more, count, op);
    case ncclFloat16:
      return add_as<_Float16>(into, more, count, op);
    case ncclBfloat16: {
      auto* a = static_cast<uint16_t*>(into);
      const auto* b = static_cast<const uint16_t*>(more);
      for (size_t index = 0; index < count; ++index) {
        a[index] = to_bfloat(joined(from_bfloat(a[index]), from_bfloat(b[index]), op));
      }
      return;
    }
    default:
      return add_as<uint8_t>(into, more, count, op);
  }
}

void average(void* values, size_t count, ncclDataType_t type, int ranks) {
  for (size_t index = 0; index < count; ++index) {
    if (type == ncclFloat32) static_cast<float*>(values)[index] /= static_cast<float>(ranks);
    if (type == ncclFloat64) static_cast<double*>(values)[index] /= ranks;
    if (type == ncclBfloat16) {
      auto* bits = static_cast<uint16_t*>(values) + index;
      *bits = to_bfloat(from_bfloat(*bits) / static_cast<float>(ranks));
    }
  }
}

}  // namespace made_gpu
