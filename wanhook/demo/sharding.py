"""FSDP as Wan applies it: version 1, FULL_SHARD, one unit a block, no forward prefetch, all_gathers limited."""

import functools
import warnings

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, ShardingStrategy
from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy

import wanhook
from wanhook import loading


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, as in Wan; float32 on the CPU, where bfloat16 is slow."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def shard_model(model: nn.Module, device: torch.device, sync_module_states: bool = True) -> nn.Module:
    """model with its `blocks` as FSDP units and the rest as the root unit. Collective.

    device goes in explicitly: without it FSDP on the CPU looks for a GPU. sync_module_states broadcasts rank 0's
    weights; FSDP refuses that on the CPU, where the ranks rely on equal seeds.
    """
    blocks = set(model.blocks)
    with loading.measured("fsdp_wrap"), wanhook.role("fsdp"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that FSDP1 is old: Wan uses it
        return FullyShardedDataParallel(
            model,
            sharding_strategy=ShardingStrategy.FULL_SHARD,
            auto_wrap_policy=functools.partial(lambda_auto_wrap_policy, lambda_fn=lambda module: module in blocks),
            mixed_precision=MixedPrecision(
                param_dtype=compute_dtype(device), reduce_dtype=torch.float32, buffer_dtype=torch.float32
            ),
            device_id=device,
            forward_prefetch=False,
            limit_all_gathers=True,
            sync_module_states=sync_module_states and device.type == "cuda",
        )


def call_sharded(model: nn.Module, *args):
    """model(*args) with FSDP's all_gathers tagged: what a forward communicates is FSDP's unless tagged inside it."""
    with wanhook.role("fsdp"):
        return model(*args)
