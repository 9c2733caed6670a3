import torch
import torch.distributed as dist


class GroupCoordinator:
    def __init__(self, group):
        self.device_group = group

    def all_gather(self, input_, dim=0):
        parts = [torch.empty_like(input_) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, input_.contiguous(), group=self.device_group)
        return torch.cat(parts, dim=dim)
