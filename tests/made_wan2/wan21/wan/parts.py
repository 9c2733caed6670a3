"""What the pipelines would otherwise repeat."""

import logging
import types

import torch
import torch.distributed as dist

from .modules.movable import GPU
from .modules.t5 import T5EncoderModel
from .modules.vae import WanVAE
from .utils.fm_solvers import FlowDPMSolverMultistepScheduler, get_sampling_sigmas, retrieve_timesteps
from .utils.fm_solvers_unipc import FlowUniPCMultistepScheduler

CPU = torch.device("cpu")  # of tensors; models are moved to what stands for the GPU


class Parts:
    def begin(self, config, rank, shard_fn):
        self.config, self.rank, self.num_train_timesteps = config, rank, config.num_train_timesteps
        self.text_encoder = T5EncoderModel(config.text_len, device=CPU, checkpoint_path="t5", shard_fn=shard_fn)
        self.vae = WanVAE()
        logging.info(f"Creating {type(self).__name__}")

    def configured(self, model, use_usp, dit_fsdp, shard_fn):
        model.eval().requires_grad_(False)
        if use_usp:
            from .distributed.xdit_context_parallel import usp_attn_forward, usp_dit_forward, usp_dit_forward_vace

            for block in [*model.blocks, *getattr(model, "vace_blocks", [])]:
                block.self_attn.forward = types.MethodType(usp_attn_forward, block.self_attn)
            model.forward = types.MethodType(usp_dit_forward, model)
            model.forward_vace = types.MethodType(usp_dit_forward_vace, model)
        if dist.is_initialized():
            dist.barrier()
        return shard_fn(model) if dit_fsdp else model.to(GPU)

    def encoded(self, prompt, offload_model):
        self.text_encoder.model.to(GPU)
        context = self.text_encoder([prompt], CPU), self.text_encoder(["no"], CPU)
        if offload_model:
            self.text_encoder.model.cpu()
        return context

    def solver(self, sample_solver, steps, shift):
        if sample_solver == "unipc":
            made = FlowUniPCMultistepScheduler(self.num_train_timesteps)
            made.set_timesteps(steps, device=CPU, shift=shift)
            return made, made.timesteps
        made = FlowDPMSolverMultistepScheduler(self.num_train_timesteps)
        return made, retrieve_timesteps(made, device=CPU, sigmas=get_sampling_sigmas(steps, shift))[0]

    def stepped(self, solver, latents, t, cond, uncond, **more):
        timestep = torch.stack([t])
        self.model.to(GPU)
        wanted = self.model(latents, t=timestep, context=cond, seq_len=32, **more)[0]
        unwanted = self.model(latents, t=timestep, context=uncond, seq_len=32, **more)[0]
        return [solver.step(unwanted + 3.0 * (wanted - unwanted), t, latents[0], return_dict=False)[0]]

    def noise(self, seed):
        return [torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(seed))]

    def finished(self, latents, offload_model):
        self.last_latents = latents[0]
        if offload_model:
            self.model.cpu()
        video = self.vae.decode(latents) if self.rank == 0 else None
        if dist.is_initialized():
            dist.barrier()
        return video[0] if self.rank == 0 else None
