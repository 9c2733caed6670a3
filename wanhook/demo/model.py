"""The diffusion transformer: Wan2.2's shape at any size, over a sequence that Ulysses deals out to the ranks.

The residual stream and the modulation are float32, matrix products run in the weights' dtype; casts are explicit, so
that the CPU (float32 throughout) and a GPU (bfloat16 weights) run the same code.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

import wanhook

from .attention import attend, rotary_table, rotate
from .presets import DitShape
from .ulysses import SequenceShard, ulysses_attention


class RmsNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + self.eps)
        return scaled.to(x.dtype) * self.weight


def layer_norm(x: torch.Tensor, affine: nn.LayerNorm | None = None) -> torch.Tensor:
    """Layer norm of x [.., C] in float32, whatever dtype FSDP gives the affine weights."""
    weight, bias = (affine.weight.float(), affine.bias.float()) if affine is not None else (None, None)
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps=1e-6)


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x [B, L, C] under shift and scale [B, L, 1, C]."""
    return x * (1 + scale.squeeze(2)) + shift.squeeze(2)


def linear_float32(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x.float(), layer.weight.float(), layer.bias.float())


def timestep_embedding(timestep: torch.Tensor, dim: int) -> torch.Tensor:
    """Sinusoids of timestep [N], float32 [N, dim]."""
    half = torch.arange(dim // 2, dtype=torch.float64, device=timestep.device)
    angle = torch.outer(timestep.to(torch.float64), 10000.0 ** -(half / (dim // 2)))
    return torch.cat([angle.cos(), angle.sin()], dim=1).float()


class Projections(nn.Module):
    """The weights that self- and cross-attention share: q, k, v, o and norms of q and k over all heads."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RmsNorm(dim)
        self.norm_k = RmsNorm(dim)

    def project(self, x: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q of x [B, L, C], k and v of source [B, M, C], each [B, L or M, heads, C / heads]."""
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(source)), self.v(source)
        return tuple(y.unflatten(-1, (self.heads, -1)) for y in (q, k, v))


class SelfAttention(Projections):
    def forward(self, x: torch.Tensor, rotations: torch.Tensor, shard: SequenceShard) -> torch.Tensor:
        with wanhook.trace("self_attn", level="op"):
            x = x.to(self.q.weight.dtype)
            q, k, v = self.project(x, x)
            q, k = rotate(q, rotations), rotate(k, rotations)
            return self.o(ulysses_attention(q, k, v, shard).flatten(2))


class CrossAttention(Projections):
    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        with wanhook.trace("cross_attn", level="op"):
            q, k, v = self.project(x.to(self.q.weight.dtype), context)
            return self.o(attend(q, k, v, keys=context.shape[1]).flatten(2))


class FeedForward(nn.Sequential):
    def __init__(self, dim: int, ffn_dim: int):
        super().__init__(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with wanhook.trace("ffn", level="op"):
            return super().forward(x.to(self[0].weight.dtype))


class DitBlock(nn.Module):
    def __init__(self, shape: DitShape, index: int):
        super().__init__()
        self.index = index
        self.self_attn = SelfAttention(shape.dim, shape.heads)
        self.norm3 = nn.LayerNorm(shape.dim)
        self.cross_attn = CrossAttention(shape.dim, shape.heads)
        self.ffn = FeedForward(shape.dim, shape.ffn_dim)
        self.modulation = nn.Parameter(torch.empty(1, 1, 6, shape.dim))

    def forward(self, x, modulation, rotations, context, shard: SequenceShard) -> torch.Tensor:
        """x [B, l, C] and modulation [B, l, 6, C], both float32 and of this rank's slice; context [B, M, C]."""
        with wanhook.trace("block", level="block", index=self.index):
            shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (self.modulation + modulation).chunk(6, dim=2)
            y = self.self_attn(modulate(layer_norm(x), shift_a, scale_a), rotations, shard)
            x = x + y * gate_a.squeeze(2)
            x = x + self.cross_attn(layer_norm(x, self.norm3), context)
            y = self.ffn(modulate(layer_norm(x), shift_f, scale_f))
            return x + y * gate_f.squeeze(2)


class Head(nn.Module):
    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.head = nn.Linear(dim, out_dim)
        self.modulation = nn.Parameter(torch.empty(1, 1, 2, dim))

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """x and time [B, l, C], float32 -> [B, l, out_dim]."""
        shift, scale = (self.modulation + time.unsqueeze(2)).chunk(2, dim=2)
        return linear_float32(self.head, modulate(layer_norm(x), shift, scale))


class Dit(nn.Module):
    """Predicts the velocity of video latents. rank of size: this process among those that share the sequence."""

    def __init__(self, shape: DitShape, latent_channels: int, text_dim: int, rank: int, size: int):
        super().__init__()
        dim = shape.dim
        self.shape = shape
        self.rank = rank
        self.size = size
        self.patch_embedding = nn.Conv3d(latent_channels, dim, kernel_size=shape.patch, stride=shape.patch)
        self.text_embedding = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_in = nn.Linear(shape.freq_dim, dim)
        self.time_out = nn.Linear(dim, dim)
        self.time_projection = nn.Linear(dim, 6 * dim)
        self.blocks = nn.ModuleList(DitBlock(shape, index) for index in range(shape.layers))
        self.head = Head(dim, math.prod(shape.patch) * latent_channels)

    def forward(self, latents: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """latents [C, T, H, W], timestep int64 [1], context [M, text_dim] -> velocity float32 [C, T, H, W]. Collective.

        The timestep is an integer because FSDP rounds floating inputs of its root to bfloat16.
        """
        x = self.patch_embedding(latents.unsqueeze(0).to(self.patch_embedding.weight.dtype))
        grid = tuple(x.shape[2:])
        shard = SequenceShard(math.prod(grid), self.rank, self.size)
        x = shard.split(shard.pad(x.flatten(2).transpose(1, 2))).float()

        time, modulation = self._time(timestep, shard)
        context = self.text_embedding(context.unsqueeze(0).to(self.text_embedding[0].weight.dtype))
        head_dim = self.shape.dim // self.shape.heads
        rotations = shard.split(rotary_table(grid, head_dim, shard.padded, x.device), dim=0)
        for block in self.blocks:
            x = block(x, modulation, rotations, context, shard)
        return self._unpatchify(shard.gather(self.head(x, time)), grid)

    def _time(self, timestep: torch.Tensor, shard: SequenceShard) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's slices of the time embedding [1, l, C] and the modulation [1, l, 6, C].

        Computed for every token of the whole sequence, then split: Wan2.2 does, and its peak shows it.
        """
        waves = timestep_embedding(timestep.expand(shard.padded), self.shape.freq_dim).unsqueeze(0)
        time = linear_float32(self.time_out, F.silu(linear_float32(self.time_in, waves)))
        modulation = linear_float32(self.time_projection, F.silu(time)).unflatten(2, (6, self.shape.dim))
        return shard.split(time), shard.split(modulation)

    def _unpatchify(self, x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        """[1, tokens, patch * C] -> [C, T, H, W]."""
        frames, height, width = grid
        pt, ph, pw = self.shape.patch
        x = x.reshape(frames, height, width, pt, ph, pw, -1).permute(6, 0, 3, 1, 4, 2, 5)
        return x.reshape(-1, frames * pt, height * ph, width * pw).float()
