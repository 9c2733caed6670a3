import torch
import torch.distributed as dist


def init_distributed_group():
    if not dist.is_initialized():
        dist.init_process_group(backend="gloo")


def get_rank():
    return dist.get_rank()


def get_world_size():
    return dist.get_world_size()


def all_to_all(x, scatter_dim, gather_dim, group=None):
    parts = torch.stack(x.chunk(get_world_size(), dim=scatter_dim)).contiguous()
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts, group=group)
    return torch.cat(received.unbind(), dim=gather_dim).contiguous()


def gather_forward(input, dim):
    parts = [torch.empty_like(input) for _ in range(get_world_size())]
    dist.all_gather(parts, input)
    return torch.cat(parts, dim=dim)
