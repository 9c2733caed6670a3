import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "shared" / "packages"))

from . import configs, distributed, modules
from .image2video import WanI2V
from .speech2video import WanS2V
from .text2video import WanT2V
from .textimage2video import WanTI2V
from .animate import WanAnimate
