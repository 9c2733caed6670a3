"""The loop over the steps: Wan writes `for … in enumerate(tqdm(timesteps))`, and tqdm is the only handle on it."""

import torch

from wanhook.integrations.wan.progress import progress
from wanhook.recording import trace


class TracedProgress:
    """Stands where a pipeline's module has `tqdm`: what iterates over a tensor of timesteps is the denoising loop,
    anything else is left to tqdm. Attributes are tqdm's own."""

    def __init__(self, tqdm) -> None:
        self.__wrapped__ = tqdm

    def __call__(self, *args, **kwargs):
        bar = self.__wrapped__(*args, **kwargs)
        over = args[0] if args else kwargs.get("iterable")
        return TracedLoop(bar, over) if isinstance(over, torch.Tensor) else bar

    def __getattr__(self, name: str):
        return getattr(self.__wrapped__, name)


class TracedLoop:
    """A progress bar over the timesteps: the whole iteration is a scope, and so is what is done with each item."""

    def __init__(self, bar, timesteps: torch.Tensor) -> None:
        self._bar, self._timesteps = bar, timesteps

    def __iter__(self):
        values = progress.values_of(self._timesteps)
        try:
            with trace("denoise"):
                for step, timestep in enumerate(self._bar):
                    with trace("denoise_step", **progress.begin_step(step, values)):
                        yield timestep
        finally:
            progress.end_loop()

    def __len__(self) -> int:
        return len(self._bar)

    def __enter__(self):
        self._bar.__enter__()
        return self

    def __exit__(self, *exception):
        return self._bar.__exit__(*exception)

    def __getattr__(self, name: str):
        return getattr(self._bar, name)
