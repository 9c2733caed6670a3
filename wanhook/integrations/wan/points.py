"""Every place at which Wan is attached to: the one table that docs/integrations.md repeats for readers.

A row names a module, an attribute in it, and what to put around it. Module, attribute and scope names are Wan's and the
recorder's contract with its readers: a change here is a change of docs/integrations.md and of the reports.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

BOTH, WAN21, WAN22 = ("2.1", "2.2"), ("2.1",), ("2.2",)
_LEVELS = ("stage", "block", "op")


@dataclass(frozen=True)
class Point:
    """``attribute``: ``Class.method`` or a function of ``module``. ``kind``: the wrapper, by its name in `wrapping`.
    ``scope``: what is recorded. ``level``: the least that records it; roles are tagged at every level."""

    module: str
    attribute: str
    scope: str
    kind: str = "scope"
    level: str = "stage"
    generations: tuple[str, ...] = BOTH

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"

    @property
    def loses(self) -> str:
        """What a recording lacks without this point."""
        return f"the roles {self.scope}" if self.kind == "all_to_all" else f"the scope {self.scope}"

    @property
    def is_wans(self) -> bool:
        """False for what belongs to other packages: that is left alone until a module of Wan's is imported."""
        return self.module.startswith("wan.")

    def is_recorded_at(self, level: str) -> bool:
        return _LEVELS.index(self.level) <= _LEVELS.index(level)


def generation() -> str:
    """Which of the two repositories `wan` comes from, told by a file that only the second has."""
    wan = sys.modules.get("wan")
    folders = getattr(wan, "__path__", ()) or ()
    return "2.2" if any((Path(folder) / "distributed" / "ulysses.py").is_file() for folder in folders) else "2.1"


def _pipelines() -> list[Point]:
    """What each pipeline class has: its constructor, its one public method, and the loop over the steps."""
    classes = (
        ("wan.text2video", "WanT2V", BOTH, True),
        ("wan.image2video", "WanI2V", BOTH, True),
        ("wan.first_last_frame2video", "WanFLF2V", WAN21, False),
        ("wan.vace", "WanVace", WAN21, False),
        ("wan.textimage2video", "WanTI2V", WAN22, False),
        ("wan.speech2video", "WanS2V", WAN22, False),
        ("wan.animate", "WanAnimate", WAN22, False),
    )
    found = [Point("wan.vace", "WanVaceMP.generate", "request", "request", generations=WAN21), *_sources()]
    for module, name, generations, two_experts in classes:
        found += [
            Point(module, f"{name}.__init__", "load", "load", generations=generations),
            Point(module, f"{name}.generate", "request", "request", generations=generations),
            Point(module, "tqdm", "denoise", "loop", generations=generations),
        ]
        if "2.2" in generations:
            found.append(Point(module, f"{name}._configure_model", "configure", "configure", generations=WAN22))
        if two_experts:
            switch = f"{name}._prepare_model_for_timestep"
            found.append(Point(module, switch, "expert_switch", "expert_switch", generations=WAN22))
    return found


def _sources() -> list[Point]:
    """What S2V and Animate make of the sound and the videos that they are given."""
    speech, animate = "wan.speech2video", "wan.animate"
    return [
        Point(speech, "WanS2V.encode_audio", "audio_encode", generations=WAN22),
        Point(speech, "WanS2V.load_pose_cond", "pose_encode", generations=WAN22),
        Point(animate, "WanAnimate.prepare_source", "prepare_source", generations=WAN22),
        Point(animate, "WanAnimate.prepare_source_for_replace", "prepare_source", generations=WAN22),
    ]


def _components() -> list[Point]:
    """Text encoder, VAE and CLIP; `offload` where their modules are moved within a request."""
    t5 = "wan.modules.t5"
    found = [
        Point(t5, "T5EncoderModel.__init__", "load_t5", "load_part"),
        Point(t5, "T5EncoderModel.__call__", "text_encode"),
        *_moves(t5, "T5Encoder", BOTH),
    ]
    for module, name, generations in (
        ("wan.modules.vae", "WanVAE", WAN21),
        ("wan.modules.vae2_1", "Wan2_1_VAE", WAN22),
        ("wan.modules.vae2_2", "Wan2_2_VAE", WAN22),
    ):
        found += [
            Point(module, f"{name}.__init__", "load_vae", "load_part", generations=generations),
            Point(module, f"{name}.encode", "vae_encode", generations=generations),
            Point(module, f"{name}.decode", "vae_decode", generations=generations),
        ]
    found.append(
        Point("wan.modules.s2v.audio_encoder", "AudioEncoder.__init__", "load_audio", "load_part", generations=WAN22)
    )
    for module, generations in (("wan.modules.clip", WAN21), ("wan.modules.animate.clip", WAN22)):
        found += [
            Point(module, "CLIPModel.__init__", "load_clip", "load_part", generations=generations),
            Point(module, "CLIPModel.visual", "clip_encode", generations=generations),
            *_moves(module, "XLMRobertaCLIP", generations),
        ]
    return found


def _models() -> list[Point]:
    """Models, blocks and attentions. `__call__` on the class: `forward` is rebound on instances under sequence
    parallelism, and FSDP reaches its units through it."""
    model, vace, s2v = "wan.modules.model", "wan.modules.vace_model", "wan.modules.s2v.model_s2v"
    animate = "wan.modules.animate.model_animate"
    models = ((model, "WanModel", BOTH), (s2v, "WanModel_S2V", WAN22), (animate, "WanAnimateModel", WAN22))
    found = []
    for module, name, generations in models:
        found += [
            Point(module, f"{name}.from_pretrained", "load_dit", "load_dit", generations=generations),
            Point(module, f"{name}.__call__", "dit_forward", "dit_forward", generations=generations),
            *_moves(module, name, generations),
        ]
    # A class that inherits from one with the same scope needs no row.
    return [
        *found,
        Point(model, "WanAttentionBlock.__call__", "block", "block", "block"),
        Point(vace, "VaceWanAttentionBlock.__call__", "vace_block", "block", "block", WAN21),
        Point(animate, "WanAnimateAttentionBlock.__call__", "block", "block", "block", WAN22),
        Point(model, "WanSelfAttention.__call__", "self_attn", level="op"),
        Point(model, "WanT2VCrossAttention.__call__", "cross_attn", level="op", generations=WAN21),
        Point(model, "WanI2VCrossAttention.__call__", "cross_attn", level="op", generations=WAN21),
        Point(model, "WanCrossAttention.__call__", "cross_attn", level="op", generations=WAN22),
        Point(animate, "WanAnimateCrossAttention.__call__", "cross_attn", level="op", generations=WAN22),
        Point("wan.modules.attention", "flash_attention", "attn_kernel", level="op"),
    ]


def _moves(module: str, name: str, generations: tuple[str, ...]) -> list[Point]:
    return [Point(module, f"{name}.{verb}", "offload", "offload", generations=generations) for verb in ("to", "cpu")]


def _solvers() -> list[Point]:
    classes = (
        ("wan.utils.fm_solvers_unipc", "FlowUniPCMultistepScheduler"),
        ("wan.utils.fm_solvers", "FlowDPMSolverMultistepScheduler"),
    )
    return [
        point
        for module, name in classes
        for point in (
            Point(module, f"{name}.set_timesteps", "the timestep of denoise_step", "timesteps"),
            Point(module, f"{name}.step", "scheduler_step"),
        )
    ]


def _parallel() -> list[Point]:
    """Ulysses and FSDP: Wan2.2 has its own exchange, Wan2.1 uses xfuser's and yunchang's."""
    util, ring = "wan.distributed.util", "xfuser.core.long_ctx_attention.ring.ring_flash_attn"
    coordinator = "xfuser.core.distributed.group_coordinator"
    sharded = "torch.distributed.fsdp.fully_sharded_data_parallel"
    return [
        Point(util, "all_to_all", "qkv and out", "all_to_all", generations=WAN22),
        Point(util, "gather_forward", "sp_gather", "sp_gather", generations=WAN22),
        Point("yunchang.comm.all_to_all", "all_to_all_4D", "qkv and out", "all_to_all", generations=WAN21),
        Point(coordinator, "GroupCoordinator.all_gather", "sp_gather", "sp_gather", generations=WAN21),
        Point(ring, "xdit_ring_flash_attn_func", "attn_kernel", level="op", generations=WAN21),
        Point("wan.distributed.fsdp", "shard_model", "fsdp_wrap", "load_part"),
        *_moves(sharded, "FullyShardedDataParallel", BOTH),
        Point("torch.distributed.distributed_c10d", "barrier", "barrier_wait"),
    ]


def _endings() -> list[Point]:
    module = "wan.utils.utils"
    return [
        Point(module, "save_video", "save", generations=WAN22),
        Point(module, "save_image", "save", generations=WAN22),
        Point(module, "merge_video_audio", "save", generations=WAN22),
        Point(module, "cache_video", "save", generations=WAN21),
        Point(module, "cache_image", "save", generations=WAN21),
    ]


POINTS = (*_pipelines(), *_components(), *_models(), *_solvers(), *_parallel(), *_endings())
