"""One answer of the doctor."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True)
class Line:
    """`status`: OK; WARN: something will be missing, or costs more than it need; FAIL: recording will not work.
    `remedy` says what to do; "" where there is nothing to."""

    area: str
    name: str
    status: str
    text: str
    remedy: str = ""
