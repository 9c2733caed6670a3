"""What Wan needs to run on gloo and the CPU. Only `--size cpu` on a machine without a GPU comes through here.

Everything is float32: Wan switches CUDA autocast between bfloat16 and float32, and CPU autocast knows no float32.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import types
from contextlib import contextmanager

import torch
import torch.distributed as dist


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
    """`flash_attention` without its assertion of a CUDA device. q, k, v: [1, tokens, heads, head_dim]; float32 out.

    Its code takes the place of Wan's, so it may use no name of this module.
    """
    import torch

    from benchmarks.wan22.stand_ins import flash_attn_varlen_func

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


def patch(*pipelines: types.ModuleType) -> None:
    """Make an imported Wan run on the CPU, with these modules' pipelines. Not undone: the process runs nothing
    else."""
    from wan.distributed import fsdp
    from wan.modules.attention import flash_attention

    def shard_model(model, device_id, sync_module_states=False):
        # FSDP refuses to broadcast CPU modules; every rank has drawn the same weights.
        return fsdp.shard_model(model, torch.device("cpu"), param_dtype=torch.float32, sync_module_states=False)

    for pipeline in pipelines:
        pipeline.torch = _CpuTorch("torch")
        pipeline.shard_model = shard_model
    if (util := sys.modules.get("wan.distributed.util")) is not None:  # Wan2.1 has none: it goes through xfuser
        util.dist = _GlooDist("torch.distributed")
    # The function itself, whatever wraps it by now and whoever has copied its name.
    function = inspect.unwrap(flash_attention)
    function.__code__, function.__defaults__ = _attention.__code__, _attention.__defaults__


def patch_start() -> None:
    """Make `generate.py` start without a GPU: its calls of torch.cuda do nothing, and NCCL becomes gloo."""
    init, new_group = dist.init_process_group, dist.new_group

    def init_process_group(backend=None, **arguments):
        init(backend="gloo", **arguments)
        _import_xfuser()  # generate.py does so now

    dist.init_process_group = init_process_group
    dist.new_group = lambda ranks=None, backend=None, **arguments: new_group(ranks, backend="gloo", **arguments)
    torch.cuda.set_device = torch.cuda.synchronize = lambda *_unused: None


def _import_xfuser() -> None:
    """xfuser leaves sequence parallelism out where it sees no GPU while it is imported, some of it by the first
    attention; float32 as all the rest."""
    if "wan.distributed.util" in sys.modules or importlib.util.find_spec("xfuser") is None:
        return
    with _gpu_seen():
        parallel = importlib.import_module("wan.distributed.xdit_context_parallel")
    parallel.usp_attn_forward.__defaults__ = (torch.float32,)
    construct = parallel.xFuserLongContextAttention.__init__

    def init(self, *args, **kwargs):
        with _gpu_seen():
            construct(self, *args, **kwargs)

    parallel.xFuserLongContextAttention.__init__ = init


@contextmanager
def _gpu_seen():
    answers = {"is_available": lambda: True, "current_device": lambda: 0, "get_device_name": lambda *_unused: "none"}
    originals = {name: getattr(torch.cuda, name) for name in answers}
    vars(torch.cuda).update(answers)
    try:
        yield
    finally:
        vars(torch.cuda).update(originals)
