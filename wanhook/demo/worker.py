"""One rank of the demo. Started by torchrun; `torchrun -m wanhook.demo.worker` does as well as the launcher."""

import argparse
import dataclasses
import hashlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable

import torch

import wanhook

from .options import add_work_options
from .pipeline import Pipeline
from .presets import PRESETS, Preset
from .ranks import Ranks


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    _quieten()
    ranks = Ranks.open(args.device)
    own_recording = os.environ.get("WANHOOK") != "1"  # under 1 the environment has started one already
    if own_recording:
        wanhook.start(level=args.level)  # into WANHOOK_OUT; under WANHOOK=0 it does nothing, and neither do the scopes
    _run(args, ranks)
    if own_recording:
        wanhook.stop()
    # not after a failure: leaving a group whose other members hang would hang this rank as well
    ranks.close()
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="wanhook.demo.worker", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    add_work_options(parser, default_preset=None)
    args = parser.parse_args(argv)
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    args.preset = args.preset or ("gpu" if args.device == "cuda" else "tiny")
    return args


def _quieten() -> None:
    """Keeps what a reader of the demo can do nothing about off the terminal."""
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\..*")


def _run(args: argparse.Namespace, ranks: Ranks) -> None:
    preset = PRESETS[args.preset]
    if args.steps:
        preset = dataclasses.replace(preset, steps=args.steps)
    offload = args.offload if args.offload is not None else ranks.size == 1
    say = _progress(ranks)
    pipeline = Pipeline(preset, ranks, offload, say)
    pipeline.load()
    say(_sizes(pipeline, preset))
    began = time.perf_counter()
    video = pipeline.generate()
    if video is not None:
        line = describe_video(video)
        print(f"request took {time.perf_counter() - began:.2f} s\n{line}", flush=True)


def _progress(ranks: Ranks) -> Callable[[str], None]:
    """Prints a line on rank 0, with the host's seconds since now; on the GPU these are times of launch."""
    if ranks.rank != 0:
        return lambda line: None
    began = time.perf_counter()
    return lambda line: print(f"{time.perf_counter() - began:7.2f} s  {line}", flush=True)


def _sizes(pipeline: Pipeline, preset: Preset) -> str:
    size = pipeline.ranks.size
    weights = sum(p.numel() for p in pipeline.experts["low_noise"].parameters()) * size / 1e6
    frames, height, width = preset.video.frames, preset.video.height, preset.video.width
    return f"{width}x{height}, {frames} frames: {preset.tokens} tokens; {weights:.1f} M weights an expert"


def describe_video(video: torch.Tensor) -> str:
    """One line that is equal for equal videos [3, frames, height, width]: shape, moments and a checksum of the bits."""
    frames = video.float().cpu().contiguous()
    digest = hashlib.sha256(frames.numpy().tobytes()).hexdigest()[:16]
    shape = "x".join(str(n) for n in frames.shape)
    return f"video {shape} mean {frames.mean():.6f} std {frames.std():.6f} checksum {digest}"


if __name__ == "__main__":
    sys.exit(main())
