"""The settings of torch's caching allocator that a trace was recorded under, read as torch reads them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wanhook import _replay
from wanhook.tracefile.names import section

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

MIB = 1 << 20
INTERVALS = 16  # of roundup_power2_divisions: the powers of two from 1 MiB on
_MOST_MIB = 1 << 40
_DEFAULTS = {
    "max_split_size_mb": -1,
    "roundup_power2_divisions": (0,) * INTERVALS,
    "garbage_collection_threshold": 0.0,
    "large_segment_size_mb": 20,
    "expandable_segments": False,
}
# torch goes back to the default of these whenever settings are set that do not name them.
_RESET_EACH_TIME = ("max_split_size_mb", "roundup_power2_divisions", "garbage_collection_threshold")
_TOKEN = re.compile(r"[^,:\[\]\s]+|[,:\[\]]")


class UnknownSettings(ValueError):
    """A settings string that cannot be read as torch reads it."""


def settings_of(trace: Trace) -> _replay.Settings | str:
    """What the trace's meta data says, or one sentence why the settings are not known.

    Changes by the program while it recorded cannot be placed; see `settings_changed`.
    """
    allocator = section(trace.meta, "allocator")
    if trace.device_type == "cpu":
        return _replay.Settings()
    backend = allocator.get("backend")
    if backend != "native":
        return "the file does not say which allocator ran" if backend is None else f"the allocator was {backend}"
    # The string from the environment came first, and what it set stays set unless torch resets it.
    strings = [allocator.get(key) for key in ("settings", "settings_at_start")]
    strings = [text for text in strings if isinstance(text, str)]
    if not strings:
        return "the file does not tell the allocator's settings"
    try:
        return in_force(list(dict.fromkeys(strings)))
    except UnknownSettings as error:
        return f"the allocator's settings cannot be read: {error}"


def settings_changed(trace: Trace) -> bool:
    """Whether the program set other settings between the start of the recording and its end."""
    allocator = section(trace.meta, "allocator")
    first, last = allocator.get("settings_at_start"), allocator.get("settings_in_use")
    return isinstance(first, str) and isinstance(last, str) and first != last


def in_force(strings: list[str]) -> _replay.Settings:
    """The settings after torch was given these strings, one after the other. Raises UnknownSettings."""
    found = dict(_DEFAULTS)
    for text in strings:
        found |= {key: _DEFAULTS[key] for key in _RESET_EACH_TIME} | parse(text)
    try:
        return _replay.Settings(
            max_split_size=found["max_split_size_mb"] * MIB if found["max_split_size_mb"] > 0 else -1,
            roundup_power2_divisions=found["roundup_power2_divisions"],
            large_segment_size=found["large_segment_size_mb"] * MIB,
            expandable_segments=found["expandable_segments"],
            garbage_collection_threshold=found["garbage_collection_threshold"],
        )
    except (ValueError, TypeError) as error:
        raise UnknownSettings(str(error)) from None


def parse(text: str) -> dict:
    """The settings named in a PYTORCH_CUDA_ALLOC_CONF string that decide sizes of blocks. Raises UnknownSettings."""
    tokens, found = _TOKEN.findall(text), {}
    while tokens:
        key, values = _next_setting(tokens)
        if key == "roundup_power2_divisions":
            found[key] = _divisions(values)
        elif key in _DEFAULTS:
            found[key] = _value(key, values)
    return found


def _next_setting(tokens: list[str]) -> tuple[str, list[str]]:
    """Takes `key:value` or `key:[...]`, and the comma behind it, off the tokens."""
    if len(tokens) < 3 or tokens[0] in ",:[]" or tokens[1] != ":":
        raise UnknownSettings(f"no value behind {tokens[0]!r}")
    key, end = tokens[0], 3
    if tokens[2] == "[":
        if "]" not in tokens:
            raise UnknownSettings(f"no ] behind {key}")
        end = tokens.index("]") + 1
    values = tokens[2:end]
    if len(tokens) > end and tokens[end] != ",":
        raise UnknownSettings(f"{tokens[end]!r} behind the value of {key}")
    del tokens[: end + 1]
    return key, values


def _value(key: str, values: list[str]) -> int | float | bool:
    (text, *more) = values
    if not more and key == "expandable_segments" and text in ("True", "False"):
        return text == "True"
    try:
        if not more and key == "garbage_collection_threshold":
            return float(text)
        if not more and key.endswith("_mb"):
            return min(_whole(text), _MOST_MIB)
    except ValueError:
        pass
    raise UnknownSettings(f"{key} cannot be {''.join(values)}")


def _divisions(values: list[str]) -> tuple[int, ...]:
    """One number for all intervals, or [boundary in MiB:number, ..., >:number]. A boundary sets its own interval; the
    first one also those below it, and `>` all above the last."""
    if values[0] != "[":
        return (_power(values[0]),) * INTERVALS
    divisions, last = [0] * INTERVALS, -1
    for pair in filter(None, "".join(values[1:-1]).split(",")):
        boundary, _, number = pair.partition(":")
        if boundary == ">":
            divisions[max(last, 0) + 1 :] = [_power(number, zero=True)] * (INTERVALS - 1 - max(last, 0))
            continue
        interval = min(_power(boundary).bit_length() - 1, INTERVALS - 1)
        first = 0 if last < 0 else interval
        divisions[first : interval + 1] = [_power(number, zero=True)] * (interval + 1 - first)
        last = interval
    return tuple(divisions)


def _power(text: str, zero: bool = False) -> int:
    """A power of two (or 0, where that is allowed)."""
    try:
        value = _whole(text)
    except ValueError:
        value = -1
    if value < 0 or value & (value - 1) or (value == 0 and not zero) or value > 1 << 62:
        raise UnknownSettings(f"roundup_power2_divisions has {text!r}, which is no power of two")
    return value


def _whole(text: str) -> int:
    if not text.isdecimal() or len(text) > 20:
        raise ValueError(text)
    return int(text)
