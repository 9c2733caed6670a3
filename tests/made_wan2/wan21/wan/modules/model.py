import torch
import torch.nn as nn

from .attention import flash_attention
from .mixin import ModelMixin

__all__ = ["WanModel"]


class WanSelfAttention(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads, self.head_dim, self.window_size = num_heads, dim // num_heads, (-1, -1)
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))

    def qkv(self, x, context):
        return [
            layer(source).unflatten(2, (self.num_heads, self.head_dim))
            for layer, source in ((self.q, x), (self.k, context), (self.v, context))
        ]

    def forward(self, x, seq_lens):
        x = flash_attention(*self.qkv(x, x), k_lens=seq_lens)
        return self.o(x.flatten(2))


class WanT2VCrossAttention(WanSelfAttention):
    def forward(self, x, context):
        return self.o(flash_attention(*self.qkv(x, context)).flatten(2))


class WanI2VCrossAttention(WanSelfAttention):
    """The first two tokens are those of the image."""

    def forward(self, x, context):
        image, text = context[:, :2], context[:, 2:]
        seen = flash_attention(*self.qkv(x, image)) + flash_attention(*self.qkv(x, text))
        return self.o(seen.flatten(2))


WAN_CROSSATTENTION_CLASSES = {"t2v_cross_attn": WanT2VCrossAttention, "i2v_cross_attn": WanI2VCrossAttention}


class WanAttentionBlock(nn.Module):
    def __init__(self, cross_attn_type, dim, num_heads):
        super().__init__()
        self.self_attn = WanSelfAttention(dim, num_heads)
        self.cross_attn = WAN_CROSSATTENTION_CLASSES[cross_attn_type](dim, num_heads)
        self.ffn = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x, seq_lens, context):
        x = x + self.self_attn(x, seq_lens)
        x = x + self.cross_attn(x, context)
        return x + self.ffn(x)


class WanModel(ModelMixin, nn.Module):
    def __init__(self, model_type="t2v", dim=32, num_heads=4, num_layers=3):
        super().__init__()
        self.patch_embedding, self.text_embedding = nn.Linear(4, dim), nn.Linear(32, dim)
        self.time_embedding, self.head = nn.Linear(1, dim), nn.Linear(dim, 4)
        kind = f"{model_type}_cross_attn"
        self.blocks = nn.ModuleList(WanAttentionBlock(kind, dim, num_heads) for _ in range(num_layers))

    def forward(self, x, t, context, seq_len, clip_fea=None):
        x, kwargs, shape = self.embed(x, t, context, clip_fea)
        for block in self.blocks:
            x = block(x, **kwargs)
        return self.unembed(x, shape)

    def embed(self, x, t, context, clip_fea=None):
        (latent,) = x
        tokens = self.patch_embedding(latent.flatten(1).T.unsqueeze(0))
        tokens = tokens + self.time_embedding(t.float().view(1, 1, 1) / 1000)
        text = self.text_embedding(context[0]).unsqueeze(0)
        text = text if clip_fea is None else torch.cat([clip_fea, text], dim=1)
        return tokens, {"seq_lens": torch.tensor([tokens.size(1)]), "context": text}, latent.shape

    def unembed(self, x, shape):
        return [self.head(x)[0].T.reshape(shape).float()]
