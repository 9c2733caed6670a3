import torch

from .ulysses import distributed_attention
from .util import gather_forward, get_rank, get_world_size


def sp_dit_forward(self, x, t, context, seq_len, **more):
    x, kwargs, shape = self.embed(x, t, context)
    x = torch.chunk(x, get_world_size(), dim=1)[get_rank()]
    for block in self.blocks:
        x = block(x, **kwargs)
    return self.unembed(gather_forward(x, dim=1), shape)


def sp_attn_forward(self, x, seq_lens):
    x = distributed_attention(*self.qkv(x, x), seq_lens, window_size=self.window_size)
    return self.o(x.flatten(2))
