import torch.nn as nn

from ..mixin import ModelMixin
from ..model import WanAttentionBlock, WanCrossAttention, WanModel, WanSelfAttention, flash_attention


class AudioCrossAttention(WanCrossAttention):
    pass


class WanS2VSelfAttention(WanSelfAttention):
    def forward(self, x, seq_lens):
        return self.o(flash_attention(*self.qkv(x, x), k_lens=seq_lens).flatten(2))


class WanS2VAttentionBlock(WanAttentionBlock):
    def __init__(self, dim, num_heads):
        super().__init__(dim, num_heads)
        self.self_attn = WanS2VSelfAttention(dim, num_heads)


class WanModel_S2V(ModelMixin, nn.Module):
    """No subclass of WanModel, as in Wan."""

    embed, unembed = WanModel.embed, WanModel.unembed

    def __init__(self, dim=32, num_heads=4):
        super().__init__()
        made = WanModel(dim, num_heads, block=WanS2VAttentionBlock)
        for name, module in made.named_children():
            setattr(self, name, module)
        self.audio = AudioCrossAttention(dim, num_heads)

    def forward(self, x, t, context, seq_len, audio_input):
        x, kwargs, shape = self.embed(x, t, context)
        for block in self.blocks:
            x = block(x, **kwargs)
        return self.unembed(x + self.audio(x, audio_input), shape)
