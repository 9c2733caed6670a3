"""What this thread's pipeline is doing: the few facts that one wrapper knows and another one needs.

Nothing in here asks a tensor on a GPU for its value: that would wait for the GPU.
"""

import math
import threading
import weakref

import torch

EXPERTS = ("low_noise", "high_noise")  # the attributes of a pipeline are these with _model behind


class Progress(threading.local):
    """``pipeline``: the one that serves a request. ``expert``: the one in use, or being loaded. ``timestep``: of the
    step under way. ``forwards``: calls of the model in that step so far, None outside of a loop."""

    pipeline = None
    expert: str | None = None
    timestep: int | float | None = None
    forwards: int | None = None
    _timesteps = None  # a weak reference to the tensor of a solver
    _values: tuple = ()

    def remember_timesteps(self, solver) -> None:
        """``solver`` has just made its schedule; its noise levels stay on the host, its timesteps need not."""
        timesteps = solver.timesteps
        if timesteps.device.type == "cpu":
            values = timesteps.tolist()
        elif solver.sigmas.device.type != "cpu":
            values = []
        else:
            scale = solver.config.num_train_timesteps
            # Wan truncates a product of doubles; the levels that it keeps are floats.
            values = [math.floor(level * scale + 1e-4) for level in solver.sigmas[: len(timesteps)].tolist()]
        self._timesteps, self._values = weakref.ref(timesteps), tuple(values)

    def forget_timesteps(self) -> None:
        self._timesteps, self._values = None, ()

    def values_of(self, timesteps: torch.Tensor) -> tuple:
        """The timesteps of a loop as numbers; empty where they are not known."""
        if self._timesteps is not None and self._timesteps() is timesteps:
            return self._values
        return tuple(timesteps.tolist()) if timesteps.device.type == "cpu" else ()

    def begin_step(self, step: int, values: tuple) -> dict:
        """The arguments of the step's scope."""
        self.forwards = 0
        self.timestep = values[step] if step < len(values) else None
        told = {"step": step}
        if self.timestep is not None:
            told["timestep"] = self.timestep
        if (expert := self._expert_of_step()) is not None:
            told["expert"] = expert
        return told

    def end_loop(self) -> None:
        self.forwards = self.timestep = None

    def wanted_expert(self, boundary: float) -> str | None:
        """The expert that Wan's rule picks for the step under way."""
        return None if self.timestep is None else EXPERTS[bool(self.timestep >= boundary)]

    def _expert_of_step(self) -> str | None:
        pipeline = self.pipeline
        if not isinstance(getattr(pipeline, "boundary", None), float) or not hasattr(pipeline, "low_noise_model"):
            return None
        scale = getattr(pipeline, "num_train_timesteps", None)
        return self.wanted_expert(pipeline.boundary * scale) if isinstance(scale, int) else None


progress = Progress()


def expert_named(text: object) -> str | None:
    """The expert that a folder or attribute is named after."""
    return next((expert for expert in EXPERTS if expert in str(text)), None)


def expert_of(pipeline, model) -> str | None:
    """Which expert of a pipeline a model is."""
    return next((expert for expert in EXPERTS if getattr(pipeline, f"{expert}_model", None) is model), None)
