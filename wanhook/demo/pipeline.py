"""Text to video in Wan2.2's order: load everything, encode the prompts, denoise with two experts, decode on rank 0."""

from collections.abc import Callable

import torch

import wanhook
from wanhook import loading

from .model import Dit
from .presets import Preset
from .ranks import Ranks
from .scheduler import FlowScheduler, experts_of
from .sharding import call_sharded, compute_dtype, shard_model
from .text_encoder import TextEncoder, random_prompt
from .vae import VaeDecoder
from .weights import build

EXPERTS = ("low_noise", "high_noise")


class Pipeline:
    """Holds the models; `load()` once, then `generate()`. Both are collective.

    offload keeps on the device only what the current stage needs. It needs a single process: FSDP keeps references of
    its own to the shards, so that moving a sharded model frees nothing.
    """

    def __init__(self, preset: Preset, ranks: Ranks, offload: bool, say: Callable[[str], None]):
        if offload and ranks.size > 1:
            raise ValueError(f"offload needs a single process, there are {ranks.size}")
        self.preset = preset
        self.ranks = ranks
        self.offload = offload
        self.say = say
        self.experts: dict[str, torch.nn.Module] = {}
        self.active: str | None = None
        self.dtype = compute_dtype(ranks.device)

    def load(self) -> None:
        """Makes and places the models, each after the other, as Wan's constructor does."""
        with loading.measured("load"):
            self._load()

    def _load(self) -> None:
        preset = self.preset
        self.say("load text encoder")
        with loading.measured("load_t5"):
            model = build(lambda: TextEncoder(preset.text), preset.seed + 1)
            self.text_encoder = self._place(model, sync_module_states=False)
        self.say("load VAE decoder")
        with loading.measured("load_vae"):
            model = build(lambda: VaeDecoder(preset.vae, preset.video.latent_channels), preset.seed + 2)
            self.vae = model.to(self.ranks.device)
        for number, expert in enumerate(EXPERTS):
            self.say(f"load {expert} expert")
            with loading.measured("load_dit", expert=expert):
                self.experts[expert] = self._load_expert(preset.seed + 3 + number)

    def _load_expert(self, seed: int) -> torch.nn.Module:
        preset, ranks = self.preset, self.ranks
        channels = preset.video.latent_channels
        model = build(lambda: Dit(preset.dit, channels, preset.text.dim, ranks.rank, ranks.size), seed)
        ranks.barrier()
        return self._place(model, sync_module_states=True)

    def _place(self, model: torch.nn.Module, sync_module_states: bool) -> torch.nn.Module:
        if self.ranks.size > 1:
            return shard_model(model, self.ranks.device, sync_module_states)
        return model.to("cpu" if self.offload else self.ranks.device, self.dtype)

    @wanhook.trace("request")
    @torch.no_grad()
    def generate(self) -> torch.Tensor | None:
        """The video [3, frames, height, width] in -1..1 on rank 0, None on the others."""
        prompts = torch.Generator().manual_seed(self.preset.seed)
        cond = self._encode(self.preset.text.prompt, prompts)
        uncond = self._encode(self.preset.text.negative, prompts)
        if self.offload:
            self.text_encoder.cpu()
        latents = self._denoise(cond, uncond)
        video = self._decode(latents)
        with wanhook.trace("barrier_wait"):
            self.ranks.barrier()
        return video

    @wanhook.trace("text_encode")
    def _encode(self, tokens: int, generator: torch.Generator) -> torch.Tensor:
        """The encoding [text length, dim] of a random prompt, zero beyond its own tokens."""
        device = self.ranks.device
        ids, visible = (x.to(device) for x in random_prompt(self.preset.text, tokens, generator))
        if self.offload:
            self.text_encoder.to(device)
        encoded = call_sharded(self.text_encoder, ids, visible)[0]
        return encoded * visible[0].unsqueeze(-1)

    @wanhook.trace("denoise")
    def _denoise(self, cond: torch.Tensor, uncond: torch.Tensor) -> torch.Tensor:
        preset, device = self.preset, self.ranks.device
        generator = torch.Generator(device).manual_seed(preset.seed)
        latents = torch.randn(preset.video.latent, generator=generator, device=device)
        scheduler = FlowScheduler(preset.steps, preset.shift)
        experts = experts_of(scheduler.timesteps, preset.boundary)
        for step, (timestep, expert) in enumerate(zip(scheduler.timesteps, experts, strict=True)):
            self.say(f"denoise step {step + 1} of {preset.steps}, timestep {timestep}, {expert} expert")
            with wanhook.trace("denoise_step", step=step, expert=expert):
                latents = self._denoise_step(scheduler, step, latents, expert, cond, uncond)
        return latents

    def _denoise_step(self, scheduler, step: int, latents, expert: str, cond, uncond) -> torch.Tensor:
        model = self._activate(expert)
        timestep = torch.tensor([scheduler.timesteps[step]], device=latents.device)
        with wanhook.trace("dit_forward", cond=True):
            wanted = call_sharded(model, latents, timestep, cond)
        with wanhook.trace("dit_forward", cond=False):
            unwanted = call_sharded(model, latents, timestep, uncond)
        velocity = unwanted + self.preset.guidance * (wanted - unwanted)
        with wanhook.trace("scheduler_step"):
            return scheduler.step(velocity, step, latents)

    def _activate(self, expert: str) -> torch.nn.Module:
        """The expert's model, on the device; a change of expert is a scope, the first choice is not."""
        if self.active is None:
            self._move_experts(expert)
        elif self.active != expert:
            with wanhook.trace("expert_switch", expert=expert):
                self._move_experts(expert)
        self.active = expert
        return self.experts[expert]

    def _move_experts(self, wanted: str) -> None:
        if not self.offload:
            return
        for name in EXPERTS:
            if name != wanted:
                self.experts[name].cpu()
        self.experts[wanted].to(self.ranks.device)

    def _decode(self, latents: torch.Tensor) -> torch.Tensor | None:
        """On rank 0 only: the others go on to the barrier and wait there."""
        if self.offload:
            for model in self.experts.values():
                model.cpu()
            if self.ranks.device.type == "cuda":
                torch.cuda.empty_cache()
        if self.ranks.rank != 0:
            return None
        self.say(f"decode {latents.shape[1]} latent frames")
        with wanhook.trace("vae_decode"):
            return self.vae.decode(latents)
