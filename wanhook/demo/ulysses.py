"""Ulysses sequence parallelism: each rank holds a slice of the sequence, and during attention a share of the heads."""

import torch
import torch.distributed as dist
import torch.nn.functional as F

import wanhook

from .attention import attend


class SequenceShard:
    """Deals a sequence of `tokens` places out to `size` ranks, padded at its end to a multiple of size."""

    def __init__(self, tokens: int, rank: int, size: int):
        self.tokens = tokens
        self.rank = rank
        self.size = size
        self.padded = -(-tokens // size) * size

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """[B, tokens, C] -> [B, padded, C]."""
        return F.pad(x, (0, 0, 0, self.padded - self.tokens))

    def split(self, x: torch.Tensor, dim: int = 1) -> torch.Tensor:
        """This rank's slice along dim, a view: the whole stays alive as long as the slice does, as in Wan."""
        return x.chunk(self.size, dim=dim)[self.rank]

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """[B, padded / size, C] -> [B, tokens, C], padding cut off. Collective."""
        if self.size > 1:
            slices = [torch.empty_like(x) for _ in range(self.size)]
            with wanhook.role("sp_gather"):
                dist.all_gather(slices, x.contiguous())
            x = torch.cat(slices, dim=1)
        return x[:, : self.tokens]


def all_to_all(x: torch.Tensor, scatter_dim: int, gather_dim: int) -> torch.Tensor:
    """Scatters scatter_dim over the ranks, which must divide it, and gathers gather_dim from them. Collective.

    One all_to_all_single: gloo of torch 2.11 has no list form.
    """
    sent = torch.stack(x.chunk(dist.get_world_size(), dim=scatter_dim))
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    return torch.cat(received.unbind(0), dim=gather_dim)


def ulysses_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, shard: SequenceShard) -> torch.Tensor:
    """Self-attention over the whole sequence; q, k, v and the result are [B, padded / size, heads, d]. Four calls."""
    if shard.size == 1:
        return attend(q, k, v, keys=shard.tokens)
    with wanhook.role("qkv"):
        q, k, v = (all_to_all(x, scatter_dim=2, gather_dim=1) for x in (q, k, v))
    mixed = attend(q, k, v, keys=shard.tokens)
    with wanhook.role("out"):
        return all_to_all(mixed, scatter_dim=1, gather_dim=2)
