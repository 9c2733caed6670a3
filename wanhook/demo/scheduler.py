"""The flow-matching schedule and its solver. Plain numbers: knows no torch, works on anything that adds and scales."""

TRAIN_TIMESTEPS = 1000


class FlowScheduler:
    """Solves d(latents)/d(sigma) = velocity from sigma 1 (noise) to 0, second order from the second step on.

    The noise levels are spaced evenly and then shifted towards noise, s -> shift * s / (1 + (shift - 1) * s).
    Wan's UniPC is a multistep solver too: like it, this one keeps the last model output alive between steps.
    """

    def __init__(self, steps: int, shift: float):
        if steps < 1:
            raise ValueError(f"steps is {steps}: at least 1 is needed")
        even = [1.0 - i / steps for i in range(steps)]
        self.sigmas = [shift * s / (1.0 + (shift - 1.0) * s) for s in even] + [0.0]
        self._last_velocity = None

    @property
    def timesteps(self) -> list[int]:
        """One integer in 1..1000 a step, falling."""
        return [max(1, int(sigma * TRAIN_TIMESTEPS)) for sigma in self.sigmas[:-1]]

    def step(self, velocity, index: int, latents):
        """Latents at sigmas[index + 1]. Call it once a step, in order."""
        width = self.sigmas[index + 1] - self.sigmas[index]
        slope = velocity
        if self._last_velocity is not None:
            last_width = self.sigmas[index] - self.sigmas[index - 1]
            slope = velocity + (velocity - self._last_velocity) * (width / (2.0 * last_width))
        self._last_velocity = velocity
        return latents + slope * width


def experts_of(timesteps: list[int], boundary: float) -> list[str]:
    """The expert in charge of each step: "high_noise" at and above boundary (a share of 1000), else "low_noise"."""
    return ["high_noise" if t >= boundary * TRAIN_TIMESTEPS else "low_noise" for t in timesteps]
