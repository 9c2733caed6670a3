"""Variants measured in turn, so that drift of the machine meets all of them alike, and figures with their bounds."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np

RESAMPLES = 4_000


@dataclass(frozen=True)
class Variant:
    """``measure`` gives ns an operation; ``around`` switches on what is to be measured, outside the timed stretch."""

    name: str
    measure: Callable[[], float]
    around: Callable[[], AbstractContextManager] = field(default=nullcontext)


@dataclass(frozen=True)
class Figure:
    """Median over rounds with a 95 % percentile-bootstrap interval, in ns."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:9.1f} [{self.low:9.1f}, {self.high:9.1f}]"


def interleave(variants: list[Variant], rounds: int) -> dict[str, np.ndarray]:
    """ns of each variant in each round (float64[rounds]). One more round goes ahead, to warm up, and is not kept.

    The order is another one each round, so that no variant always follows the same other one, and the same in every
    process, so that ranks meet in their collectives.
    """
    found: dict[str, list[float]] = {variant.name: [] for variant in variants}
    orders = np.random.default_rng(0)
    for number in range(-1, rounds):
        for at in orders.permutation(len(variants)):
            variant = variants[at]
            value = _once(variant)
            if number >= 0:
                found[variant.name].append(value)
    return {name: np.array(values) for name, values in found.items()}


def medians(variants: list[Variant], rounds: int) -> dict[str, float]:
    """ns of each variant, the median of what ``interleave`` finds: what one process of many has to say."""
    return {name: float(np.median(values)) for name, values in interleave(variants, rounds).items()}


def stacked(processes: list[dict[str, float]]) -> dict[str, np.ndarray]:
    """Variant -> ns in each of the processes, float64[processes]."""
    return {name: np.array([each[name] for each in processes]) for name in processes[0]}


def _once(variant: Variant) -> float:
    with variant.around():
        gc.collect()
        gc.disable()
        try:
            return variant.measure()
        finally:
            gc.enable()


def figure(values: np.ndarray) -> Figure:
    """The median of one variant's rounds."""
    return _bounded(values, values[_picks(len(values))])


def paired(values: np.ndarray, base: np.ndarray, parts: float = 1.0) -> Figure:
    """Difference to another variant of the same rounds, divided by ``parts``: rounds are resampled as pairs."""
    return figure((values - base) / parts)


def unpaired(values: np.ndarray, base: np.ndarray, parts: float = 1.0) -> Figure:
    """Difference of medians to a variant that was measured in rounds of its own, divided by ``parts``."""
    shift = np.median(base[_picks(len(base), seed=1)], axis=1)
    difference = np.median(values[_picks(len(values))], axis=1) - shift
    low, high = np.percentile(difference / parts, [2.5, 97.5])
    return Figure(float(np.median(values) - np.median(base)) / parts, float(low), float(high), len(values))


def _picks(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))


def _bounded(values: np.ndarray, resampled: np.ndarray) -> Figure:
    low, high = np.percentile(np.median(resampled, axis=1), [2.5, 97.5])
    return Figure(float(np.median(values)), float(low), float(high), len(values))
