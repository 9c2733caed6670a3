import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "shared" / "packages"))

from . import configs, distributed, modules
from .first_last_frame2video import WanFLF2V
from .image2video import WanI2V
from .text2video import WanT2V
from .vace import WanVace, WanVaceMP
