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


class WanCrossAttention(WanSelfAttention):
    def forward(self, x, context):
        return self.o(flash_attention(*self.qkv(x, context)).flatten(2))


class WanAttentionBlock(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.self_attn = WanSelfAttention(dim, num_heads)
        self.cross_attn = WanCrossAttention(dim, num_heads)
        self.ffn = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x, seq_lens, context):
        x = x + self.self_attn(x, seq_lens)
        x = x + self.cross_attn(x, context)
        return x + self.ffn(x)


class WanModel(ModelMixin, nn.Module):
    def __init__(self, dim=32, num_heads=4, num_layers=3, block=WanAttentionBlock):
        super().__init__()
        self.patch_embedding, self.text_embedding = nn.Linear(4, dim), nn.Linear(32, dim)
        self.time_embedding, self.head = nn.Linear(1, dim), nn.Linear(dim, 4)
        self.blocks = nn.ModuleList(block(dim, num_heads) for _ in range(num_layers))

    def forward(self, x, t, context, seq_len, **more):
        x, kwargs, shape = self.embed(x, t, context)
        for block in self.blocks:
            x = block(x, **kwargs)
        return self.unembed(x, shape)

    def embed(self, x, t, context):
        (latent,) = x
        tokens = self.patch_embedding(latent.flatten(1).T.unsqueeze(0))
        tokens = tokens + self.time_embedding(t.float().view(1, 1, 1) / 1000)
        seq_lens = torch.tensor([tokens.size(1)])
        return tokens, {"seq_lens": seq_lens, "context": self.text_embedding(context[0]).unsqueeze(0)}, latent.shape

    def unembed(self, x, shape):
        return [self.head(x)[0].T.reshape(shape).float()]
