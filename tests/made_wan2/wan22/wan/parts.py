"""What the pipelines would otherwise repeat."""

import logging
import types

import torch
import torch.distributed as dist

from .distributed.sequence_parallel import sp_attn_forward, sp_dit_forward
from .modules.movable import GPU
from .modules.t5 import T5EncoderModel
from .utils.fm_solvers import FlowDPMSolverMultistepScheduler, get_sampling_sigmas, retrieve_timesteps
from .utils.fm_solvers_unipc import FlowUniPCMultistepScheduler

CPU = torch.device("cpu")  # of tensors; models are moved to what stands for the GPU


class Parts:
    def begin(self, config, rank, shard_fn, use_sp):
        self.config, self.rank, self.init_on_cpu, self.use_sp = config, rank, False, use_sp
        self.num_train_timesteps = config.num_train_timesteps
        self.text_encoder = T5EncoderModel(config.text_len, device=CPU, checkpoint_path="t5", shard_fn=shard_fn)
        logging.info(f"Creating {type(self).__name__}")

    def configured(self, model, use_sp, dit_fsdp, shard_fn):
        model.eval().requires_grad_(False)
        if use_sp:
            for block in model.blocks:
                block.self_attn.forward = types.MethodType(sp_attn_forward, block.self_attn)
            if hasattr(model, "use_context_parallel"):  # a forward that knows by itself
                model.use_context_parallel = True
            else:
                model.forward = types.MethodType(sp_dit_forward, model)
        if dist.is_initialized():
            dist.barrier()
        return shard_fn(model) if dit_fsdp else model.to(GPU)

    def encoded(self, prompt, offload_model):
        self.text_encoder.model.to(GPU)
        context = self.text_encoder([prompt], CPU), self.text_encoder(["no"], CPU)
        if offload_model:
            self.text_encoder.model.cpu()
        return context

    def chosen(self, t, boundary, offload_model):
        names = ("high_noise_model", "low_noise_model")
        wanted, other = names if t.item() >= boundary else names[::-1]
        if offload_model or self.init_on_cpu:
            if next(getattr(self, other).parameters()).device.type == GPU.type:
                getattr(self, other).to("cpu")
            if next(getattr(self, wanted).parameters()).device.type == "cpu":
                getattr(self, wanted).to(GPU)
        return getattr(self, wanted)

    def solver(self, sample_solver, steps, shift):
        if sample_solver == "unipc":
            made = FlowUniPCMultistepScheduler(self.num_train_timesteps)
            made.set_timesteps(steps, device=CPU, shift=shift)
            return made, made.timesteps
        made = FlowDPMSolverMultistepScheduler(self.num_train_timesteps)
        return made, retrieve_timesteps(made, device=CPU, sigmas=get_sampling_sigmas(steps, shift))[0]

    def noise(self, seed, frames=2, size=(4, 4)):
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(4, frames, *size, generator=generator)]

    def stepped(self, solver, model, latents, t, cond, uncond, **more):
        timestep = torch.stack([t])
        wanted = model(latents, t=timestep, context=cond, seq_len=32, **more)[0]
        unwanted = model(latents, t=timestep, context=uncond, seq_len=32, **more)[0]
        return [solver.step(unwanted + 3.0 * (wanted - unwanted), t, latents[0], return_dict=False)[0]]

    def finished(self, latents, decode, everywhere=False):
        self.last_latents = latents[0]
        video = decode(latents) if everywhere or self.rank == 0 else None
        if dist.is_initialized():
            dist.barrier()
        return video[0] if self.rank == 0 else None
