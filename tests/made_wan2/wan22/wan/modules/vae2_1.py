from .vae_parts import Coder


class Wan2_1_VAE:
    def __init__(self, vae_pth=None, device="cpu"):
        self.model = Coder(seed=21).to(device)

    def encode(self, videos):
        return [self.model.encode(video.unsqueeze(0))[0] for video in videos]

    def decode(self, latents):
        return [self.model.decode(latent.unsqueeze(0))[0] for latent in latents]
