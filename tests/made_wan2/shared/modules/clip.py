import torch
import torch.nn as nn

__all__ = ["CLIPModel"]


class XLMRobertaCLIP(nn.Module):
    def __init__(self, dim=32):
        super().__init__()
        self.visual = nn.Linear(3, dim)


class CLIPModel:
    def __init__(self, device=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(6)
            self.model = XLMRobertaCLIP().eval().requires_grad_(False)

    def visual(self, videos):
        """[channels, frames, height, width] each; one token a frame."""
        return torch.stack([self.model.visual(video.mean(dim=(2, 3)).T) for video in videos])
