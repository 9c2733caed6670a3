"""Scaled dot-product attention in the layout of the DiT, and 3D rotary positions."""

import torch
import torch.nn.functional as F

import wanhook


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keys: int) -> torch.Tensor:
    """Attention of q [B, L, heads, d] over the first `keys` places of k and v [B, M, heads, d]; has q's shape.

    Padding is sliced off rather than masked: a mask would rule the fused kernels out.
    """
    with wanhook.trace("attn_kernel", level="op"):
        k, v = k[:, :keys], v[:, :keys]
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return mixed.transpose(1, 2)


def rotary_table(grid: tuple[int, int, int], head_dim: int, length: int, device: torch.device) -> torch.Tensor:
    """Rotations for a sequence over grid (frames, height, width), complex128 [length, 1, head_dim / 2].

    A head's pairs are dealt to the three axes, time first taking what does not divide; places beyond the grid
    (padding) are not rotated.
    """
    pairs = head_dim // 2
    shares = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    angles = []
    for axis, (size, share) in enumerate(zip(grid, shares, strict=True)):
        rates = 10000.0 ** -(torch.arange(share, dtype=torch.float64, device=device) / max(share, 1))
        angle = torch.outer(torch.arange(size, dtype=torch.float64, device=device), rates)
        view = [1, 1, 1, share]
        view[axis] = size
        angles.append(angle.view(view).expand(*grid, share))
    angle = torch.cat(angles, dim=-1).reshape(-1, 1, pairs)
    angle = F.pad(angle, (0, 0, 0, 0, 0, length - angle.shape[0]))
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """x [B, L, heads, d] turned by table [L, 1, d / 2], in float64 as Wan does; keeps x's dtype."""
    pairs = torch.view_as_complex(x.to(torch.float64).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)
