from functools import partial

import torch
from tqdm import tqdm

from .distributed.fsdp import shard_model
from .modules.model import WanModel
from .modules.vae2_1 import Wan2_1_VAE
from .parts import CPU, Parts


class WanI2V(Parts):
    def __init__(self, config, checkpoint_dir, rank=0, t5_fsdp=False, dit_fsdp=False, use_sp=False):
        shard_fn = partial(shard_model, device_id=0)
        self.begin(config, rank, shard_fn if t5_fsdp else None, use_sp)
        self.boundary = config.boundary
        self.vae = Wan2_1_VAE()
        for name in ("low_noise", "high_noise"):
            folder = getattr(config, f"{name}_checkpoint")
            model = WanModel.from_pretrained(checkpoint_dir, subfolder=folder)
            model = self._configure_model(model=model, use_sp=use_sp, dit_fsdp=dit_fsdp, shard_fn=shard_fn)
            setattr(self, f"{name}_model", model)

    def _configure_model(self, model, use_sp, dit_fsdp, shard_fn):
        return self.configured(model, use_sp, dit_fsdp, shard_fn)

    def _prepare_model_for_timestep(self, t, boundary, offload_model):
        return self.chosen(t, boundary, offload_model)

    @torch.no_grad()
    def generate(
        self, input_prompt, img, max_area=64, frame_num=2, shift=5.0, sample_solver="unipc", sampling_steps=4, seed=-1,
        offload_model=True,
    ):  # fmt: skip
        cond, uncond = self.encoded(input_prompt, offload_model)
        boundary = self.boundary * self.num_train_timesteps
        y = self.vae.encode([img.to(CPU)])[0]
        solver, timesteps = self.solver(sample_solver, sampling_steps, shift)
        latents = [self.noise(seed)[0] + y]
        for _, t in enumerate(tqdm(timesteps)):
            model = self._prepare_model_for_timestep(t, boundary, offload_model)
            latents = self.stepped(solver, model, latents, t, cond, uncond)
        if offload_model:
            self.low_noise_model.cpu()
            self.high_noise_model.cpu()
        return self.finished(latents, self.vae.decode)
