"""The decoder of a causal video VAE: one latent frame at a time, with the last frames of each convolution kept."""

import torch
import torch.nn.functional as F
from torch import nn

from .presets import VaeShape

# What each temporal convolution saw last, by module. A fresh dict begins a video.
History = dict[nn.Module, torch.Tensor]


class CausalConv3d(nn.Conv3d):
    """A convolution that looks back in time only: decoding in chunks gives what decoding at once gives."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int, int]):
        super().__init__(inputs, outputs, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2))

    def forward(self, x: torch.Tensor, history: History) -> torch.Tensor:
        """x [B, C, T, H, W]; leaves the last frames of x in history."""
        back = self.kernel_size[0] - 1
        past = history.get(self)
        if past is None:
            past = x.new_zeros(*x.shape[:2], back, *x.shape[3:])
        x = torch.cat([past, x], dim=2)
        # a clone: a view would keep the whole input of this chunk alive until the next one
        history[self] = x[:, :, -back:].clone()
        return super().forward(x)


class ChannelNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=1) * (x.shape[1] ** 0.5) * self.weight.view(1, -1, 1, 1, 1)


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1 = ChannelNorm(inputs)
        self.conv1 = CausalConv3d(inputs, outputs, (3, 3, 3))
        self.norm2 = ChannelNorm(outputs)
        self.conv2 = CausalConv3d(outputs, outputs, (3, 3, 3))
        self.shortcut = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor, history: History) -> torch.Tensor:
        y = self.conv1(F.silu(self.norm1(x)), history)
        y = self.conv2(F.silu(self.norm2(y)), history)
        return self.shortcut(x) + y


class Upsample(nn.Module):
    """Doubles height and width, and time as well when asked: the very first frame of a video stays single."""

    def __init__(self, width: int, in_time: bool):
        super().__init__()
        self.time_conv = CausalConv3d(width, 2 * width, (3, 1, 1)) if in_time else None
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor, history: History) -> torch.Tensor:
        if self.time_conv is not None:
            first = self.time_conv not in history
            x = self.time_conv(x, history).unflatten(1, (2, -1)).movedim(1, 3).flatten(2, 3)
            x = x[:, :, 1:] if first else x
        frames = x.shape[2]
        x = F.interpolate(x.transpose(1, 2).flatten(0, 1), scale_factor=2, mode="nearest-exact")
        return self.conv(x).unflatten(0, (-1, frames)).transpose(1, 2)


class VaeDecoder(nn.Module):
    def __init__(self, shape: VaeShape, latent_channels: int):
        super().__init__()
        widths = shape.widths
        self.conv_in = CausalConv3d(latent_channels, widths[0], (3, 3, 3))
        stages: list[nn.Module] = []
        for level, width in enumerate(widths):
            inputs = widths[max(level - 1, 0)]
            stages += [ResidualBlock(inputs if block == 0 else width, width) for block in range(shape.blocks)]
            if level < len(widths) - 1:
                stages.append(Upsample(width, in_time=level < 2))
        self.stages = nn.ModuleList(stages)
        self.norm_out = ChannelNorm(widths[-1])
        self.conv_out = CausalConv3d(widths[-1], 3, (3, 3, 3))

    def forward(self, latents: torch.Tensor, history: History) -> torch.Tensor:
        """The next chunk of a video: latents [B, C, T, H, W] -> [B, 3, 4T, 8H, 8W], 4T - 3 frames for a first chunk."""
        x = self.conv_in(latents, history)
        for stage in self.stages:
            x = stage(x, history)
        return self.conv_out(F.silu(self.norm_out(x)), history)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """latents [C, T, H, W] -> video [3, 4T - 3, 8H, 8W] in -1..1, decoded frame by frame."""
        history: History = {}
        video = None
        for frame in latents.unsqueeze(0).split(1, dim=2):
            chunk = self(frame, history)
            # grown by cat, as in Wan: the copies are part of the peak that its users ask about
            video = chunk if video is None else torch.cat([video, chunk], dim=2)
        return video.squeeze(0).clamp(-1, 1)
