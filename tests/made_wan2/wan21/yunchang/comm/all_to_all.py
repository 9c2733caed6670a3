import torch
import torch.distributed as dist


def all_to_all_4D(input, scatter_idx=2, gather_idx=1, group=None, use_sync=False):
    parts = torch.stack(input.chunk(dist.get_world_size(group), dim=scatter_idx)).contiguous()
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts, group=group)
    return torch.cat(received.unbind(), dim=gather_idx).contiguous()


class SeqAllToAll4D(torch.autograd.Function):
    @staticmethod
    def forward(ctx, group, input, scatter_idx, gather_idx, use_sync=False):
        return all_to_all_4D(input, scatter_idx, gather_idx, group=group, use_sync=use_sync)
