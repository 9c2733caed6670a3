import torch.distributed as dist

from .group_coordinator import GroupCoordinator

_groups = []


def init_distributed_environment(rank, world_size):
    assert dist.get_world_size() == world_size


def initialize_model_parallel(sequence_parallel_degree, ring_degree, ulysses_degree):
    _groups.append(GroupCoordinator(dist.new_group(backend="gloo")))


def get_sp_group():
    return _groups[0]


def get_sequence_parallel_rank():
    return dist.get_rank()


def get_sequence_parallel_world_size():
    return dist.get_world_size()
