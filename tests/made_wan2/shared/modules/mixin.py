"""In diffusers' place: a classmethod that every model inherits."""

import logging

import torch

from .movable import Movable


class ModelMixin(Movable):
    @classmethod
    def from_pretrained(cls, folder, subfolder=None, **arguments):
        seed = sum(f"{folder}{subfolder}".encode())
        logging.info(f"loading {cls.__name__} {subfolder}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(**arguments).eval()

    def to(self, *args, **kwargs):
        return super().to(*args, **kwargs)
