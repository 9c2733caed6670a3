"""Wan2.2's WanT2V with random weights, sharded by FSDP and Ulysses over all ranks, ready to serve requests."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from . import checkpoint, without_gpu
from .sizes import SIZES, Size
from .stand_ins import import_wan

PROMPT = "Two anthropomorphic cats in comfy boxing gear fight intensely on a spotlighted stage."


class Ranks:
    """This process among the ranks.

    What the harness itself has to agree on goes through torch.distributed's store: a collective of its own would be in
    the recordings, and would touch the GPU.
    """

    def __init__(self, rank: int, world_size: int, device: torch.device, store: dist.Store):
        self.rank, self.world_size, self.device = rank, world_size, device
        self._store, self._round = store, 0

    def gather(self, value) -> list:
        """`value` (anything that JSON holds) of every rank, in rank order, on every rank. Waits for all of them."""
        self._round += 1
        self._store.set(f"wan22/{self._round}/{self.rank}", json.dumps(value))
        return [json.loads(self._store.get(f"wan22/{self._round}/{rank}")) for rank in range(self.world_size)]

    def synchronize(self) -> None:
        """Wait for this rank's GPU, then for all ranks."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.gather(None)

    def leave(self) -> None:
        """Wait for all ranks, so that none loses its peers while it works, and end torch.distributed as Wan does."""
        self.gather(None)
        dist.destroy_process_group()


@dataclass
class Pipeline:
    """A loaded WanT2V. `latents` are those of the last finished solver step, [1, 16, frames, height, width]."""

    wan: object
    size: Size
    ranks: Ranks
    load_seconds: float = 0.0
    latents: torch.Tensor | None = None

    def generate(self, seed: int, steps: int | None = None) -> torch.Tensor | None:
        """One request through Wan's own `generate()`. Returns the video [3, frames, height, width] on rank 0 only."""
        config = self.wan.config
        return self.wan.generate(
            PROMPT,
            size=self.size.video,
            frame_num=self.size.frames,
            shift=config.sample_shift,
            sampling_steps=steps or self.size.steps,
            guide_scale=config.sample_guide_scale,
            seed=seed,
            offload_model=False,
        )

    def latents_digest(self) -> str:
        """SHA-256 of the final latents' bytes on this rank. Raises ValueError when they are not finite."""
        latents = self.latents.detach().cpu()
        if not torch.isfinite(latents).all():
            raise ValueError("the latents hold NaN or infinity; equality would prove nothing")
        return hashlib.sha256(latents.contiguous().numpy().tobytes()).hexdigest()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that every entry point here has."""
    parser.add_argument("--wan", type=Path, default=os.environ.get("WAN22_REPO"), help="Wan2.2 checkout (WAN22_REPO)")
    parser.add_argument("--size", choices=sorted(SIZES), default="14b" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="solver steps, instead of the size's own")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the recordings")
    parser.add_argument("--out", type=Path, help="write the result as JSON")


def join_ranks() -> Ranks:
    """Set the device and start torch.distributed as Wan's generate.py does. Needs torchrun's environment."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group(backend="nccl", init_method="env://", rank=rank, world_size=world_size)
    else:
        device = torch.device("cpu")
        dist.init_process_group(backend="gloo", init_method="env://", rank=rank, world_size=world_size)
    return Ranks(rank, world_size, device, dist.distributed_c10d._get_default_store())


def build_pipeline(repository: Path | None, size: Size, seed: int = 7) -> Pipeline:
    """Join the ranks, import Wan2.2, make the weights and construct WanT2V with FSDP (DiT and T5) and Ulysses.

    Raises FileNotFoundError without a checkout, ValueError when the heads do not divide by the ranks.
    """
    if repository is None:
        raise FileNotFoundError("name a Wan2.2 checkout with --wan or WAN22_REPO")
    warnings.filterwarnings("ignore", category=FutureWarning)
    ranks = join_ranks()
    if size.heads % ranks.world_size:
        raise ValueError(f"{size.heads} heads do not divide by {ranks.world_size} ranks")
    started = time.perf_counter()
    text2video = import_wan(Path(repository).resolve())
    if ranks.device.type == "cpu":
        warnings.filterwarnings("ignore", message=".*CUDA is not available.*")
        without_gpu.patch(text2video)
    text2video.tqdm = partial(text2video.tqdm, disable=True)
    pipeline = Pipeline(_construct(text2video, size, ranks, seed), size, ranks)
    _keep_latents(text2video.FlowUniPCMultistepScheduler, pipeline)
    ranks.synchronize()
    pipeline.load_seconds = time.perf_counter() - started
    return pipeline


def _construct(text2video, size: Size, ranks: Ranks, seed: int):
    from wan.configs import WAN_CONFIGS

    config = WAN_CONFIGS["t2v-A14B"]
    if ranks.device.type == "cpu":
        config.t5_dtype = config.param_dtype = torch.float32
    checkpoint.shrink(size)
    checkpoint.build_experts_in_memory(text2video.WanModel, size, ranks.device, seed)
    folder = Path(ranks.gather(tempfile.mkdtemp(prefix="wan22-") if ranks.rank == 0 else None)[0])
    try:
        if ranks.rank == 0:
            checkpoint.write_checkpoint(folder, config, size, seed)
        ranks.synchronize()
        wan = text2video.WanT2V(
            config=config,
            checkpoint_dir=str(folder),
            device_id=ranks.device.index or 0,
            rank=ranks.rank,
            t5_fsdp=True,
            dit_fsdp=True,
            use_sp=True,
        )
        ranks.synchronize()
    finally:
        if ranks.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
    return wan


def _keep_latents(scheduler: type, pipeline: Pipeline) -> None:
    """Only rank 0 decodes, so the last scheduler step is where every rank's latents can be had."""
    step = scheduler.step

    def keeping_step(self, *args, **kwargs):
        result = step(self, *args, **kwargs)
        pipeline.latents = result[0]
        return result

    scheduler.step = keeping_step


def sized(arguments: argparse.Namespace) -> Size:
    """The size that the arguments ask for."""
    size = SIZES[arguments.size]
    return replace(size, steps=arguments.steps) if arguments.steps else size


def say(ranks: Ranks, text: str = "") -> None:
    """Print once, from rank 0."""
    if ranks.rank == 0:
        print(text, flush=True)
