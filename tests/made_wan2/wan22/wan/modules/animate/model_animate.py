import torch
import torch.nn as nn

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


class WanAnimateModel(ModelMixin, nn.Module):
    """No subclass of WanModel, as in Wan."""

    embed, unembed = WanModel.embed, WanModel.unembed

    def __init__(self, dim=32, num_heads=4):
        super().__init__()
        made = WanModel(dim, num_heads, block=WanAnimateAttentionBlock)
        for name, module in made.named_children():
            setattr(self, name, module)

    def forward(self, x, t, clip_fea, context, seq_len):
        x, kwargs, shape = self.embed(x, t, context)
        kwargs["context"] = torch.cat([kwargs["context"], clip_fea], dim=1)
        for block in self.blocks:
            x = block(x, **kwargs)
        return self.unembed(x, shape)
