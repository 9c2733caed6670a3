"""Inference records -> JSON files, one a request."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from wanhook.analysis.inference import InferenceRecord, inference_records
from wanhook.report.text import plain

if TYPE_CHECKING:
    from wanhook.tracefile.model import Run

NAME = "inference_record.json"
MOST = 1000  # files of one run


def leave_records(run: Run, path: Path | None = None, one_rank: bool = False) -> list[Path]:
    """Writes the records of a run's requests to `path`, by default into the run directory, and returns the files.

    What cannot be written costs a line on stderr. Without `path`, nothing is written for one rank (`one_rank`) or one
    file alone: the record of the whole run could be there.
    """
    if path is None and (one_rank or not run.path.is_dir()):
        return []
    records = inference_records(run)
    if path is not None and not records:
        _say(f"{run.path} holds no request to write a record of")
    if len(records) > MOST:
        _say(f"{run.path} holds {len(records)} requests; the first {MOST} get a record")
    try:
        return write_records(records[:MOST], path or run.path / NAME)
    except OSError as error:
        place = path or run.path / NAME  # not the file that was to be renamed to it
        _say(f"no record of the request: {place}: {error.strerror}; give a place with --record FILE, or --no-record")
        return []


def write_records(records: Sequence[InferenceRecord], path: Path) -> list[Path]:
    """Writes the first record to `path` and the others beside it, -2, -3, … behind the name; the files. What was there
    is replaced at once, so that no reader meets half of one. Raises OSError."""
    written = []
    for record in records:
        file = path if record.request == 1 else path.with_name(f"{path.stem}-{record.request}{path.suffix}")
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            partial.write_bytes(as_json(record))
            os.replace(partial, file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        written.append(file)
    return written


def as_json(record: InferenceRecord) -> bytes:
    """UTF-8 JSON, indented, ending with a newline; docs/inference-record.md says what the fields are."""
    return orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _say(line: str) -> None:
    print(f"wanhook.report: {plain(line)}", file=sys.stderr)
