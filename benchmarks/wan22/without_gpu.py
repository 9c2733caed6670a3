"""What Wan2.2 needs to run on gloo and the CPU. Only `--size cpu` on a machine without a GPU comes through here.

Everything is float32: Wan switches CUDA autocast between bfloat16 and float32, and CPU autocast knows no float32.
"""

from __future__ import annotations

import sys
import types
from contextlib import contextmanager

import torch
import torch.distributed as dist

from .stand_ins import flash_attn_varlen_func


@contextmanager
def current_device_zero():
    """`T5EncoderModel.__init__` has `torch.cuda.current_device()` as a default argument, which raises without a GPU."""
    original = torch.cuda.current_device
    torch.cuda.current_device = lambda: 0
    try:
        yield
    finally:
        torch.cuda.current_device = original


class _CpuTorch(types.ModuleType):
    """torch, except that every `torch.device("cuda:n")` is the CPU. Put into the pipeline module's namespace alone."""

    def __getattr__(self, name):
        return getattr(torch, name)

    @staticmethod
    def device(_name):
        return torch.device("cpu")


def _attention(q, k, v, k_lens=None, **_unused):
    """`flash_attention` without its assertion of a CUDA device. q, k, v: [1, tokens, heads, head_dim]; float32 out."""
    length = k.size(1) if k_lens is None else int(k_lens[0])
    q, k, v = (x[0].float() for x in (q, k, v))
    ends = torch.tensor([0, 0])
    return flash_attn_varlen_func(q, k[:length], v[:length], ends, ends).unsqueeze(0)


def _all_to_all(outputs, inputs, group=None, async_op=False):
    """Gloo of torch 2.11 has no list form: the same exchange through all_to_all_single."""
    received = torch.empty_like(torch.stack(inputs))
    work = dist.all_to_all_single(received, torch.stack(inputs), group=group, async_op=async_op)
    for output, part in zip(outputs, received, strict=True):
        output.copy_(part)
    return work


class _GlooDist(types.ModuleType):
    """torch.distributed with a list-form all_to_all; put into `wan.distributed.util` alone."""

    def __getattr__(self, name):
        return getattr(dist, name)

    all_to_all = staticmethod(_all_to_all)


def patch(text2video: types.ModuleType) -> None:
    """Make an imported Wan2.2 run on the CPU. Not undone: the process runs nothing else."""
    from wan.distributed import fsdp, ulysses, util

    def shard_model(model, device_id, sync_module_states=False):
        # FSDP refuses to broadcast CPU modules; every rank has drawn the same weights.
        return fsdp.shard_model(model, torch.device("cpu"), param_dtype=torch.float32, sync_module_states=False)

    text2video.torch = _CpuTorch("torch")
    text2video.shard_model = shard_model
    util.dist = _GlooDist("torch.distributed")
    ulysses.flash_attention = _attention
    sys.modules["wan.modules.model"].flash_attention = _attention
