from functools import partial

import torch
from tqdm import tqdm

from .distributed.fsdp import shard_model
from .modules.model import WanModel
from .modules.vae2_2 import Wan2_2_VAE
from .parts import GPU, Parts


class WanTI2V(Parts):
    def __init__(self, config, checkpoint_dir, rank=0, t5_fsdp=False, dit_fsdp=False, use_sp=False):
        shard_fn = partial(shard_model, device_id=0)
        self.begin(config, rank, shard_fn if t5_fsdp else None, use_sp)
        self.vae = Wan2_2_VAE()
        model = WanModel.from_pretrained(checkpoint_dir)
        self.model = self._configure_model(model=model, use_sp=use_sp, dit_fsdp=dit_fsdp, shard_fn=shard_fn)

    def _configure_model(self, model, use_sp, dit_fsdp, shard_fn):
        return self.configured(model, use_sp, dit_fsdp, shard_fn)

    @torch.no_grad()
    def generate(
        self, input_prompt, img=None, size=(8, 8), max_area=64, frame_num=2, shift=5.0, sample_solver="unipc",
        sampling_steps=4, guide_scale=5.0, seed=-1, offload_model=True,
    ):  # fmt: skip
        cond, uncond = self.encoded(input_prompt, offload_model)
        assert self.vae.encode("no list") is None
        latents = self.noise(seed)
        if img is not None:
            latents = [latents[0] + self.vae.encode([img])[0]]
        solver, timesteps = self.solver(sample_solver, sampling_steps, shift)
        if offload_model or self.init_on_cpu:
            self.model.to(GPU)
        for _, t in enumerate(tqdm(timesteps)):
            latents = self.stepped(solver, self.model, latents, t, cond, uncond)
        if offload_model:
            self.model.cpu()
        return self.finished(latents, self.vae.decode)
