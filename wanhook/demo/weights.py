"""Random weights, made in place of a checkpoint."""

from collections.abc import Callable

import torch
from torch import nn


def build(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """make()'s module on the CPU in float32, equal for equal seeds, in eval mode and without gradients.

    Built on the meta device first: the modules' own initialisation would cost as much again.
    """
    with torch.device("meta"):
        model = make()
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _fill(name, parameter, generator)
    return model.eval().requires_grad_(False)


def _fill(name: str, parameter: torch.Tensor, generator: torch.Generator) -> None:
    """Ones for the scale of a norm, zeros for a bias, else uniform with a bound of one over the root of the fan-in."""
    if parameter.dim() < 2:
        parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        return
    bound = (parameter.shape[0] / parameter.numel()) ** 0.5
    parameter.uniform_(-bound, bound, generator=generator)
