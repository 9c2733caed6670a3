import torch
import torch.nn as nn


class Coder(nn.Module):
    """Frames [3, f, 2h, 2w] to latents [4, f, h, w] and back."""

    z_dim = 4

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder, self.decoder = nn.Conv3d(3, 4, (1, 2, 2), (1, 2, 2)), nn.Conv3d(4, 12, 1)
        self.eval().requires_grad_(False)

    def encode(self, video):
        return self.encoder(video)

    def decode(self, latent):
        pixels = self.decoder(latent).unflatten(1, (3, 2, 2))
        batch, channels, _, _, frames, height, width = pixels.shape
        return pixels.permute(0, 1, 4, 5, 2, 6, 3).reshape(batch, channels, frames, 2 * height, 2 * width)
