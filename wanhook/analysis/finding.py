"""One sentence on what to look at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """`kind` is a name that a program can match on: "stage", "warm-up", "collectives", "exposed", "ranks", "some
    ranks", or of memory "slack", "fragmentation", "pin", "activation", "deferred frees", "leak", "retries", "out of
    memory". `figures` are those in the text, in the units that their names say."""

    kind: str
    text: str
    figures: dict[str, float | int | str]
