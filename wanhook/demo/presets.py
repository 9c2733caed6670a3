"""Sizes of the demo, and the counts that follow from them. Knows no torch."""

import itertools
from dataclasses import dataclass

from .scheduler import FlowScheduler, experts_of


@dataclass(frozen=True)
class VideoShape:
    """frames = 4n + 1; height and width in pixels, multiples of 16."""

    frames: int
    height: int
    width: int
    latent_channels: int = 16

    @property
    def latent(self) -> tuple[int, int, int, int]:
        """[channels, latent frames, height / 8, width / 8]."""
        return self.latent_channels, (self.frames - 1) // 4 + 1, self.height // 8, self.width // 8


@dataclass(frozen=True)
class DitShape:
    dim: int
    ffn_dim: int
    heads: int
    layers: int
    freq_dim: int = 256
    patch: tuple[int, int, int] = (1, 2, 2)


@dataclass(frozen=True)
class TextShape:
    """length: tokens that a prompt is padded to; prompt, negative: tokens in use."""

    dim: int
    ffn_dim: int
    heads: int
    layers: int
    vocabulary: int
    length: int
    prompt: int
    negative: int


@dataclass(frozen=True)
class VaeShape:
    """widths: channels at 1/8, 1/4, 1/2 and full resolution."""

    widths: tuple[int, int, int, int]
    blocks: int = 1


@dataclass(frozen=True)
class Preset:
    """boundary: share of the timesteps at and above which the high noise expert is in charge."""

    name: str
    video: VideoShape
    dit: DitShape
    text: TextShape
    vae: VaeShape
    steps: int
    shift: float = 5.0
    boundary: float = 0.875
    guidance: float = 4.0
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Length of the DiT's sequence, padding not counted."""
        _, frames, height, width = self.video.latent
        return (frames // self.dit.patch[0]) * (height // self.dit.patch[1]) * (width // self.dit.patch[2])


PRESETS = {
    preset.name: preset
    for preset in (
        # 315 tokens: an odd number, so that the sequence is padded on every even number of processes
        Preset(
            name="tiny",
            video=VideoShape(frames=17, height=112, width=144),
            dit=DitShape(dim=192, ffn_dim=768, heads=8, layers=6, freq_dim=64),
            text=TextShape(dim=64, ffn_dim=160, heads=4, layers=2, vocabulary=512, length=32, prompt=20, negative=12),
            vae=VaeShape(widths=(32, 16, 8, 8)),
            steps=8,
        ),
        Preset(
            name="small",
            video=VideoShape(frames=17, height=128, width=208),
            dit=DitShape(dim=256, ffn_dim=1024, heads=8, layers=6),
            text=TextShape(dim=256, ffn_dim=640, heads=8, layers=4, vocabulary=4096, length=64, prompt=40, negative=20),
            vae=VaeShape(widths=(64, 64, 32, 16)),
            steps=8,
        ),
        # Wan's own 832x480x81: 32 760 tokens, per-token modulation of 1.5 GiB a forward
        Preset(
            name="gpu",
            video=VideoShape(frames=81, height=480, width=832),
            dit=DitShape(dim=2048, ffn_dim=8192, heads=16, layers=6),
            text=TextShape(
                dim=1024, ffn_dim=2560, heads=16, layers=8, vocabulary=32768, length=512, prompt=120, negative=80
            ),
            vae=VaeShape(widths=(256, 256, 128, 64)),
            steps=8,
        ),
    )
}


def process_counts(preset: Preset) -> list[int]:
    """The numbers of processes that the preset can run on: Ulysses deals whole heads out to them."""
    return [n for n in range(1, preset.dit.heads + 1) if preset.dit.heads % n == 0]


@dataclass(frozen=True)
class ExpectedCounts:
    """What a complete recording at level "op" holds, per rank.

    scopes: path -> occurrences on rank 0. first_rank_only: the paths that the other ranks do not have.
    collectives: what -> calls; "qkv", "out" and "sp_gather" are roles, "fsdp_all_gather" is every all_gather without
    the role "sp_gather", "barrier" is the op. The broadcasts at load are left out: their number follows from torch's
    bucket size.
    """

    scopes: dict[str, int]
    first_rank_only: frozenset[str]
    collectives: dict[str, int]


def expected_counts(preset: Preset, world_size: int) -> ExpectedCounts:
    """Counts implied by the architecture alone, for one request of the preset on world_size processes."""
    experts = experts_of(FlowScheduler(preset.steps, preset.shift).timesteps, preset.boundary)
    return ExpectedCounts(
        scopes=_scope_counts(preset, experts, sharded=world_size > 1),
        first_rank_only=frozenset({"request/vae_decode"}),
        collectives=_collective_counts(preset, experts) if world_size > 1 else {},
    )


def _scope_counts(preset: Preset, experts: list[str], sharded: bool) -> dict[str, int]:
    step, forward = "request/denoise/denoise_step", "request/denoise/denoise_step/dit_forward"
    forwards = 2 * preset.steps
    blocks = forwards * preset.dit.layers
    counts = {
        "load": 1,
        "load/load_t5": 1,
        "load/load_vae": 1,
        "load/load_dit": 2,
        "load/load_t5/fsdp_wrap": 1 if sharded else 0,
        "load/load_dit/fsdp_wrap": 2 if sharded else 0,
        "request": 1,
        "request/text_encode": 2,
        "request/denoise": 1,
        step: preset.steps,
        f"{step}/expert_switch": sum(a != b for a, b in itertools.pairwise(experts)),
        forward: forwards,
        f"{forward}/block": blocks,
        f"{forward}/block/self_attn": blocks,
        f"{forward}/block/self_attn/attn_kernel": blocks,
        f"{forward}/block/cross_attn": blocks,
        f"{forward}/block/cross_attn/attn_kernel": blocks,
        f"{forward}/block/ffn": blocks,
        f"{step}/scheduler_step": preset.steps,
        "request/vae_decode": 1,
        "request/barrier_wait": 1,
        # one for each unit, the root among them, and forward: also where the root is gathered already
        "request/text_encode/fsdp wait": 2 * (preset.text.layers + 1) if sharded else 0,
        f"{forward}/fsdp wait": forwards * (preset.dit.layers + 1) if sharded else 0,
    }
    return {path: count for path, count in counts.items() if count}


def _collective_counts(preset: Preset, experts: list[str]) -> dict[str, int]:
    forwards = 2 * preset.steps
    attentions = forwards * preset.dit.layers
    # FSDP gathers each block in each forward; the root unit stays gathered after its first forward
    text_gathers = 2 * preset.text.layers + 1
    dit_gathers = attentions + len(set(experts))
    return {
        "qkv": 3 * attentions,
        "out": attentions,
        "sp_gather": forwards,
        "fsdp_all_gather": text_gathers + dit_gathers,
        "barrier": 2 + 1,
    }
