"""The rules about which file may know what, checked by reading includes and imports as text.

Each ``…_violations`` function takes a path relative to the repository and the file's text, and returns sentences.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# C++ ---------------------------------------------------------------------------------------------------------------

CPP_LAYERS = ("core", "device", "hooks", "python")  # each may include itself and what stands before it
_TOP_FILE = "bindings.cpp"
_REPLAY_BINDINGS = "replay/bindings.cpp"
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
_OUTSIDE = {
    "Python": r"Python\.h|structmember\.h|frameobject\.h|pybind11/.*|torch/(extension|python)\.h|torch/csrc/.*python.*",
    "torch": r"(torch|ATen|c10|caffe2)/.*",
    "CUDA": r"(cuda|nvml|nccl|nvtx|crt/|driver_types|vector_types)[\w/]*(\.h|\.hpp)?",
    "the system": r"[a-z_0-9]+|[a-z_0-9]+\.h|(sys|linux|arpa|netinet)/[a-z_0-9]+\.h",
}
_MAY_USE = {
    "core": {"the system"},
    "replay": {"the system"},
    _REPLAY_BINDINGS: {"the system", "Python"},
    "device": {"the system", "CUDA"},
    "hooks": {"the system", "CUDA", "torch"},
    "python": {"the system", "Python", "torch"},
    _TOP_FILE: {"the system", "Python", "torch"},
}


def cpp_violations(path: str, text: str) -> list[str]:
    """What a file under csrc/ includes although its layer may not."""
    parts = PurePosixPath(path).parts
    inside = "/".join(parts[1:])
    layer = inside if inside in (_TOP_FILE, _REPLAY_BINDINGS) else parts[1]
    if layer not in _MAY_USE:
        return [f"{path}: csrc/{layer} is no layer"]
    found = []
    for bracket, included in _INCLUDE.findall(text):
        user = _owner(included) if bracket == "<" else None
        if bracket == '"' and included.split("/")[0] not in _reachable(layer) and not _is_format(layer, included):
            found.append(f'{path}: {layer} may not include "{included}"')
        elif bracket == "<" and user not in _MAY_USE[layer]:
            found.append(f"{path}: {layer} may not include <{included}> ({user})")
    return found


def _owner(header: str) -> str:
    return next((name for name, pattern in _OUTSIDE.items() if re.fullmatch(pattern, header)), "another library")


def _is_format(layer: str, included: str) -> bool:
    """The replay stands apart from the recorder, but what the numbers of a record mean is said in one file only."""
    return layer.startswith("replay") and included == "core/record.h"


def _reachable(layer: str) -> tuple[str, ...]:
    if layer.startswith("replay"):
        return ("replay",)
    return CPP_LAYERS if layer == _TOP_FILE else CPP_LAYERS[: CPP_LAYERS.index(layer) + 1]


# Python ------------------------------------------------------------------------------------------------------------

# Parts of the reading half, what each may import of wanhook besides itself, and of other people's packages.
READING_HALF = {
    "tracefile": ((), ("numpy", "orjson", "pandas")),
    "analysis": (("tracefile",), ("numpy", "pandas")),
    "exports": (("tracefile", "analysis"), ("numpy", "orjson", "pandas")),
    "report": (("tracefile", "analysis"), ("numpy", "orjson", "pandas", "rich", "plotly")),
}
_FREE_FOR_ALL = ("wanhook._replay", "wanhook.__version__")
# These stand above both halves and may use both.
PROGRAMS = ("__init__", "__main__", "demo", "doctor", "run")


def python_violations(path: str, text: str) -> list[str]:
    """What a file under wanhook/ imports although its part may not."""
    part = PurePosixPath(path).with_suffix("").parts[1]
    if part in PROGRAMS:
        return []
    found = []
    for line, module in imports(path, text):
        top, _, rest = module.partition(".")
        allowed = _reading_half_may(part, top, rest) if part in READING_HALF else _recording_half_may(top, rest)
        if not allowed and module not in _FREE_FOR_ALL:
            found.append(f"{path}:{line}: {part} may not import {module}")
    return found


def _reading_half_may(part: str, top: str, rest: str) -> bool:
    below, libraries = READING_HALF[part]
    if top == "wanhook":
        return rest.split(".")[0] in (part, *below)
    return top in sys.stdlib_module_names or top in libraries


def _recording_half_may(top: str, rest: str) -> bool:
    return top != "wanhook" or rest.split(".")[0] not in READING_HALF


def imports(path: str, text: str) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of each import, wherever in the file; ``from m import n`` gives ``m.n``."""
    package = PurePosixPath(path).parent.parts
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _called_name(node) in ("import_module", "__import__"):
            names = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
            yield from ((node.lineno, str(name)) for name in names)


def _called_name(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


# Rule 6: analysis neither prints, plots nor parses arguments ---------------------------------------------------------


def analysis_violations(path: str, text: str) -> list[str]:
    """Calls of print() and imports of argparse in the analysis layer."""
    if not path.startswith("wanhook/analysis/"):
        return []
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    found = [f"{path}:{call.lineno}: analysis may not print" for call in calls if _called_name(call) == "print"]
    parsers = [line for line, module in imports(path, text) if module.split(".")[0] == "argparse"]
    return found + [f"{path}:{line}: analysis may not parse arguments" for line in parsers]


# Who knows the layout of the file ------------------------------------------------------------------------------------

LAYOUT_FILES = ("csrc/core/record.h", "wanhook/tracefile/format.py")
_LAYOUT_SIGNS = {
    ".py": {
        r"^\s*(import struct|from struct import)\b": "packs bytes by hand",
        r"[\"']offsets[\"']\s*:": "places fields",
        r"x89WHK": "repeats the magic",
    },
    ".cpp": {
        r"\bstruct\s+\w+(Record|Header)\s*(final\s*)?\{": "defines a record",
        r"#\s*pragma\s+pack|__packed__": "packs a struct",
        r"0x89\b.*'W'|x89WHK": "repeats the magic",
    },
}


def layout_violations(path: str, text: str) -> list[str]:
    """Signs that a file of ours besides LAYOUT_FILES knows where bytes of the trace file are."""
    if path in LAYOUT_FILES:
        return []
    signs = _LAYOUT_SIGNS.get({".h": ".cpp"}.get(suffix := PurePosixPath(path).suffix, suffix), {})
    return [f"{path}: {what}" for pattern, what in signs.items() if re.search(pattern, text, re.MULTILINE)]


# What is true only of one machine ------------------------------------------------------------------------------------

_MACHINE_PATH = re.compile(r"(?<![\w.\-/~])/(?:root|home|work|opt|Users|mnt)/[\w.]+")


def machine_path_violations(path: str, text: str) -> list[str]:
    """Absolute paths that exist on somebody's machine only."""
    return [f"{path}: names {match[0]}" for match in _MACHINE_PATH.finditer(text)]


# Reading the repository ----------------------------------------------------------------------------------------------

_SKIPPED = re.compile(r"build|dist|runs|__pycache__|.*\.egg-info|\.(?!ci$|github$).+")


def text_files(root: Path) -> Iterator[tuple[str, str]]:
    """(path relative to ``root``, text) of each text file of the repository; what builds and tools leave is skipped."""
    for file in sorted(root.rglob("*")):
        inside = file.relative_to(root)
        if not file.is_file() or any(_SKIPPED.fullmatch(folder) for folder in inside.parts[:-1]):
            continue
        try:
            yield inside.as_posix(), file.read_text()
        except UnicodeDecodeError:
            continue
