import torch
import torch.nn as nn

from wan.modules.attention import flash_attention

from .movable import Movable

__all__ = ["CLIPModel"]


class AttentionBlock(nn.Module):
    def __init__(self, dim, num_heads=4):
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.to_qkv(x).unflatten(2, (3, self.num_heads, -1)).unbind(2)
        return x + self.proj(flash_attention(q, k, v).flatten(2))


class VisionTransformer(nn.Module):
    def __init__(self, dim, layers):
        super().__init__()
        self.patch_embedding = nn.Linear(3, dim)
        self.transformer = nn.Sequential(*[AttentionBlock(dim) for _ in range(layers)])

    def forward(self, videos):
        return self.transformer(self.patch_embedding(videos))


class XLMRobertaCLIP(Movable, nn.Module):
    def __init__(self, dim=32, layers=2):
        super().__init__()
        self.visual = VisionTransformer(dim, layers)


class CLIPModel:
    def __init__(self, device=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(6)
            self.model = XLMRobertaCLIP().eval().requires_grad_(False).to(device or "cpu")

    def visual(self, videos):
        """[channels, frames, height, width] each; one token a frame."""
        return self.model.visual(torch.stack([video.mean(dim=(2, 3)).T for video in videos]))
