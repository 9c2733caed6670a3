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
ON_FULL = ("stop",)
INTEGRATIONS = ("fsdp", "wan")

_said: set[str] = set()


@dataclass(frozen=True)
class Settings:
    """``enabled``: False under WANHOOK=0, where nothing is ever recorded. ``automatic``: True under WANHOOK=1, where
    Wan's stages record themselves and the recording lasts as long as the process. ``out``: the run directory, None for
    one under wanhook-runs/. ``max_mb``: cap of one rank's file in MiB. ``warn_at``: the watermark, a share of the GPU's
    memory above 0 and up to 1; None: no watermark. ``verified``: name of the scopes of which every other one is not
    recorded, to measure what recording costs; "" for none. ``kernels``: "nccl" records NCCL's kernels during one scope;
    ``kernels_window``: that scope's name, and the how-manieth of that name it is, from 1. ``integrations``: those to
    put on."""

    enabled: bool = True
    automatic: bool = False
    out: Path | None = None
    level: str = "op"
    max_mb: int = DEFAULT_MAX_MB
    warn_at: float | None = None
    verified: str = ""
    kernels: str = "off"
    kernels_window: tuple[str, int] = DEFAULT_WINDOW
    on_full: str = "stop"
    integrations: tuple[str, ...] = INTEGRATIONS


def from_environment(environ=os.environ) -> Settings:
    """Reads WANHOOK and the variables that begin with WANHOOK_."""
    out = environ.get("WANHOOK_OUT")
    switch = _one_of(environ, "WANHOOK", ("0", "1"), "")
    return Settings(
        enabled=switch != "0",
        automatic=switch == "1",
        out=Path(out) if out else None,
        level=_one_of(environ, "WANHOOK_LEVEL", LEVELS, "op"),
        max_mb=_max_mb(environ.get("WANHOOK_MAX_MB")),
        warn_at=_warn_at(environ.get("WANHOOK_WARN_AT")),
        verified=_verified(environ.get("WANHOOK_VERIFY")),
        kernels=_kernels(environ.get("WANHOOK_KERNELS")),
        kernels_window=_kernels_window(environ.get("WANHOOK_KERNELS_WINDOW")),
        on_full=_one_of(environ, "WANHOOK_ON_FULL", ON_FULL, "stop"),
        integrations=_integrations(environ.get("WANHOOK_INTEGRATIONS")),
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


def _one_of(environ, variable: str, allowed: tuple[str, ...], default: str) -> str:
    value = environ.get(variable) or default
    if value in (default, *allowed):
        return value
    using = f"using {default}" if default else "taken as unset"
    complain(f"{variable}={value!r} is not one of {', '.join(allowed)}; {using}")
    return default


def _integrations(value: str | None) -> tuple[str, ...]:
    """``none``, or names separated by commas."""
    if not value or value == "none":
        return () if value else INTEGRATIONS
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    unknown = [name for name in names if name not in INTEGRATIONS]
    if unknown:
        listed = ", ".join(("none", *INTEGRATIONS))
        complain(f"WANHOOK_INTEGRATIONS={value!r} names {', '.join(unknown)}; allowed are {listed}; leaving that out")
    return tuple(name for name in names if name in INTEGRATIONS)


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
