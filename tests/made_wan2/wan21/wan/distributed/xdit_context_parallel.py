import torch
from xfuser.core.distributed import get_sequence_parallel_rank, get_sequence_parallel_world_size, get_sp_group
from xfuser.core.long_ctx_attention import xFuserLongContextAttention


def usp_dit_forward_vace(self, x, kwargs):
    """Of a part of the sequence; the blocks' arguments are the same."""
    c, hints = x, []
    for block in self.vace_blocks:
        c, skip = block(c, x=x, **kwargs)
        hints.append(skip)
    return hints


def usp_dit_forward(self, x, t, context, seq_len, **more):
    x, kwargs, shape = self.embed(x, t, context, **more)
    x = torch.chunk(x, get_sequence_parallel_world_size(), dim=1)[get_sequence_parallel_rank()]
    if hasattr(self, "vace_blocks"):
        kwargs["hints"] = self.forward_vace(x, dict(kwargs))
    for block in self.blocks:
        x = block(x, **kwargs)
    return self.unembed(get_sp_group().all_gather(x, dim=1), shape)


def usp_attn_forward(self, x, seq_lens):
    query, key, value = self.qkv(x, x)
    x = xFuserLongContextAttention()(None, query=query, key=key, value=value, window_size=self.window_size)
    return self.o(x.flatten(2))
