from pathlib import Path

__path__.append(str(Path(__file__).parents[3] / "shared" / "modules"))

from .attention import flash_attention
from .model import WanModel
from .t5 import T5EncoderModel
from .vae2_1 import Wan2_1_VAE
from .vae2_2 import Wan2_2_VAE

__all__ = ["T5EncoderModel", "Wan2_1_VAE", "Wan2_2_VAE", "WanModel", "flash_attention"]
