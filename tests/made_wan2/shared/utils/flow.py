from types import SimpleNamespace

import torch


class Flow:
    """What both solvers would otherwise repeat."""

    def __init__(self, num_train_timesteps=1000):
        self.config = SimpleNamespace(num_train_timesteps=num_train_timesteps)

    def begin(self, steps, device, shift):
        even = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
        levels = shift * even / (1 + (shift - 1) * even)
        self.timesteps = (levels * self.config.num_train_timesteps).to(device=device, dtype=torch.int64)
        self.sigmas = torch.cat([levels, torch.zeros(1, dtype=torch.float64)]).float()
        self.index = 0

    def moved(self, prediction, sample):
        change = self.sigmas[self.index + 1] - self.sigmas[self.index]
        self.index += 1
        return (sample + change * prediction,)
