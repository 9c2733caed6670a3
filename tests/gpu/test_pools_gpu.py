"""Allocator events know the pool they belong to: MemPools, and the private pools of graph captures."""

import pytest
import torch

from gpu.recorded import recorded

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not hasattr(torch.cuda, "use_mem_pool"), reason="this torch has no MemPool"),
]

MIB = 1 << 20
USER_POOL = 0x80000000
# Before, only snapshots told the pool.
EVENTS_TELL = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 11)


def encoded(pool: tuple[int, int]) -> int:
    """How a trace writes torch's pair: the pool of a capture, or of a MemPool."""
    return pool[0] if pool[0] else USER_POOL | pool[1]


def pools_of_size(trace, size: int) -> set[int]:
    """Pools of the events that allocated or requested to free that many bytes."""
    return set(trace.allocator_events["pool"][trace.allocator_events["size"] == size].tolist())


def segment_pools(trace) -> set[int]:
    """Pools of the segments that the current device holds at the end."""
    own = [snapshot for snapshot in trace.snapshots if snapshot.device == torch.cuda.current_device()]
    return set(own[-1].segments["pool"].tolist())


def test_mem_pool(tmp_path):
    pool = torch.cuda.MemPool()
    with recorded(tmp_path) as recording:
        with torch.cuda.use_mem_pool(pool):
            inside = torch.empty(11 * MIB, dtype=torch.uint8, device="cuda")
        outside = torch.empty(13 * MIB, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
    del inside, outside
    assert pool.id[0] == 0
    assert pools_of_size(recording.trace, 11 * MIB) == {encoded(pool.id) if EVENTS_TELL else 0}
    assert pools_of_size(recording.trace, 13 * MIB) == {0}
    assert {0, encoded(pool.id)} <= segment_pools(recording.trace)


@pytest.mark.real_gpu
def test_private_pool_of_a_capture(tmp_path):
    source = torch.ones(17 * MIB, dtype=torch.uint8, device="cuda")
    source + 1
    graph = torch.cuda.CUDAGraph()
    with recorded(tmp_path) as recording:
        with torch.cuda.graph(graph):
            result = source + 1
        graph.replay()
        torch.cuda.synchronize()
        pool = tuple(graph.pool())
    assert (result == 2).all()
    assert pool[0] > 0
    assert pools_of_size(recording.trace, 17 * MIB) == {encoded(pool) if EVENTS_TELL else 0}
    assert encoded(pool) in segment_pools(recording.trace)
    del result
    graph.reset()
