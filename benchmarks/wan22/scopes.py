"""Scopes and roles around Wan2.2's stages, blocks and collectives, put on from outside and taken off again."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_CALLS = (  # module, class, scope, level
    ("wan.modules.t5", "T5EncoderModel", "text_encode", "stage"),
    ("wan.modules.model", "WanModel", "dit_forward", "block"),
    ("wan.modules.model", "WanAttentionBlock", "block", "block"),
    ("wan.modules.model", "WanSelfAttention", "self_attn", "op"),
    ("wan.modules.model", "WanCrossAttention", "cross_attn", "op"),
)


@contextmanager
def _replaced(owner, name: str, value) -> Iterator[None]:
    """Set an attribute for a while; one that the owner only inherited is deleted again."""
    own = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before) if own else delattr(owner, name)


def _traced(function, name: str, level: str):
    from wanhook import trace

    def call(*args, **kwargs):
        with trace(name, level=level):
            return function(*args, **kwargs)

    return call


def _in_role(function, role_of):
    from wanhook import role

    def call(*args, **kwargs):
        with role(role_of(kwargs)):
            return function(*args, **kwargs)

    return call


def _traced_loop(progress):
    from wanhook import trace

    def loop(timesteps):
        with trace("denoise", level="stage"):
            for step, timestep in enumerate(progress(timesteps)):
                with trace("denoise_step", level="stage", step=step):
                    yield timestep

    return loop


@contextmanager
def wan_scopes() -> Iterator[None]:
    """While open, text_encode, denoise, denoise_step, dit_forward, block, self_attn, cross_attn, attn_kernel,
    scheduler_step and vae_decode are scopes, and collectives carry the roles qkv, out, sp_gather and fsdp.

    Modules are patched at class level: under sequence parallelism Wan rebinds `forward` on instances. Import Wan first.
    """
    import torch.distributed.fsdp._flat_param as flat_param
    import wan.distributed.sequence_parallel as sequence_parallel
    import wan.distributed.ulysses as ulysses
    import wan.text2video as text2video

    scheduler, vae = text2video.FlowUniPCMultistepScheduler, text2video.Wan2_1_VAE
    with ExitStack() as stack:
        # All originals are taken before the first is replaced: WanCrossAttention inherits from WanSelfAttention.
        owners = [getattr(importlib.import_module(module), class_name) for module, class_name, _, _ in _CALLS]
        calls = [
            (owner, "__call__", _traced(owner.__call__, name, level))
            for owner, (_, _, name, level) in zip(owners, _CALLS, strict=True)
        ]
        for owner, attribute, value in (
            *calls,
            (vae, "decode", _traced(vae.decode, "vae_decode", "stage")),
            (scheduler, "step", _traced(scheduler.step, "scheduler_step", "op")),
            (text2video, "tqdm", _traced_loop(text2video.tqdm)),
            (ulysses, "flash_attention", _traced(ulysses.flash_attention, "attn_kernel", "op")),
            (
                ulysses,
                "all_to_all",
                _in_role(ulysses.all_to_all, lambda call: "qkv" if call["scatter_dim"] == 2 else "out"),
            ),
            (
                sequence_parallel,
                "gather_forward",
                _in_role(sequence_parallel.gather_forward, lambda _call: "sp_gather"),
            ),
            (
                flat_param.FlatParamHandle,
                "_all_gather_flat_param",
                _in_role(flat_param.FlatParamHandle._all_gather_flat_param, lambda _call: "fsdp"),
            ),
        ):
            stack.enter_context(_replaced(owner, attribute, value))
        yield
