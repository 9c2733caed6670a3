from functools import partial

import torch
from tqdm import tqdm

from .distributed.fsdp import shard_model
from .modules.clip import CLIPModel
from .modules.model import WanModel
from .parts import GPU, Parts


class WanFLF2V(Parts):
    def __init__(self, config, checkpoint_dir, rank=0, t5_fsdp=False, dit_fsdp=False, use_usp=False):
        shard_fn = partial(shard_model, device_id=0)
        self.begin(config, rank, shard_fn if t5_fsdp else None)
        self.clip = CLIPModel(device=GPU)
        self.model = self.configured(
            WanModel.from_pretrained(checkpoint_dir, model_type="i2v"), use_usp, dit_fsdp, shard_fn
        )

    @torch.no_grad()
    def generate(
        self, input_prompt, first, last, size=(8, 8), frame_num=2, shift=5.0, sample_solver="unipc",
        sampling_steps=4, seed=-1, offload_model=True,
    ):  # fmt: skip
        cond, uncond = self.encoded(input_prompt, offload_model)
        latents = self.noise(seed)
        self.clip.model.to(GPU)
        more = {"clip_fea": self.clip.visual([torch.cat([first[:, :1], last[:, -1:]], dim=1)])}
        if offload_model:
            self.clip.model.cpu()
        latents = [latents[0] + self.vae.encode([first])[0]]
        solver, timesteps = self.solver(sample_solver, sampling_steps, shift)
        for _, t in enumerate(tqdm(timesteps)):
            latents = self.stepped(solver, latents, t, cond, uncond, **more)
        return self.finished(latents, offload_model)
