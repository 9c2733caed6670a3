"""Ratios of times with their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy


@dataclass(frozen=True)
class Ratio:
    """A ratio with a 95 % percentile-bootstrap interval; `pairs` is the number of values on the side that has fewer."""

    median: float
    low: float
    high: float
    pairs: int

    def percent(self) -> str:
        """As a change: '+0.12 % [-0.05, +0.31]'."""
        median, low, high = (100 * (value - 1) for value in (self.median, self.low, self.high))
        return f"{median:+.2f} % [{low:+.2f}, {high:+.2f}]"


def paired_ratio(watched: list[float], bare: list[float], resamples: int = 10_000, seed: int = 0) -> Ratio:
    """Ratio of seconds watched to seconds bare, pair by pair. Lists of equal length, at least one pair.

    Pairs are resampled, never single times: neighbours share clocks and temperature.
    """
    if len(watched) != len(bare) or not watched:
        raise ValueError(f"{len(watched)} watched and {len(bare)} bare times make no pairs")
    ratios = numpy.asarray(watched) / numpy.asarray(bare)
    picks = numpy.random.default_rng(seed).integers(len(ratios), size=(resamples, len(ratios)))
    low, high = numpy.percentile(numpy.median(ratios[picks], axis=1), [2.5, 97.5])
    return Ratio(float(numpy.median(ratios)), float(low), float(high), len(ratios))


def unpaired_ratio(watched: list[float], bare: list[float], resamples: int = 10_000, seed: int = 0) -> Ratio:
    """Ratio of the medians of times that were measured in stretches of their own: drift between them is in it."""
    if not watched or not bare:
        raise ValueError(f"{len(watched)} watched and {len(bare)} bare times make no ratio")
    generator = numpy.random.default_rng(seed)

    def medians(values: list[float]) -> numpy.ndarray:
        picks = generator.integers(len(values), size=(resamples, len(values)))
        return numpy.median(numpy.asarray(values)[picks], axis=1)

    low, high = numpy.percentile(medians(watched) / medians(bare), [2.5, 97.5])
    ratio = float(numpy.median(watched) / numpy.median(bare))
    return Ratio(ratio, float(low), float(high), min(len(watched), len(bare)))
