import os
from functools import partial

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tqdm import tqdm

from .distributed.fsdp import shard_model
from .modules.vace_model import VaceWanModel
from .text2video import WanT2V

WORKERS = 2


class WanVace(WanT2V):
    def __init__(self, config, checkpoint_dir, rank=0, t5_fsdp=False, dit_fsdp=False, use_usp=False):
        shard_fn = partial(shard_model, device_id=0)
        self.begin(config, rank, shard_fn if t5_fsdp else None)
        self.model = self.configured(VaceWanModel.from_pretrained(checkpoint_dir), use_usp, dit_fsdp, shard_fn)

    @torch.no_grad()
    def generate(
        self, input_prompt, frames, size=(8, 8), frame_num=2, shift=5.0, sample_solver="unipc", sampling_steps=4,
        seed=-1, offload_model=True,
    ):  # fmt: skip
        cond, uncond = self.encoded(input_prompt, offload_model)
        latents = self.noise(seed)
        latents = [latents[0] + self.vae.encode([frames])[0]]
        solver, timesteps = self.solver(sample_solver, sampling_steps, shift)
        for _, t in enumerate(tqdm(timesteps)):
            latents = self.stepped(solver, latents, t, cond, uncond)
        return self.finished(latents, offload_model)


class WanVaceMP(WanVace):
    """Its constructor loads nothing, and its generate() computes nothing: processes of its own do, without a rank in
    their environment that would be theirs."""

    def __init__(self, config, checkpoint_dir, use_usp=False, ulysses_size=None, ring_size=None):
        self.config, self.checkpoint_dir, self.use_usp = config, checkpoint_dir, use_usp
        os.environ.update(RANK="0", WORLD_SIZE="1")
        self.dynamic_load()

    def dynamic_load(self):
        managers = [mp.Manager() for _ in range(2)]
        in_queues, out_queue = [managers[0].Queue() for _ in range(WORKERS)], managers[1].Queue()
        ready = [managers[0].Event() for _ in range(WORKERS)]
        arguments = (WORKERS, in_queues, out_queue, ready, self)
        self.context = mp.spawn(self.mp_worker, nprocs=WORKERS, args=arguments, join=False)
        while not all(one.is_set() for one in ready):
            self.context.join(timeout=0.1)  # raises where one has failed
        self.managers, self.in_queues, self.out_queue = managers, in_queues, out_queue

    def mp_worker(self, rank, world_size, in_queues, out_queue, ready, work_env):
        # Wan has a fixed port here, which a test would share with others.
        meeting = f"file://{os.getcwd()}/meeting"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
        from xfuser.core.distributed import init_distributed_environment, initialize_model_parallel

        init_distributed_environment(rank=rank, world_size=world_size)
        initialize_model_parallel(sequence_parallel_degree=world_size, ring_degree=1, ulysses_degree=world_size)
        shard_fn = partial(shard_model, device_id=rank)
        self.begin(self.config, rank, shard_fn)
        self.model = self.configured(VaceWanModel.from_pretrained(self.checkpoint_dir), self.use_usp, True, shard_fn)
        ready[rank].set()
        while (item := in_queues[rank].get()) is not None:
            self.serve(item, out_queue)

    @torch.no_grad()
    def serve(self, item, out_queue):
        input_prompt, frames, shift, sample_solver, sampling_steps, seed = item
        cond, uncond = self.text_encoder([input_prompt], "cpu"), self.text_encoder(["no"], "cpu")
        latents = [self.noise(seed)[0] + self.vae.encode([frames])[0]]
        solver, timesteps = self.solver(sample_solver, sampling_steps, shift)
        for _, t in enumerate(tqdm(timesteps)):
            latents = self.stepped(solver, latents, t, cond, uncond)
        video = self.finished(latents, False)
        if self.rank == 0:
            out_queue.put(video)

    def generate(
        self, input_prompt, frames, size=(8, 8), frame_num=2, shift=5.0, sample_solver="unipc", sampling_steps=4,
        seed=-1, offload_model=True,
    ):  # fmt: skip
        item = (input_prompt, frames, shift, sample_solver, sampling_steps, seed)
        for queue in self.in_queues:
            queue.put(item)
        return self.out_queue.get()

    def end(self):
        """Wan's own workers are killed instead."""
        for queue in self.in_queues:
            queue.put(None)
        self.context.join()
