import torch
from yunchang.comm.all_to_all import SeqAllToAll4D

from ..distributed import get_sp_group


class xFuserLongContextAttention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        from xfuser.core.long_ctx_attention.ring import xdit_ring_flash_attn_func

        self.ring_attn_fn, self.ulysses_pg = xdit_ring_flash_attn_func, get_sp_group().device_group

    @torch.compiler.disable
    def forward(self, attn, query, key, value, *, window_size=(-1, -1)):
        query, key, value = (SeqAllToAll4D.apply(self.ulysses_pg, one, 2, 1) for one in (query, key, value))
        out = self.ring_attn_fn(query, key, value, window_size=window_size)
        return SeqAllToAll4D.apply(self.ulysses_pg, out, 1, 2)
