"""The text encoder: T5's encoder in small, over token ids that stand for a prompt."""

import torch
import torch.nn.functional as F
from torch import nn

from .model import RmsNorm
from .presets import TextShape

_DISTANCES = 32  # positions further apart than this share one bias


class EncoderBlock(nn.Module):
    def __init__(self, shape: TextShape):
        super().__init__()
        dim = shape.dim
        self.heads = shape.heads
        self.norm1 = RmsNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.o = nn.Linear(dim, dim, bias=False)
        self.distance_bias = nn.Embedding(2 * _DISTANCES + 1, shape.heads)
        self.norm2 = RmsNorm(dim)
        self.gate = nn.Linear(dim, shape.ffn_dim, bias=False)
        self.up = nn.Linear(dim, shape.ffn_dim, bias=False)
        self.down = nn.Linear(shape.ffn_dim, dim, bias=False)

    def forward(self, x: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """x [B, L, C]; visible bool [B, L], false for padding."""
        x = x + self._attention(self.norm1(x), visible)
        h = self.norm2(x)
        return x + self.down(F.gelu(self.gate(h), approximate="tanh") * self.up(h))

    def _attention(self, x: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        place = torch.arange(x.shape[1], device=x.device)
        distance = (place[None, :] - place[:, None]).clamp(-_DISTANCES, _DISTANCES) + _DISTANCES
        bias = self.distance_bias(distance).permute(2, 0, 1).unsqueeze(0)
        bias = bias.masked_fill(~visible[:, None, None, :], torch.finfo(bias.dtype).min)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.o(mixed.transpose(1, 2).flatten(2))


class TextEncoder(nn.Module):
    def __init__(self, shape: TextShape):
        super().__init__()
        self.token_embedding = nn.Embedding(shape.vocabulary, shape.dim)
        self.blocks = nn.ModuleList(EncoderBlock(shape) for _ in range(shape.layers))
        self.norm = RmsNorm(shape.dim)

    def forward(self, ids: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """ids int64 [B, L], visible bool [B, L] -> [B, L, dim]. Collective under FSDP."""
        x = self.token_embedding(ids)
        for block in self.blocks:
            x = block(x, visible)
        return self.norm(x)


def random_prompt(shape: TextShape, tokens: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """ids int64 [1, length], the first `tokens` drawn and the rest padding (0); and their mask, bool [1, length]."""
    ids = torch.zeros(1, shape.length, dtype=torch.int64)
    ids[0, :tokens] = torch.randint(1, shape.vocabulary, (tokens,), generator=generator)
    return ids, torch.arange(shape.length).unsqueeze(0) < tokens
