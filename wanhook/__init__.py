"""wanhook: an always-on flight recorder for multi-GPU Wan video generation.

Recording needs torch and the native extension; both are imported at the first use of a recording function, so that
reading a trace (``wanhook.load``) needs neither.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "trace": "wanhook.recording",
    "mark": "wanhook.recording",
    "role": "wanhook.recording",
    "start": "wanhook.recording",
    "stop": "wanhook.recording",
    "pause": "wanhook.recording",
    "resume": "wanhook.recording",
    "WanhookError": "wanhook.errors",
    "load": "wanhook.tracefile.model",
    "Run": "wanhook.tracefile.model",
    "Trace": "wanhook.tracefile.model",
    "TraceFormatError": "wanhook.tracefile.format",
}

_MODULES = ("memory",)

__all__ = ["__version__", *_HOMES, *_MODULES]


def __getattr__(name: str):
    if name in _MODULES:
        return import_module(f"wanhook.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'wanhook' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
