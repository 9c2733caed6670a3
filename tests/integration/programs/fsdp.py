"""Small models under FSDP1 and FSDP2 on one of two gloo ranks: fsdp.py STORE, with RANK in the environment.

Each case runs in a scope of its name, after it ran twice without the wrappers: what torch.compile decides about a frame
lasts for the process. Says whether the results are equal, and each time how many frames torch.compile met.
"""

import contextlib
import functools
import os
import sys
import warnings

import torch
import torch.distributed as dist
from torch import nn

import wanhook
from wanhook.integrations import fsdp

BLOCKS, WIDTH = 3, 8
warnings.simplefilter("ignore")


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        for block in self.blocks:
            x = block(x).relu()
        return self.head(x)


def fsdp1(**options) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy

    torch.manual_seed(1)
    model = Stack()
    policy = functools.partial(lambda_auto_wrap_policy, lambda_fn=lambda module: module in set(model.blocks))
    return FullyShardedDataParallel(model, auto_wrap_policy=policy, device_id=torch.device("cpu"), **options)


def fsdp2(**options) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(1)
    model = Stack()
    mesh = init_device_mesh("cpu", (2,))
    for unit in (*model.blocks, model):
        fully_shard(unit, mesh=mesh, **options)
    return model


def batch() -> torch.Tensor:
    return torch.arange(2 * WIDTH).reshape(2, WIDTH) / 10 + dist.get_rank()


def forwards(model: nn.Module, mode) -> torch.Tensor:
    with mode():
        for _ in range(2):
            out = model(batch())
    return out.clone()


def backward(model: nn.Module) -> torch.Tensor:
    model(batch()).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return torch.cat([getattr(part, "_local_tensor", part).flatten() for part in gradients if part is not None])


def compiled(make) -> torch.Tensor:
    """Also prints how many frames dynamo met, and how many it compiled."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = torch.compile(make(), backend="eager")
    with torch.no_grad():
        result = torch.stack([model(batch()), model(batch())])
    frames = torch._dynamo.utils.counters["frames"]
    print("frames", make.__name__, frames["total"], frames["ok"])
    return result


def fails(make) -> torch.Tensor:
    with torch.no_grad(), contextlib.suppress(RuntimeError):
        make()(batch()[:, 1:])
    return torch.zeros(1)


CASES = {
    f"{make.__name__} {name}": (lambda make=make, case=case: case(make))
    for make in (fsdp1, fsdp2)
    for name, case in {
        "no_grad": lambda make: forwards(make(), torch.no_grad),
        "inference_mode": lambda make: forwards(make(), torch.inference_mode),
        "backward": lambda make: backward(make()),
        "fails": fails,
        "compiled": compiled,
    }.items()
}
CASES |= {
    "fsdp1 prefetch": lambda: forwards(fsdp1(forward_prefetch=True), torch.no_grad),
    "fsdp1 original": lambda: backward(fsdp1(use_orig_params=True)),
    "fsdp2 kept": lambda: forwards(fsdp2(reshard_after_forward=False), torch.no_grad),
}


def main(store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(os.environ["RANK"]), world_size=2)
    fsdp.uninstall()
    bare = {name: case() for name, case in CASES.items()}
    bare = {name: case() for name, case in CASES.items()}
    fsdp.install()
    wanhook.start()
    for name, case in CASES.items():
        with wanhook.trace(name):
            result = case()
        print(name, "equal" if torch.equal(result, bare[name]) else "differs")
    wanhook.stop()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
