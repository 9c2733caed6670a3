// NCCL between processes of one machine: ranks meet in a folder of shared memory and exchange their data there.
//
// A file is what one rank brings: the time at which its stream got there, and its bytes. A call is over when every rank
// that takes part has come, some microseconds after the last of them. Calls of a communicator take turns, as NCCL's do.
// Half floats are added as such, everything else in its own type.
#include <nccl.h>

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "exchange.h"
#include "gpu.h"

using namespace made_gpu;

struct ncclComm {
  std::string folder;
  int ranks = 1;
  int rank = 0;
  int device = 0;
  uint64_t issued = 0;  // calls of this rank, and how many of them are over
  uint64_t over = 0;
  int64_t time = 0;  // when the last of them was
  bool aborted = false;
  int splits = 0;
  std::map<int, uint64_t> sent, received;  // point-to-point calls by peer
};

namespace {

enum class What { kAllGather, kAllReduce, kReduce, kReduceScatter, kBroadcast, kAllToAll, kSend, kRecv };

struct Part {
  What what;
  const void* send = nullptr;
  void* receive = nullptr;
  size_t count = 0;
  ncclDataType_t type = ncclInt8;
  ncclRedOp_t op = ncclSum;
  int peer = 0;  // root, or the other one
};

struct Group {
  ncclComm* comm;
  cudaStream_t stream;
  std::vector<Part> parts;
};

thread_local int depth = 0;
thread_local std::vector<Group> open_groups;

// One call of one rank ------------------------------------------------------------------------------------------------

class Running {
 public:
  Running(ncclComm* comm, std::vector<Part> parts) : comm_(comm), parts_(std::move(parts)), turn_(comm->issued++) {
    for (Part& part : parts_) numbers_.push_back(number_of(part));
  }

  bool operator()(int64_t* time) {
    if (comm_->over != turn_) return false;
    if (!arrived_) {
      arrived_ = std::max(*time, comm_->time);
      for (size_t index = 0; index < parts_.size(); ++index) bring_part(index);
    }
    if (!comm_->aborted && !all_came()) return false;
    if (!comm_->aborted) finish();
    *time = std::max(*arrived_, last_) + 8'000 + static_cast<int64_t>(bytes_ / 200);
    comm_->time = *time;
    ++comm_->over;
    return true;
  }

 private:
  // Collectives are numbered by turns; calls between two ranks by how many of them there were.
  uint64_t number_of(const Part& part) {
    if (part.what == What::kSend) return comm_->sent[part.peer]++;
    if (part.what == What::kRecv) return comm_->received[part.peer]++;
    return turn_;
  }

  std::string path(size_t index, int from, int to = -1) const {
    const bool pair = to >= 0;
    std::string name = comm_->folder + (pair ? "/p." : "/c.") + std::to_string(numbers_[index]);
    if (!pair) name += "." + std::to_string(index);
    return name + "." + std::to_string(from) + (pair ? "." + std::to_string(to) : "");
  }

  size_t sent_bytes(const Part& part) const {
    const bool all = part.what == What::kReduceScatter || part.what == What::kAllToAll;
    return part.count * size_of(part.type) * static_cast<size_t>(all ? comm_->ranks : 1);
  }

  // Larger ones move nothing.
  size_t moved_bytes(const Part& part) const { return sent_bytes(part) <= kMovedBytes ? sent_bytes(part) : 0; }

  void bring_part(size_t index) {
    const Part& part = parts_[index];
    const int me = comm_->rank;
    bytes_ += sent_bytes(part);
    if (part.what == What::kSend) return bring(path(index, me, part.peer), *arrived_, part.send, moved_bytes(part));
    if (part.what == What::kRecv) return bring(path(index, part.peer, me) + ".ready", *arrived_, nullptr, 0);
    bring(path(index, me), *arrived_, part.send, moved_bytes(part));
  }

  bool all_came() {
    for (size_t index = 0; index < parts_.size(); ++index) {
      const Part& part = parts_[index];
      if (part.what == What::kSend) {
        if (!is_there(path(index, comm_->rank, part.peer) + ".ready")) return false;
      } else if (part.what == What::kRecv) {
        if (!is_there(path(index, part.peer, comm_->rank))) return false;
      } else {
        for (int rank = 0; rank < comm_->ranks; ++rank) {
          if (!is_there(path(index, rank))) return false;
        }
      }
    }
    return true;
  }

  std::vector<char> taken(const std::string& where) {
    std::optional<Brought> found = look(where);
    if (!found) return {};
    last_ = std::max(last_, found->arrived);
    return std::move(found->bytes);
  }

  void finish() {
    for (size_t index = 0; index < parts_.size(); ++index) finish_part(index);
    // Whoever has come to this turn has read what was brought two turns ago.
    if (turn_ >= 2 && !parts_.empty() && parts_[0].what < What::kSend) {
      unlink((comm_->folder + "/c." + std::to_string(turn_ - 2) + ".0." + std::to_string(comm_->rank)).c_str());
    }
  }

  void finish_part(size_t index) {
    const Part& part = parts_[index];
    const size_t each = part.count * size_of(part.type);
    auto* out = static_cast<char*>(part.receive);
    if (part.what == What::kSend) {
      const std::string ready = path(index, comm_->rank, part.peer) + ".ready";
      taken(ready);
      unlink(ready.c_str());
      return;
    }
    if (part.what == What::kRecv) {
      const std::string where = path(index, part.peer, comm_->rank);
      const std::vector<char> bytes = taken(where);
      std::memcpy(out, bytes.data(), std::min(bytes.size(), each));
      unlink(where.c_str());
      return;
    }
    std::vector<char> sum;
    for (int rank = 0; rank < comm_->ranks; ++rank) {
      const std::vector<char> bytes = taken(path(index, rank));
      if (moved_bytes(part) == 0) continue;
      const size_t mine = each * static_cast<size_t>(comm_->rank);
      if (part.what == What::kAllGather) std::memcpy(out + each * static_cast<size_t>(rank), bytes.data(), each);
      if (part.what == What::kAllToAll) std::memcpy(out + each * static_cast<size_t>(rank), bytes.data() + mine, each);
      if (part.what == What::kBroadcast && rank == part.peer) std::memcpy(out, bytes.data(), each);
      const bool scattered = part.what == What::kReduceScatter;
      if (part.what != What::kAllReduce && part.what != What::kReduce && !scattered) continue;
      const char* from = bytes.data() + (scattered ? mine : 0);
      if (sum.empty())
        sum.assign(from, from + each);
      else
        add(sum.data(), from, part.count, part.type, part.op);
    }
    if (sum.empty() || (part.what == What::kReduce && comm_->rank != part.peer)) return;
    if (part.op == ncclAvg) average(sum.data(), part.count, part.type, comm_->ranks);
    std::memcpy(out, sum.data(), each);
  }

  ncclComm* comm_;
  std::vector<Part> parts_;
  std::vector<uint64_t> numbers_;
  uint64_t turn_;
  std::optional<int64_t> arrived_;
  int64_t last_ = 0;
  size_t bytes_ = 0;
};

ncclResult_t issue(const Group& group) {
  const Locked locked;
  Stream* stream = locked.machine.stream_of(group.stream);
  if (stream->capture != nullptr) {
    stream->capture->length += 8'000;
    return ncclSuccess;
  }
  auto running = std::make_shared<Running>(group.comm, group.parts);
  locked.machine.issue(stream, [running](int64_t* time) { return (*running)(time); });
  return ncclSuccess;
}

ncclResult_t call(ncclComm* comm, cudaStream_t stream, Part part) {
  if (depth == 0) return issue({comm, stream, {part}});
  for (Group& group : open_groups) {
    if (group.comm == comm) {
      group.parts.push_back(part);
      return ncclSuccess;
    }
  }
  open_groups.push_back({comm, stream, {part}});
  return ncclSuccess;
}

ncclResult_t join(ncclComm** comm, int ranks, const ncclUniqueId& id, int rank) {
  auto* fresh = new ncclComm();
  fresh->folder = id.internal;
  fresh->ranks = ranks;
  fresh->rank = rank;
  fresh->device = current_device;
  mkdir(fresh->folder.c_str(), 0700);
  *comm = fresh;
  return ncclSuccess;
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<int> next{0};
  std::memset(id, 0, sizeof *id);
  std::snprintf(id->internal, sizeof id->internal, "%s/made-nccl-%d-%d-%lld",
                std::getenv("MADE_GPU_SHARED") != nullptr ? std::getenv("MADE_GPU_SHARED") : "/dev/shm", getpid(),
                next++, static_cast<long long>(now()));
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t) { return "an error of the made-up NCCL"; }
const char* ncclGetLastError(ncclComm_t) { return ""; }
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t*) {
  return join(comm, ranks, id, rank);
}
ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  return join(comm, ranks, id, rank);
}
ncclResult_t ncclCommInitRankScalable(ncclComm_t* comm, int ranks, int rank, int, ncclUniqueId* ids, ncclConfig_t*) {
  return join(comm, ranks, ids[0], rank);
}
// Blocks until all ranks have come, as the real one does.
ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* made, ncclConfig_t*) {
  const std::string folder = comm->folder + "/split-" + std::to_string(comm->splits++);
  mkdir(folder.c_str(), 0700);
  const int mine[2] = {color, key};
  bring(folder + "/" + std::to_string(comm->rank), 0, mine, sizeof mine);
  std::vector<std::pair<int, int>> members;  // of this color, by key and rank
  for (int rank = 0; rank < comm->ranks; ++rank) {
    std::optional<Brought> found;
    while (!found) {
      found = look(folder + "/" + std::to_string(rank));
      if (!found) usleep(200);
    }
    int theirs[2];
    std::memcpy(theirs, found->bytes.data(), sizeof theirs);
    if (theirs[0] == color) members.emplace_back(theirs[1], rank);
  }
  *made = nullptr;
  if (color == NCCL_SPLIT_NOCOLOR) return ncclSuccess;
  std::sort(members.begin(), members.end());
  const auto place = std::find(members.begin(), members.end(), std::make_pair(key, comm->rank));
  ncclUniqueId id{};
  std::snprintf(id.internal, sizeof id.internal, "%s/%d", folder.c_str(), color);
  return join(made, static_cast<int>(members.size()), id, static_cast<int>(place - members.begin()));
}
ncclResult_t ncclCommFinalize(ncclComm_t) { return ncclSuccess; }
ncclResult_t ncclCommDestroy(ncclComm_t) { return ncclSuccess; }  // what was issued may still run: it is kept
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const Locked locked;
  comm->aborted = true;
  return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* error) {
  *error = ncclSuccess;
  return ncclSuccess;
}
ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) {
  *count = comm->ranks;
  return ncclSuccess;
}
ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
  *rank = comm->rank;
  return ncclSuccess;
}
ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int* device) {
  *device = comm->device;
  return ncclSuccess;
}
ncclResult_t ncclCommRegister(const ncclComm_t, void*, size_t, void**) { return ncclSuccess; }
ncclResult_t ncclCommDeregister(const ncclComm_t, void*) { return ncclSuccess; }

ncclResult_t ncclGroupStart() {
  ++depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (--depth > 0) return ncclSuccess;
  for (const Group& group : std::exchange(open_groups, {})) issue(group);
  return ncclSuccess;
}

ncclResult_t ncclAllGather(const void* send, void* receive, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return call(comm, stream, {What::kAllGather, send, receive, count, type, ncclSum, 0});
}
ncclResult_t ncclAllReduce(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {What::kAllReduce, send, receive, count, type, op, 0});
}
ncclResult_t ncclReduce(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {What::kReduce, send, receive, count, type, op, root});
}
ncclResult_t ncclReduceScatter(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {What::kReduceScatter, send, receive, count, type, op, 0});
}
ncclResult_t ncclBroadcast(const void* send, void* receive, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {What::kBroadcast, send, receive, count, type, ncclSum, root});
}
ncclResult_t ncclBcast(void* buffer, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                       cudaStream_t stream) {
  return ncclBroadcast(buffer, buffer, count, type, root, comm, stream);
}
ncclResult_t ncclAlltoAll(const void* send, void* receive, size_t count, ncclDataType_t type, ncclComm_t comm,
                          cudaStream_t stream) {
  return call(comm, stream, {What::kAllToAll, send, receive, count, type, ncclSum, 0});
}
ncclResult_t ncclSend(const void* send, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return call(comm, stream, {What::kSend, send, nullptr, count, type, ncclSum, peer});
}
ncclResult_t ncclRecv(void* receive, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return call(comm, stream, {What::kRecv, nullptr, receive, count, type, ncclSum, peer});
}

}  // extern "C"
