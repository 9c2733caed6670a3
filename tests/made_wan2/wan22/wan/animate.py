from functools import partial

import torch
from tqdm import tqdm

from .distributed.fsdp import shard_model
from .modules.animate import CLIPModel, WanAnimateModel
from .modules.vae2_1 import Wan2_1_VAE
from .parts import GPU, Parts


class WanAnimate(Parts):
    def __init__(self, config, checkpoint_dir, rank=0, t5_fsdp=False, dit_fsdp=False, use_sp=False):
        shard_fn = partial(shard_model, device_id=0)
        self.begin(config, rank, shard_fn if t5_fsdp else None, use_sp)
        self.vae = Wan2_1_VAE()
        model = WanAnimateModel.from_pretrained(checkpoint_dir)
        self.clip = CLIPModel(device=GPU)
        self.model = self._configure_model(model=model, use_sp=use_sp, dit_fsdp=dit_fsdp, shard_fn=shard_fn)

    def _configure_model(self, model, use_sp, dit_fsdp, shard_fn):
        return self.configured(model, use_sp, dit_fsdp, shard_fn)

    def prepare_source(self, src_pose_path, src_face_path, src_ref_path):
        return torch.ones(2), torch.ones(2), torch.ones(1)

    def prepare_source_for_replace(self, src_bg_path, src_mask_path):
        return torch.ones(2), torch.ones(2)

    @torch.no_grad()
    def generate(
        self, ref_image, clip_len=2, shift=5.0, sample_solver="dpm++", sampling_steps=4, guide_scale=1.0, seed=-1,
        offload_model=True,
    ):  # fmt: skip
        cond, _ = self.encoded("what the person does", offload_model)
        self.prepare_source("pose.mp4", "face.mp4", "reference.png")
        self.prepare_source_for_replace("background.mp4", "mask.mp4")
        solver, timesteps = self.solver(sample_solver, sampling_steps, shift)
        clip_fea = self.clip.visual([ref_image])
        latents = [self.noise(seed)[0] + self.vae.encode([ref_image])[0]]
        for _, t in enumerate(tqdm(timesteps)):
            moved = self.model(latents, t=torch.stack([t]), clip_fea=clip_fea, context=cond, seq_len=32)[0]
            latents = [solver.step(moved, t, latents[0], return_dict=False)[0]]
        return self.finished(latents, self.vae.decode, everywhere=True)
