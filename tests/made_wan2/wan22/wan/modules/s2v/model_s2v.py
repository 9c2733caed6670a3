import torch
import torch.nn as nn

from ...distributed.util import gather_forward, get_rank, get_world_size
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
        self.audio, self.injected = AudioCrossAttention(dim, num_heads), (1,)
        self.use_context_parallel = False  # _configure_model() changes it

    def forward(self, x, t, context, seq_len, audio_input):
        x, kwargs, shape = self.embed(x, t, context)
        if self.use_context_parallel:
            x = torch.chunk(x, get_world_size(), dim=1)[get_rank()]
        for index, block in enumerate(self.blocks):
            x = self.after_transformer_block(index, block(x, **kwargs), audio_input)
        if self.use_context_parallel:
            x = gather_forward(x.contiguous(), dim=1)
        return self.unembed(x, shape)

    def after_transformer_block(self, index, x, audio_input):
        if index not in self.injected:
            return x
        if self.use_context_parallel:
            x = gather_forward(x.contiguous(), dim=1)
        x = x + self.audio(x, audio_input)
        return torch.chunk(x, get_world_size(), dim=1)[get_rank()] if self.use_context_parallel else x
