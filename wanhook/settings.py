"""Settings from the environment. A value that cannot be used is reported once on stderr and the default taken."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

LEVELS = ("stage", "block", "op")
DEFAULT_MAX_MB = 2048
MIN_MAX_MB = 4
MOST_MAX_MB = 1 << 30
ON_FULL = ("stop",)
INTEGRATIONS = ("fsdp", "wan")

_said: set[str] = set()


@dataclass(frozen=True)
class Settings:
    """``enabled``: False under WANHOOK=0, where nothing is ever recorded. ``automatic``: True under WANHOOK=1, where
    Wan's stages record themselves and the recording lasts as long as the process. ``out``: the run directory, None for
    one under wanhook-runs/. ``max_mb``: cap of one rank's file in MiB. ``integrations``: those to put on."""

    enabled: bool = True
    automatic: bool = False
    out: Path | None = None
    level: str = "op"
    max_mb: int = DEFAULT_MAX_MB
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
        on_full=_one_of(environ, "WANHOOK_ON_FULL", ON_FULL, "stop"),
        integrations=_integrations(environ.get("WANHOOK_INTEGRATIONS")),
    )


def complain(line: str) -> None:
    """One line on stderr, once a process; never raises, whatever the host program did to stderr."""
    if line in _said:
        return
    _said.add(line)
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


def _max_mb(value: str | None) -> int:
    if not value:
        return DEFAULT_MAX_MB
    if value.isdecimal() and MIN_MAX_MB <= int(value) <= MOST_MAX_MB:
        return int(value)
    complain(
        f"WANHOOK_MAX_MB={value!r} is not a whole number from {MIN_MAX_MB} to {MOST_MAX_MB}; using {DEFAULT_MAX_MB}"
    )
    return DEFAULT_MAX_MB
