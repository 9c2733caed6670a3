import warnings
from functools import partial

import torch
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import ShardingStrategy
from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy

from wan.modules.movable import GPU


def shard_model(model, device_id, sync_module_states=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FSDP(
            module=model,
            sharding_strategy=ShardingStrategy.FULL_SHARD,
            auto_wrap_policy=partial(lambda_auto_wrap_policy, lambda_fn=lambda m: m in model.blocks),
            device_id=torch.device("cpu"),
            sync_module_states=sync_module_states,
            ignored_states=[model.where],
        ).to(GPU)
