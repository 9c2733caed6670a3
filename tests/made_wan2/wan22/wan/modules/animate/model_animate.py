import torch
import torch.nn as nn

from ...distributed.util import gather_forward, get_rank, get_world_size
from ..mixin import ModelMixin
from ..model import WanModel, WanSelfAttention, flash_attention


class WanAnimateSelfAttention(WanSelfAttention):
    pass


class WanAnimateCrossAttention(WanSelfAttention):
    def forward(self, x, context):
        return self.o(flash_attention(*self.qkv(x, context)).flatten(2))


class WanAnimateAttentionBlock(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.self_attn = WanAnimateSelfAttention(dim, num_heads)
        self.cross_attn = WanAnimateCrossAttention(dim, num_heads)
        self.ffn = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x, seq_lens, context):
        x = x + self.self_attn(x, seq_lens)
        x = x + self.cross_attn(x, context)
        return x + self.ffn(x)


class FaceBlock(nn.Module):
    """Attends with a function of its own."""

    def __init__(self, dim):
        super().__init__()
        self.q, self.o = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x, use_context_parallel=False):
        q = self.q(x)
        if use_context_parallel:
            q = gather_forward(q.contiguous(), dim=1)
        attn = self.o(nn.functional.scaled_dot_product_attention(q, q, q))
        return torch.chunk(attn, get_world_size(), dim=1)[get_rank()] if use_context_parallel else attn


class WanAnimateModel(ModelMixin, nn.Module):
    """No subclass of WanModel, as in Wan."""

    embed, unembed = WanModel.embed, WanModel.unembed

    def __init__(self, dim=32, num_heads=4):
        super().__init__()
        made = WanModel(dim, num_heads, block=WanAnimateAttentionBlock)
        for name, module in made.named_children():
            setattr(self, name, module)
        self.face_adapter, self.use_context_parallel = FaceBlock(dim), False

    def forward(self, x, t, clip_fea, context, seq_len):
        x, kwargs, shape = self.embed(x, t, context)
        kwargs["context"] = torch.cat([kwargs["context"], clip_fea], dim=1)
        if self.use_context_parallel:
            x = torch.chunk(x, get_world_size(), dim=1)[get_rank()]
        for index, block in enumerate(self.blocks):
            x = block(x, **kwargs)
            if index == 1:
                x = x + self.face_adapter(x, self.use_context_parallel)
        if self.use_context_parallel:
            x = gather_forward(x.contiguous(), dim=1)
        return self.unembed(x, shape)
