"""The sizes at which Wan2.2 t2v-A14B is run: what is kept of the real model and what is made small."""

from __future__ import annotations

from dataclasses import dataclass

# Width of the text embedding that every WanModel expects; it is no argument of a checkpoint's config, so T5 keeps it.
TEXT_DIM = 4096


@dataclass(frozen=True)
class Size:
    """One scaled-down t2v-A14B. `video` is (width, height) in pixels; `frames` is 4n+1; `steps` are solver steps."""

    name: str
    dim: int
    ffn_dim: int
    heads: int
    layers: int
    video: tuple[int, int]
    frames: int
    steps: int
    t5_layers: int
    t5_attention: int
    t5_ffn: int
    t5_heads: int
    vae_dim: int

    @property
    def dit_arguments(self) -> dict:
        """Arguments of `WanModel` for one expert."""
        return {
            "model_type": "t2v",
            "dim": self.dim,
            "ffn_dim": self.ffn_dim,
            "num_heads": self.heads,
            "num_layers": self.layers,
        }

    @property
    def t5_arguments(self) -> dict:
        """Arguments of `umt5_xxl` that replace its hard-coded 24 layers; `vocab_size` comes from the tokenizer."""
        return {
            "dim": TEXT_DIM,
            "dim_attn": self.t5_attention,
            "dim_ffn": self.t5_ffn,
            "num_heads": self.t5_heads,
            "encoder_layers": self.t5_layers,
        }


# 14b: the blocks, sequence length and solver of the real model, 4 layers of 40; GPU-bound.
# tiny: kernels so short that the host cannot keep ahead; launch-bound.
# cpu: proves the code without a GPU; its times mean nothing.
SIZES = {
    size.name: size
    for size in (
        Size(
            "14b",
            dim=5120,
            ffn_dim=13824,
            heads=40,
            layers=4,
            video=(832, 480),
            frames=81,
            steps=4,
            t5_layers=4,
            t5_attention=512,
            t5_ffn=1024,
            t5_heads=8,
            vae_dim=32,
        ),
        Size(
            "tiny",
            dim=256,
            ffn_dim=512,
            heads=4,
            layers=2,
            video=(128, 128),
            frames=5,
            steps=30,
            t5_layers=2,
            t5_attention=64,
            t5_ffn=64,
            t5_heads=4,
            vae_dim=8,
        ),
        Size(
            "cpu",
            dim=64,
            ffn_dim=128,
            heads=4,
            layers=2,
            video=(64, 64),
            frames=5,
            steps=4,
            t5_layers=2,
            t5_attention=64,
            t5_ffn=64,
            t5_heads=4,
            vae_dim=8,
        ),
    )
}
