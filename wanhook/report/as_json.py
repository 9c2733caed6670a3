"""Report -> JSON text."""

from __future__ import annotations

import orjson

from wanhook.report.build import Report


def as_json(report: Report) -> bytes:
    """UTF-8 JSON, indented, ending with a newline; keys are the field names of the dataclasses."""
    return orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)
