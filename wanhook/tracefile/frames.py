"""Tables of a trace as pandas DataFrames, names and enums as text."""

from __future__ import annotations

import importlib
from enum import IntEnum, IntFlag

import numpy as np

from . import format as layout

# c10::ScalarType by number, as torch names its dtypes.
_DTYPES = (
    "uint8 int8 int16 int32 int64 float16 float32 float64 complex32 complex64 complex128 bool qint8 quint8 qint32 "
    "bfloat16 quint4x2 quint2x4 bits1x8 bits2x4 bits4x2 bits8 bits16 float8_e5m2 float8_e4m3fn float8_e5m2fnuz "
    "float8_e4m3fnuz uint16 uint32 uint64 uint1 uint2 uint3 uint4 uint5 uint6 uint7 int1 int2 int3 int4 int5 int6 "
    "int7 float8_e8m0fnu float4_e2m1fn_x2"
)
DTYPES = _DTYPES.split()

ENUMS: dict[tuple[str, str], type[IntEnum]] = {
    ("scopes", "level"): layout.ScopeLevel,
    ("scopes", "type"): layout.ScopeType,
    ("scopes", "verify"): layout.ScopeVerify,
    ("collectives", "span_class"): layout.SpanClass,
    ("allocator_events", "action"): layout.AllocatorAction,
    ("memory_samples", "edge"): layout.SampleEdge,
    ("allocator_samples", "edge"): layout.SampleEdge,
    ("drops", "reason"): layout.DropReason,
}
FLAGS: dict[str, type[IntFlag]] = {"scopes": layout.ScopeEndFlags, "collectives": layout.CollectiveFlags}
TABLES = (
    "scopes", "collectives", "allocator_events", "memory_samples", "allocator_samples", "device_samples",
    "recorder_samples", "marks", "drops", "gates", "kernels",
)  # fmt: skip


def _pandas():
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise ImportError("to_pandas() needs pandas: pip install pandas") from error


def _text(pandas, codes: np.ndarray, names: list[str]):
    """A column of text; codes outside of `names` are missing values."""
    codes = codes.astype(np.int64)
    codes[(codes < 0) | (codes >= len(names))] = -1
    distinct = list(dict.fromkeys(names))
    if len(distinct) < len(names):  # categories are unique; the ids of one text need not be
        place = {name: code for code, name in enumerate(distinct)}
        codes = np.append(np.array([place[name] for name in names], np.int64), -1)[codes]
    return pandas.Categorical.from_codes(codes, distinct)


def _enum_names(enum: type[IntEnum]) -> list[str]:
    known = {int(member): member.name.lower() for member in enum}
    return [known.get(number, f"?{number}") for number in range(256)]


def _frame(pandas, trace, name: str):
    rows = getattr(trace, name)
    columns = {field: rows[field] for field in rows.dtype.names}
    for field in columns.keys() & {"name", "op", "role", "unit"}:
        columns[field] = _text(pandas, rows[field], trace.strings)
    if "path" in columns:
        columns["path"] = _text(pandas, rows["path"], trace.paths)
    elif "scope" in columns:
        columns["path"] = _text(pandas, trace.path_of(rows["scope"]), trace.paths)
    if name == "collectives":
        numbers = list(trace.groups)
        columns["group"] = _text(
            pandas, np.searchsorted(numbers, rows["group"]), [trace.groups[n].name for n in numbers]
        )
        columns["dtype"] = _text(pandas, rows["dtype"], DTYPES)
    for field in columns:
        if (name, field) in ENUMS:
            columns[field] = _text(pandas, rows[field], _enum_names(ENUMS[name, field]))
    for flag in FLAGS.get(name, ()):
        columns["is_" + flag.name.lower()] = (rows["flags"] & flag.value) != 0
    return pandas.DataFrame(columns)


def to_pandas(trace) -> dict:
    """See Trace.to_pandas."""
    pandas = _pandas()
    return {name: _frame(pandas, trace, name) for name in TABLES}


def join(traces) -> dict:
    """See Run.to_pandas."""
    pandas = _pandas()
    found: dict[str, list] = {name: [] for name in TABLES}
    for trace in traces:
        for name, frame in to_pandas(trace).items():
            frame.insert(0, "rank", -1 if trace.rank is None else trace.rank)
            found[name].append(frame)
    return {name: pandas.concat(parts, ignore_index=True) for name, parts in found.items()}
