"""Runs Wan's own generate.py, unchanged, as one rank of a launch: small weights, stand-ins, a note of the result.

    torchrun --nproc-per-node 2 -m benchmarks.wan22.unchanged --task t2v-A14B ... (all of generate.py's arguments)

Settings come by environment, as the arguments are all generate.py's: WAN22_REPO (checkout), WAN22_SIZE (see `sizes`),
WAN22_RESULTS (folder for `latents-RANK.txt`), WAN22_BREAK (exception or kill: what rank 1 does in its third step;
pause: every rank waits there for a signal). With `--prepare FOLDER TASK` alone it writes the weights instead.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import runpy
import signal
import sys
import time
import warnings
from pathlib import Path

import torch

from . import checkpoint, without_gpu
from .sizes import SIZES
from .stand_ins import choose_attention_of_xfuser, import_wan

_PIPELINES = {"t2v-A14B": "wan.text2video", "ti2v-5B": "wan.textimage2video", "t2v-14B": "wan.text2video"}
_BREAK_IN_STEP = 3
_LONGEST_PAUSE = 300  # seconds
_SEED = 7


def prepare(folder: Path, task: str) -> None:
    """Write everything that the task's constructor loads under `folder`."""
    from wan.configs import WAN_CONFIGS

    size, config = SIZES[os.environ["WAN22_SIZE"]], WAN_CONFIGS[task]
    checkpoint.write_checkpoint(folder, config, size, _SEED)
    checkpoint.write_models(folder, config, size, _SEED)


def fit(repository: Path) -> None:
    """Import Wan and make it small; on a machine without a GPU, make it run there."""
    choose_attention_of_xfuser()
    import_wan(repository)
    import wan.configs as configs

    size = SIZES[os.environ["WAN22_SIZE"]]
    checkpoint.shrink(size)
    name = "{}*{}".format(*size.video)
    configs.SIZE_CONFIGS[name] = size.video
    configs.MAX_AREA_CONFIGS[name] = size.video[0] * size.video[1]
    tasks = [task for task in _PIPELINES if task in configs.WAN_CONFIGS]
    for task in tasks:
        configs.SUPPORTED_SIZES[task] += (name,)
    if not torch.cuda.is_available():
        warnings.filterwarnings("ignore")
        for task in tasks:
            configs.WAN_CONFIGS[task].t5_dtype = configs.WAN_CONFIGS[task].param_dtype = torch.float32
        without_gpu.patch(*(importlib.import_module(_PIPELINES[task]) for task in tasks))
        without_gpu.patch_start()


class Latents:
    """Those of the last solver step: only rank 0 decodes, so this is where every rank's result can be had."""

    def __init__(self) -> None:
        from wan.utils.fm_solvers_unipc import FlowUniPCMultistepScheduler as Solver

        self.last, self._steps, self._step = None, 0, Solver.step
        Solver.step = lambda solver, *args, **kwargs: self._keep(solver, *args, **kwargs)

    def _keep(self, solver, *args, **kwargs):
        result = self._step(solver, *args, **kwargs)
        self.last, self._steps = result[0], self._steps + 1
        if self._steps == _BREAK_IN_STEP:
            self._break(os.environ.get("WAN22_BREAK", ""))
        return result

    def _break(self, how: str) -> None:
        rank = os.environ.get("RANK", "0")
        # All ranks pause, as one that waited for another within NCCL could not be interrupted.
        if not how or (how != "pause" and rank != "1"):
            return
        results().joinpath(f"in-step-{rank}").touch()
        if how == "exception":
            raise ValueError("asked for by WAN22_BREAK")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(_LONGEST_PAUSE)

    def digest(self) -> str:
        latents = self.last.detach().cpu()
        if not torch.isfinite(latents).all():
            raise ValueError("the latents hold NaN or infinity; equality would prove nothing")
        return hashlib.sha256(latents.contiguous().numpy().tobytes()).hexdigest()


def results() -> Path:
    """The folder for this launch's results, made where it is missing."""
    folder = Path(os.environ["WAN22_RESULTS"])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main() -> None:
    repository = Path(os.environ["WAN22_REPO"]).resolve()
    fit(repository)
    if sys.argv[1:2] == ["--prepare"]:
        prepare(Path(sys.argv[2]), sys.argv[3])
        return
    latents = Latents()
    sys.argv[0] = str(repository / "generate.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
    results().joinpath(f"latents-{os.environ.get('RANK', '0')}.txt").write_text(latents.digest())


if __name__ == "__main__":
    main()
