import logging

from .vae_parts import Coder


class Wan2_2_VAE:
    def __init__(self, vae_pth=None, device="cpu"):
        self.model = Coder(seed=22).to(device)

    def encode(self, videos):
        try:
            if not isinstance(videos, list):
                raise TypeError("videos should be a list")
            return [self.model.encode(video.unsqueeze(0))[0] for video in videos]
        except TypeError as error:
            logging.info(error)
            return None

    def decode(self, latents):
        try:
            if not isinstance(latents, list):
                raise TypeError("latents should be a list")
            return [self.model.decode(latent.unsqueeze(0))[0] for latent in latents]
        except TypeError as error:
            logging.info(error)
            return None
