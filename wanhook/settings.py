"""Settings from the environment. A value that cannot be used is reported once on stderr and the default taken."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

LEVELS = ("stage", "block", "op")
DEFAULT_MAX_MB = 2048
DEFAULT_VERIFIED = "denoise_step"
MIN_MAX_MB = 4
MOST_MAX_MB = 1 << 30
KERNELS = ("off", "nccl")
DEFAULT_WINDOW = ("denoise_step", 2)
MOST_INSTANCE = 1_000_000

_said: set[str] = set()


@dataclass(frozen=True)
class Settings:
    """``enabled``: False under WANHOOK=0, where nothing is ever recorded. ``out``: the run directory, None for one
    under wanhook-runs/. ``max_mb``: cap of one rank's file in MiB. ``warn_at``: the watermark, a share of the GPU's
    memory above 0 and up to 1; None: no watermark. ``verified``: name of the scopes of which every other one is not
    recorded, to measure what recording costs; "" for none. ``kernels``: "nccl" records NCCL's kernels during one scope;
    ``kernels_window``: that scope's name, and the how-manieth of that name it is, from 1."""

    enabled: bool = True
    out: Path | None = None
    level: str = "op"
    max_mb: int = DEFAULT_MAX_MB
    warn_at: float | None = None
    verified: str = ""
    kernels: str = "off"
    kernels_window: tuple[str, int] = DEFAULT_WINDOW


def from_environment(environ=os.environ) -> Settings:
    """Reads WANHOOK and the variables that begin with WANHOOK_."""
    out = environ.get("WANHOOK_OUT")
    return Settings(
        enabled=environ.get("WANHOOK", "") != "0",
        out=Path(out) if out else None,
        level=_level(environ.get("WANHOOK_LEVEL")),
        max_mb=_max_mb(environ.get("WANHOOK_MAX_MB")),
        warn_at=_warn_at(environ.get("WANHOOK_WARN_AT")),
        verified=_verified(environ.get("WANHOOK_VERIFY")),
        kernels=_kernels(environ.get("WANHOOK_KERNELS")),
        kernels_window=_kernels_window(environ.get("WANHOOK_KERNELS_WINDOW")),
    )


def complain(line: str, about: str | None = None) -> None:
    """One line on stderr, once a process; never raises, whatever the host program did to stderr.

    ``about``: what counts as the same line, for one that holds figures of the moment.
    """
    if (about or line) in _said:
        return
    _said.add(about or line)
    try:
        sys.stderr.write(f"wanhook: {line}\n")
        sys.stderr.flush()
    except Exception:
        pass


def _level(value: str | None) -> str:
    if value in (None, "", *LEVELS):
        return value or "op"
    complain(f"WANHOOK_LEVEL={value!r} is not one of {', '.join(LEVELS)}; using op")
    return "op"


def _verified(value: str | None) -> str:
    """1 stands for the denoising step; anything else but 0 is a scope's name."""
    return "" if value in (None, "", "0") else DEFAULT_VERIFIED if value == "1" else value


def _max_mb(value: str | None) -> int:
    if not value:
        return DEFAULT_MAX_MB
    if value.isdecimal() and MIN_MAX_MB <= int(value) <= MOST_MAX_MB:
        return int(value)
    complain(
        f"WANHOOK_MAX_MB={value!r} is not a whole number from {MIN_MAX_MB} to {MOST_MAX_MB}; using {DEFAULT_MAX_MB}"
    )
    return DEFAULT_MAX_MB


def _warn_at(value: str | None) -> float | None:
    if not value:
        return None
    if re.fullmatch(r"[0-9]{0,9}[.]?[0-9]{1,9}", value) and 0 < float(value) <= 1:
        return float(value)
    complain(f"WANHOOK_WARN_AT={value!r} is not a share above 0 and up to 1, such as 0.85; using no watermark")
    return None


def _kernels(value: str | None) -> str:
    if value in (None, "", *KERNELS):
        return value or "off"
    complain(f"WANHOOK_KERNELS={value!r} is not one of {', '.join(KERNELS)}; using off")
    return "off"


def _kernels_window(value: str | None) -> tuple[str, int]:
    """NAME:N, the N-th scope of that name, from 1."""
    if not value:
        return DEFAULT_WINDOW
    name, _, number = value.rpartition(":")
    if name and number.isascii() and number.isdecimal() and len(number) < 8 and 1 <= int(number) <= MOST_INSTANCE:
        return name, int(number)
    default = "{}:{}".format(*DEFAULT_WINDOW)
    complain(f"WANHOOK_KERNELS_WINDOW={value!r} is not NAME:N, the N-th scope of that name from 1; using {default}")
    return DEFAULT_WINDOW
