"""Settings from the environment. A value that cannot be used is reported once on stderr and the default taken; so is,
when something is recorded, a variable that is none of ours."""

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
NONE = "none"  # stands for no integration
VARIABLES = (
    "WANHOOK", "WANHOOK_OUT", "WANHOOK_LEVEL", "WANHOOK_MAX_MB", "WANHOOK_ON_FULL", "WANHOOK_INTEGRATIONS",
    "WANHOOK_VERIFY", "WANHOOK_WARN_AT", "WANHOOK_KERNELS", "WANHOOK_KERNELS_WINDOW",
)  # fmt: skip
# Of the build and of the tests.
_OTHERS = ("WANHOOK_CUDA", "WANHOOK_CUDA_HOME", "WANHOOK_REQUIRE_GPU", "WANHOOK_UPDATE_GOLDEN")
_ON, _OFF = ("1", "on", "true", "yes"), ("", "0", "off", "false", "no")

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
    chosen, problems = read(environ)
    for problem in problems:
        complain(problem)
    return chosen


def read(environ) -> tuple[Settings, list[str]]:
    """The settings, and a sentence on each value that cannot be used."""
    problems: list[str] = []
    out = environ.get("WANHOOK_OUT")
    switch = _one_of(problems, environ, "WANHOOK", ("0", "1"), "")
    chosen = Settings(
        enabled=switch != "0",
        automatic=switch == "1",
        out=Path(out) if out else None,
        level=_one_of(problems, environ, "WANHOOK_LEVEL", LEVELS, "op"),
        max_mb=_max_mb(problems, environ.get("WANHOOK_MAX_MB")),
        warn_at=_warn_at(problems, environ.get("WANHOOK_WARN_AT")),
        verified=_verified(environ.get("WANHOOK_VERIFY")),
        kernels=_one_of(problems, environ, "WANHOOK_KERNELS", KERNELS, "off"),
        kernels_window=_kernels_window(problems, environ.get("WANHOOK_KERNELS_WINDOW")),
        on_full=_one_of(problems, environ, "WANHOOK_ON_FULL", ON_FULL, "stop"),
        integrations=_integrations(problems, environ.get("WANHOOK_INTEGRATIONS")),
    )
    return chosen, problems


def unknown(environ=os.environ) -> list[str]:
    """A sentence on each variable that begins with WANHOOK_ and means nothing, with the one that was meant."""
    names = [name for name in environ if name.startswith("WANHOOK_") and name not in (*VARIABLES, *_OTHERS)]
    if not names:
        return []
    from difflib import get_close_matches  # not before it is needed: programs that record nothing import this too

    begin = len("WANHOOK_")  # they have that in common whatever was meant
    known = {name[begin:]: name for name in VARIABLES[1:]}
    nearest = {name: get_close_matches(name[begin:], known, 1) for name in sorted(names)}
    listed = f"the settings are {', '.join(VARIABLES)}"
    return [
        f"{name} is no setting and changes nothing; " + (f"did you mean {known[near[0]]}?" if near else listed)
        for name, near in nearest.items()
    ]


def complain_of_unknown(environ=os.environ) -> None:
    """Call it where something is going to be recorded: nobody else has asked for advice."""
    for problem in unknown(environ):
        complain(problem)


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


def _one_of(problems: list[str], environ, variable: str, allowed: tuple[str, ...], default: str) -> str:
    value = environ.get(variable) or default
    if value in (default, *allowed):
        return value
    using = f"using {default}" if default else "taken as unset"
    problems.append(f"{variable}={value!r} is not one of {', '.join(allowed)}; {using}")
    return default


def _integrations(problems: list[str], value: str | None) -> tuple[str, ...]:
    """``none``, or names separated by commas; the default where none of these is known."""
    if not value or value.strip() == NONE:
        return () if value else INTEGRATIONS
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    known = tuple(name for name in names if name in INTEGRATIONS)
    if wrong := [name for name in names if name not in INTEGRATIONS] or ([] if names else ["nothing"]):
        using = ",".join(known or INTEGRATIONS)
        allowed = f"{NONE}, or {' and '.join(INTEGRATIONS)} separated by commas"
        problems.append(
            f"WANHOOK_INTEGRATIONS={value!r} names {', '.join(wrong)}; allowed are {allowed}; using {using}"
        )
    return known or INTEGRATIONS


def _verified(value: str | None) -> str:
    """What says yes stands for the denoising step; anything else that does not say no is a scope's name."""
    word = (value or "").lower()
    return "" if word in _OFF else DEFAULT_VERIFIED if word in _ON else value


def usable_max_mb(value: str) -> int | None:
    """A cap in MiB; None for what is no whole number, too small or too large."""
    usable = re.fullmatch(r"[0-9]{1,9}", value) and MIN_MAX_MB <= int(value) <= MOST_MAX_MB
    return int(value) if usable else None


def _max_mb(problems: list[str], value: str | None) -> int:
    if not value:
        return DEFAULT_MAX_MB
    if (usable := usable_max_mb(value)) is not None:
        return usable
    allowed = f"a whole number from {MIN_MAX_MB} to {MOST_MAX_MB}"
    problems.append(f"WANHOOK_MAX_MB={value!r} is not {allowed}; using {DEFAULT_MAX_MB}")
    return DEFAULT_MAX_MB


def _warn_at(problems: list[str], value: str | None) -> float | None:
    if not value:
        return None
    if re.fullmatch(r"[0-9]{0,9}[.]?[0-9]{1,9}", value) and 0 < float(value) <= 1:
        return float(value)
    problems.append(f"WANHOOK_WARN_AT={value!r} is not a share above 0 and up to 1, such as 0.85; using no watermark")
    return None


def _kernels_window(problems: list[str], value: str | None) -> tuple[str, int]:
    """NAME:N, the N-th scope of that name, from 1."""
    if not value:
        return DEFAULT_WINDOW
    name, _, number = value.rpartition(":")
    if name and number.isascii() and number.isdecimal() and len(number) < 8 and 1 <= int(number) <= MOST_INSTANCE:
        return name, int(number)
    default = "{}:{}".format(*DEFAULT_WINDOW)
    about = "NAME:N, the N-th scope of that name from 1"
    problems.append(f"WANHOOK_KERNELS_WINDOW={value!r} is not {about}; using {default}")
    return DEFAULT_WINDOW
