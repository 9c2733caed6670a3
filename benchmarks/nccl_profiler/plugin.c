/* A profiler plugin for NCCL (interface version 5) that keeps the stamps of kernel channels, and which event is whose
 * part, in memory. probe.py reads them through ctypes. Only the fields that are used are declared; the rest of a
 * descriptor lies behind them. Nothing is freed: the process ends with its communicators. */
#include <stdint.h>
#include <stdlib.h>

enum { KERNEL_CHANNEL = 0x40, KERNEL_CHANNEL_STOP = 22 };
enum { COLL = 0x2, P2P = 0x4, GROUP_CALL = 0x100, COLL_CALL = 0x200, P2P_CALL = 0x400 };
enum { ALL = COLL | P2P | KERNEL_CHANNEL | GROUP_CALL | COLL_CALL | P2P_CALL };
enum { MOST_EVENTS = 1 << 21 };

/* stamps are ns of the device's global timer; 0 where the event has none */
struct event {
  uint64_t type, parent, begin, end;
};

struct descriptor {
  uint64_t type;
  void *parent;
  int rank;
  union {
    struct {
      uint8_t channel;
      uint64_t begin;
    } kernel;
    void *room[12];
  } of;
};

union state {
  uint64_t stamp;
  void *room[4];
};

static struct event *events; /* a handle is an index, from 1 */
static uint32_t used = 1;
static int *mask;

static int init(void **context, uint64_t communicator, int *event_mask, const char *name, int nodes, int ranks,
                int rank, void *logger) {
  (void)name, (void)nodes, (void)ranks, (void)rank, (void)logger;
  if (!events) events = calloc(MOST_EVENTS, sizeof *events);
  if (!events) return 1;
  mask = event_mask;
  __atomic_store_n(mask, ALL, __ATOMIC_RELAXED);
  *context = (void *)(uintptr_t)(communicator | 1);
  return 0;
}

static int start(void *context, void **handle, struct descriptor *about) {
  (void)context;
  uint32_t at = __atomic_fetch_add(&used, 1, __ATOMIC_RELAXED);
  *handle = NULL;
  if (at >= MOST_EVENTS) return 0;
  events[at].type = about->type;
  events[at].parent = (uint64_t)(uintptr_t)about->parent;
  if (about->type == KERNEL_CHANNEL) events[at].begin = about->of.kernel.begin;
  *handle = (void *)(uintptr_t)at;
  return 0;
}

static int stop(void *handle) {
  (void)handle;
  return 0;
}

static int record(void *handle, int state, union state *args) {
  if (handle && args && state == KERNEL_CHANNEL_STOP) events[(uintptr_t)handle].end = args->stamp;
  return 0;
}

static int finalize(void *context) {
  (void)context;
  return 0;
}

#define PUBLIC __attribute__((visibility("default")))

PUBLIC struct {
  const char *name;
  void *init, *start, *stop, *record, *finalize;
} ncclProfiler_v5 = {"wanhook-probe", (void *)init, (void *)start, (void *)stop, (void *)record, (void *)finalize};

/* Only while no collective is being issued. */
PUBLIC void probe_switch(int on) {
  if (mask) __atomic_store_n(mask, on ? ALL : 0, __ATOMIC_RELAXED);
}
PUBLIC uint32_t probe_used(void) { return used < MOST_EVENTS ? used : MOST_EVENTS; }
PUBLIC void *probe_events(void) { return events; }
