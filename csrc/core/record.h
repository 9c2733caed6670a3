// The wanhook trace format, version 1: what one rank's file holds, byte by byte.
//
// This header and wanhook/tracefile/format.py are the only two places that know offsets; tests/unit/test_format.py
// compares them. docs/trace-format.md is the published form.
//
// Everything is little-endian. A file is one header page and then fixed-size chunks. A chunk is an array of 64-byte
// slots: slot 0 is its header, the others are records. A record that needs more room is followed directly, in the
// same chunk, by `Text` records that carry its payload; a record and its payload are published together.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wanhook {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the trace format is little-endian");

inline constexpr unsigned char kFileMagic[8] = {0x89, 'W', 'H', 'K', '\r', '\n', 0x1a, '\n'};
inline constexpr uint16_t kFormatMajor = 1;
inline constexpr uint16_t kFormatMinor = 0;
inline constexpr uint32_t kHeaderBytes = 4096;
inline constexpr uint32_t kChunkBytes = 256 * 1024;
inline constexpr uint32_t kRecordBytes = 64;
inline constexpr uint32_t kChunkRecords = kChunkBytes / kRecordBytes - 1;
inline constexpr uint32_t kChunkMagic = 0x4b4e4843;  // "CHNK"
inline constexpr uint32_t kTextBytes = 60;           // payload of one Text record

// What the writer last said about itself. A file that still says kRecording and whose process is gone has crashed.
enum class FileState : uint32_t { kRecording = 0, kStopped = 1, kFull = 2, kDiskFull = 3, kFailed = 4, kExited = 5 };

enum class ChunkType : uint8_t { kUnused = 0, kMeta = 1, kEvents = 2, kState = 3 };

enum class Kind : uint8_t {
  kEmpty = 0,
  kText = 1,
  kWriter = 2,
  kMeta = 3,
  kString = 4,
  kGroup = 5,
  kScopeBegin = 8,
  kScopeEnd = 9,
  kMark = 10,
  kCollective = 16,
  kCollectiveEnd = 17,
  kGpuSpan = 24,
  kKernelSpan = 25,
  kAllocator = 32,
  kStateBegin = 33,
  kSegmentState = 34,
  kBlockState = 35,
  kStateEnd = 36,
  kMemorySample = 40,
  kDeviceSample = 41,
  kRecorderSample = 42,
  kAllocatorSample = 43,
  kClockAnchor = 48,
  kDrop = 56,
  kGate = 57,
  kEnd = 63,
};

struct FileHeader {
  unsigned char magic[8];
  uint16_t major;
  uint16_t minor;
  uint32_t header_bytes;
  uint32_t chunk_bytes;
  uint32_t record_bytes;
  uint64_t capacity_bytes;   // the cap this recording was started with
  uint32_t pid;
  uint32_t life;             // 0 for the first recording of this process, 1 for the second, ...
  uint64_t start_tick;
  int64_t start_monotonic;   // ns, CLOCK_MONOTONIC
  int64_t start_realtime;    // ns, CLOCK_REALTIME
  double tick_period;        // ns a tick, estimated at start; anchors supersede it; 0 when unknown
  uint32_t state;            // FileState, stored with release order
  uint32_t error;            // errno behind kDiskFull and kFailed
  uint64_t dropped;          // records lost so far, stored relaxed
  int64_t heartbeat;         // ns, CLOCK_MONOTONIC, of the resolver's last round
};
static_assert(sizeof(FileHeader) == 96);

struct ChunkHeader {
  uint32_t magic;
  uint8_t type;          // ChunkType
  uint8_t reserved0[3];
  uint64_t sequence;     // order in which writers took the chunks
  uint32_t generation;   // 0; counts reuse of this place under the policy `wrap`
  uint32_t count;        // records published, this header not counted; stored with release order
  uint64_t first_tick;   // when the chunk was taken
  uint8_t reserved1[32];
};
static_assert(sizeof(ChunkHeader) == kRecordBytes);

// Payload of the record before it (strings, JSON, group members), in order.
struct TextRecord {
  uint8_t kind;
  uint8_t reserved0;
  uint16_t bytes;  // used bytes of text
  char text[kTextBytes];
};

// The records that follow in this chunk were written by this thread, until the next WriterRecord.
struct WriterRecord {
  uint8_t kind;
  uint8_t reserved0[3];
  uint32_t thread;   // index of the thread in this process, 1 for the first
  uint64_t tick;
  uint64_t tid;      // the operating system's thread id
  char name[40];     // NUL-padded
};

// A JSON object; objects of one file are merged in file order, later keys win.
struct MetaRecord {
  uint8_t kind;
  uint8_t reserved0[3];
  uint32_t text_bytes;
  uint64_t tick;
  uint8_t reserved1[48];
};

struct StringRecord {
  uint8_t kind;
  uint8_t reserved0[3];
  uint32_t id;           // 1..65535; 0 means "no name"
  uint32_t text_bytes;   // UTF-8, in the Text records behind
  uint8_t reserved1[52];
};

// A process group; its members' global ranks follow as uint32 in Text records when they are known.
struct GroupRecord {
  uint8_t kind;
  uint8_t reserved0;
  uint16_t group;        // 1..65535
  uint32_t name;         // string id
  uint32_t backend;      // string id
  int32_t rank;          // this process's rank in the group
  int32_t size;
  uint32_t text_bytes;   // 4 * number of members, or 0
  uint8_t reserved1[40];
};

enum class ScopeLevel : uint8_t { kStage = 0, kBlock = 1, kOp = 2 };
enum class ScopeType : uint8_t { kTrace = 0, kWait = 1 };
// A step of the perturbation check, and whether what happened inside it was recorded.
enum class ScopeVerify : uint8_t { kNone = 0, kRecorded = 1, kMuted = 2 };

struct ScopeBeginRecord {
  uint8_t kind;
  uint8_t level;         // ScopeLevel
  uint8_t type;          // ScopeType
  int8_t device;         // of the timed stream; -1 when not timed
  uint32_t name;         // string id
  uint64_t tick;
  uint32_t id;           // never 0; one number space with collectives, over all recordings of the process
  uint32_t parent;       // 0 for a root; an id that is not in this file began before it
  uint64_t stream;       // cudaStream_t of the begin and end event
  uint32_t request;      // groups the scopes of one request; 0 when unknown
  uint32_t text_bytes;   // JSON object of the arguments, in Text records behind
  uint8_t timed;         // 1 when a GpuSpan will follow
  uint8_t verify;        // ScopeVerify
  uint8_t reserved1[22];
};

enum ScopeEndFlags : uint8_t { kScopeException = 1, kScopeClosedByOuter = 2 };

struct ScopeEndRecord {
  uint8_t kind;
  uint8_t flags;
  uint8_t reserved0[2];
  uint32_t id;
  uint64_t tick;
  uint8_t reserved1[48];
};

struct MarkRecord {
  uint8_t kind;
  uint8_t reserved0[3];
  uint32_t name;
  uint64_t tick;
  uint32_t scope;
  uint32_t text_bytes;   // JSON object of the arguments
  uint32_t request;
  uint8_t reserved1[36];
};

enum CollectiveFlags : uint8_t {
  kCollectiveAsync = 1,
  kCollectiveP2p = 2,
  kCollectiveCaptured = 4,    // issued into a CUDA graph: its replays are not counted
  kCollectiveCoalesced = 8,   // member of a coalesced group, or the group itself
  kCollectiveTimed = 16,      // a GpuSpan (CUDA) or a completion (host) will follow, unless the end says otherwise
  kCollectiveGroup = 32,      // stands for a coalesced group: `tensors` counts its members
  kCollectiveAroundEvents = 64,  // synchronous: two timing events of NCCL's lie within the two of ours
};

struct CollectiveRecord {
  uint8_t kind;
  uint8_t flags;
  uint16_t op;           // string id, e.g. "alltoall_base_"
  uint16_t role;         // string id, 0 when untagged
  uint16_t group;
  uint64_t tick;         // when the call began on the host
  uint32_t id;
  uint32_t scope;        // innermost open scope of the calling thread
  uint64_t bytes_in;
  uint64_t bytes_out;
  uint64_t stream;       // the caller's current stream, 0 on the CPU
  uint32_t sequence;     // per group in call order, P2P and coalesced groups apart; counted also when not recording
  int32_t peer;          // P2P: rank in the group; rooted ops: the root; -1 otherwise
  uint16_t tensors;      // input tensors, 65535 when more
  uint8_t dtype;         // c10::ScalarType, 255 when mixed or none
  int8_t device;         // -1 CPU
  uint32_t coalesced;    // number of the coalesced group in this process, 0 when not coalesced
};

enum class CollectivePhase : uint8_t { kReturned = 1, kCompleted = 2, kFailed = 3 };

enum CollectiveEndFlags : uint8_t {
  kCollectiveUntimed = 1,  // in spite of kCollectiveTimed nothing more will follow: the work does not show its time
};

// Its unit is told by the thread that called, here because the call's own record is full.
struct CollectiveEndRecord {
  uint8_t kind;
  uint8_t phase;         // returned: the host call came back; completed/failed: the work ended (host backends)
  uint8_t flags;         // CollectiveEndFlags
  uint8_t reserved0;
  uint32_t id;
  uint64_t tick;
  uint16_t unit;         // string id of what the call was made for, e.g. "WanModel blocks.3"; 0 when untold
  uint8_t reserved1[46];
};

enum class SpanOwner : uint8_t { kScope = 1, kCollective = 2 };
enum class SpanClass : uint8_t { kUnknown = 0, kBusyAlone = 1, kOverlapped = 2, kIdle = 3 };

// A stream interval: from the moment the stream reached the begin event to the moment it reached the end event.
struct GpuSpanRecord {
  uint8_t kind;
  uint8_t span_class;    // SpanClass
  uint8_t owner_type;    // SpanOwner
  int8_t device;
  uint32_t owner;        // id of the scope or collective
  int64_t begin;         // ns on the device's GPU timeline (ClockAnchorRecord)
  int64_t end;
  uint64_t stream;       // cudaStream_t; with bit 63 set: a number that stands for a stream of NCCL's own
  uint32_t begin_slack;  // ns: the work itself began within [begin, begin + begin_slack]; 0 when not bounded
  uint32_t end_slack;    // ns: the work itself ended within [end - end_slack, end]
  uint32_t reference;    // index of the reference event it was measured against
  uint8_t reserved1[20];
};

// A kernel on the device, as CUPTI recorded it: from the begin of its first block to the end of its last one. It names
// no collective: a reader joins the two by the launch.
struct KernelSpanRecord {
  uint8_t kind;
  uint8_t reserved0[2];
  int8_t device;
  uint32_t name;         // string id, without template arguments and parameters
  int64_t begin;         // ns, CLOCK_REALTIME
  int64_t end;
  int64_t launch;        // ns, CLOCK_REALTIME: begin of the host's call that launched it; 0 when unknown
  uint64_t stream_number;  // CUPTI's number of the stream, which is no cudaStream_t
  uint32_t window;       // id of the scope in which kernels were recorded
  uint8_t reserved1[20];
};

enum class AllocatorAction : uint8_t {
  kUnknown = 0,
  kAlloc = 1,
  kFreeRequested = 2,
  kFreeCompleted = 3,
  kSegmentAlloc = 4,
  kSegmentFree = 5,
  kSegmentMap = 6,
  kSegmentUnmap = 7,
  kSnapshot = 8,
  kOom = 9,
  kAnnotate = 10,
};

enum AllocatorFlags : uint8_t {
  kFreeFolded = 1,  // this FREE_REQUESTED was completed at once; may be set after publication
};

struct AllocatorRecord {
  uint8_t kind;
  uint8_t action;            // AllocatorAction
  int8_t device;             // -1 CPU
  uint8_t flags;
  uint32_t scope;
  uint64_t tick;
  uint64_t sequence;         // per device, from 1, exact order of the allocator
  uint64_t address;          // OOM: free device bytes
  uint64_t size;             // ALLOC, FREE: requested bytes; SEGMENT: segment bytes; CPU frees: 0
  uint64_t stream;
  uint32_t pool;             // 0 default; n: graph capture pool n; 0x80000000 | n: MemPool n
  uint32_t completed_after;  // ticks from FREE_REQUESTED to the folded FREE_COMPLETED
  uint32_t stack;            // 0
  uint32_t reserved1;
};

enum class StateReason : uint8_t { kStart = 1, kStop = 2, kResync = 3, kResume = 4, kCheckpoint = 5 };

// The allocator's state on one device at the place of its SNAPSHOT event; segments and blocks follow until StateEnd.
struct StateBeginRecord {
  uint8_t kind;
  uint8_t reason;         // StateReason
  int8_t device;
  uint8_t reserved0;
  uint32_t snapshot;      // number of this snapshot in the file, from 1
  uint64_t tick;
  uint64_t sequence;      // sequence number of the SNAPSHOT event; 0 when the torch version emits none
  uint64_t allocated;
  uint64_t reserved_bytes;
  uint64_t active;
  uint64_t requested;
  uint32_t segments;
  uint32_t blocks;
};

enum SegmentFlags : uint8_t { kSegmentLarge = 1, kSegmentExpandable = 2 };

struct SegmentStateRecord {
  uint8_t kind;
  uint8_t flags;
  int8_t device;
  uint8_t reserved0;
  uint32_t snapshot;
  uint64_t address;
  uint64_t total;
  uint64_t allocated;
  uint64_t active;
  uint64_t requested;
  uint64_t stream;
  uint32_t pool;
  uint32_t blocks;
};

enum class BlockState : uint8_t { kAllocated = 1, kPendingFree = 2, kInactive = 3 };

struct BlockStateRecord {
  uint8_t kind;
  uint8_t state;          // BlockState
  int8_t device;
  uint8_t reserved0;
  uint32_t snapshot;
  uint64_t address;
  uint64_t size;
  uint64_t requested;
  uint64_t segment;       // address of its segment
  uint32_t stack;
  uint32_t scope;
  uint8_t reserved1[16];
};

struct StateEndRecord {
  uint8_t kind;
  uint8_t reserved0;
  int8_t device;
  uint8_t reserved1;
  uint32_t snapshot;
  uint64_t tick;
  uint8_t reserved2[48];
};

enum class SampleEdge : uint8_t { kPeriodic = 0, kScopeBegin = 1, kScopeEnd = 2, kStart = 3, kStop = 4 };

// Bytes as torch counts them, and as the driver sees the device.
struct MemorySampleRecord {
  uint8_t kind;
  uint8_t edge;           // SampleEdge
  int8_t device;
  uint8_t reserved0;
  uint32_t scope;
  uint64_t tick;
  uint64_t allocated;
  uint64_t reserved_bytes;
  uint64_t active;
  uint64_t requested;
  uint64_t device_free;   // cudaMemGetInfo; 0 with device_total 0 when not asked
  uint64_t device_total;
};

// Counters of the allocator that its events do not carry; belongs to the MemorySample with the same tick.
struct AllocatorSampleRecord {
  uint8_t kind;
  uint8_t edge;
  int8_t device;
  uint8_t reserved0;
  uint32_t sequence;      // low 32 bits of the device's last allocator event when both samples were read; 0: unknown
  uint64_t tick;
  uint64_t inactive_split;
  uint64_t retries;
  uint64_t ooms;
  uint64_t sync_all_streams;
  uint64_t device_allocs;
  uint64_t device_frees;
};

struct DeviceSampleRecord {
  uint8_t kind;
  uint8_t valid;            // bits: 1 clocks, 2 throttle, 4 power, 8 temperature
  int8_t device;
  uint8_t reserved0;
  uint32_t sm_clock;        // MHz
  uint64_t tick;
  uint64_t throttle;        // NVML's clock event reasons
  uint32_t memory_clock;    // MHz
  uint32_t power;           // mW
  uint32_t temperature;     // degrees Celsius
  uint32_t cost;            // ns that it took to ask
  uint8_t reserved1[24];
};

struct RecorderSampleRecord {
  uint8_t kind;
  uint8_t reserved0[3];
  uint32_t chunks_used;
  uint64_t tick;
  uint64_t resolver_cpu;    // ns of CPU time of the resolver thread since the recording began
  uint64_t process_cpu;     // ns of CPU time of the process
  uint64_t dropped;
  uint32_t chunks_ready;
  uint32_t spans_pending;
  uint64_t resident;        // bytes, VmRSS
  uint8_t reserved1[8];
};

enum ClockFlags : uint8_t { kAnchorHost = 1, kAnchorGpu = 2 };

// Host anchor: monotonic and realtime were read between tick and tick_after.
// GPU anchor: the device reached reference event `reference`, `gpu` ns after its first one, between tick and
// tick_after.
struct ClockAnchorRecord {
  uint8_t kind;
  uint8_t flags;          // ClockFlags
  int8_t device;
  uint8_t reserved0;
  uint32_t reference;
  uint64_t tick;
  uint64_t tick_after;
  int64_t monotonic;
  int64_t realtime;
  int64_t gpu;
  uint8_t reserved1[16];
};

enum class DropReason : uint8_t { kNoChunkReady = 1, kCapacity = 2, kDisk = 3 };

struct DropRecord {
  uint8_t kind;
  uint8_t reason;         // DropReason
  uint8_t reserved0[2];
  uint32_t reserved1;
  uint64_t tick;          // first moment at which the drop was noticed
  uint64_t total;         // records dropped so far in this recording
  uint8_t reserved2[40];
};

struct GateRecord {
  uint8_t kind;
  uint8_t open;           // 0: pause() or a muted step closed it, 1: it was opened again
  uint8_t reserved0[6];
  uint64_t tick;
  uint8_t reserved1[48];
};

struct EndRecord {
  uint8_t kind;
  uint8_t state;          // FileState
  uint8_t reserved0[2];
  uint32_t error;
  uint64_t tick;
  uint64_t dropped;
  uint64_t unresolved;    // GPU spans that were given up
  uint8_t reserved1[32];
};

#define WANHOOK_CHECK_RECORD(type) \
  static_assert(sizeof(type) == kRecordBytes && offsetof(type, kind) == 0, #type " must be one 64-byte slot")
WANHOOK_CHECK_RECORD(TextRecord);
WANHOOK_CHECK_RECORD(WriterRecord);
WANHOOK_CHECK_RECORD(MetaRecord);
WANHOOK_CHECK_RECORD(StringRecord);
WANHOOK_CHECK_RECORD(GroupRecord);
WANHOOK_CHECK_RECORD(ScopeBeginRecord);
WANHOOK_CHECK_RECORD(ScopeEndRecord);
WANHOOK_CHECK_RECORD(MarkRecord);
WANHOOK_CHECK_RECORD(CollectiveRecord);
WANHOOK_CHECK_RECORD(CollectiveEndRecord);
WANHOOK_CHECK_RECORD(GpuSpanRecord);
WANHOOK_CHECK_RECORD(KernelSpanRecord);
WANHOOK_CHECK_RECORD(AllocatorRecord);
WANHOOK_CHECK_RECORD(StateBeginRecord);
WANHOOK_CHECK_RECORD(SegmentStateRecord);
WANHOOK_CHECK_RECORD(BlockStateRecord);
WANHOOK_CHECK_RECORD(StateEndRecord);
WANHOOK_CHECK_RECORD(MemorySampleRecord);
WANHOOK_CHECK_RECORD(AllocatorSampleRecord);
WANHOOK_CHECK_RECORD(DeviceSampleRecord);
WANHOOK_CHECK_RECORD(RecorderSampleRecord);
WANHOOK_CHECK_RECORD(ClockAnchorRecord);
WANHOOK_CHECK_RECORD(DropRecord);
WANHOOK_CHECK_RECORD(GateRecord);
WANHOOK_CHECK_RECORD(EndRecord);
#undef WANHOOK_CHECK_RECORD

}  // namespace wanhook
