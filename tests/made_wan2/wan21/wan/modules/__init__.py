from pathlib import Path

__path__.append(str(Path(__file__).parents[3] / "shared" / "modules"))

from .attention import flash_attention
from .model import WanModel
from .t5 import T5EncoderModel
from .vace_model import VaceWanModel
from .vae import WanVAE

__all__ = ["T5EncoderModel", "VaceWanModel", "WanModel", "WanVAE", "flash_attention"]
