from pathlib import Path

__path__.append(str(Path(__file__).parents[4] / "shared" / "modules"))

from .model_animate import WanAnimateModel
from .clip import CLIPModel

__all__ = ["CLIPModel", "WanAnimateModel"]
