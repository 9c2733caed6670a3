"""`python -m wanhook.report [RUN] [--rank N] [--section NAME] [--json FILE|-] [--csv PATH] [--all] [--record FILE |
--no-record]`: prints the report of a run, and leaves a record of each request beside its recordings."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from pathlib import Path
from typing import TextIO

from wanhook.report.as_csv import as_csv
from wanhook.report.as_json import as_json
from wanhook.report.build import Report, build
from wanhook.report.inference_record import NAME, leave_records
from wanhook.report.terminal import SECTIONS, render
from wanhook.report.text import plain, rank_list
from wanhook.tracefile.format import TraceFormatError
from wanhook.tracefile.model import Run, load

RUNS = "wanhook-runs"
WIDTH, WIDEST = 100, 160
UNUSABLE = 2  # exit status of argparse for a usage error, and ours for a run that cannot be read


class UnusableRun(Exception):
    """There is nothing to report on; the message names the remedy."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, or 2 where there is no readable run."""
    options = _parser().parse_args(arguments)
    if sys.stdout is None:  # closed: records and files are still written
        sys.stdout = io.TextIOWrapper(io.BytesIO())
    # A terminal that knows less than Unicode still gets its report.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _report(options)
    except UnusableRun as error:
        print(f"wanhook.report: {plain(str(error))}", file=sys.stderr)
        return UNUSABLE
    except BrokenPipeError:
        # The reader of our output left (`| head`); Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wanhook.report", description="Print the report of a recorded run.")
    about = f"a run directory or one .wanhook file; the newest run in {RUNS}/ unless given"
    parser.add_argument("run", nargs="?", type=Path, help=about)
    parser.add_argument("--rank", type=int, metavar="N", help="report on this rank alone")
    about = (
        f"print this section alone, memory with its details; one of {', '.join(SECTIONS)}; can be given several times"
    )
    parser.add_argument("--section", action="append", default=[], choices=SECTIONS, metavar="NAME", help=about)
    parser.add_argument("--json", metavar="FILE", help="also write JSON; - writes only that, to stdout")
    about = "also write memory over time: a .csv file for one device, else a directory with a file a device"
    parser.add_argument("--csv", type=Path, metavar="PATH", help=about)
    parser.add_argument("--all", action="store_true", help="leave out no rows")
    record = parser.add_mutually_exclusive_group()
    about = f"where the record of the request goes (of a second one: with -2); {NAME} in the run directory by default"
    record.add_argument("--record", type=Path, metavar="FILE", help=about)
    record.add_argument("--no-record", action="store_true", help="write no record of the requests")
    return parser


def _report(options: argparse.Namespace) -> None:
    path = options.run or newest_run(Path(RUNS))
    try:
        run = load(path)
        report = build(run, options.rank)
    except KeyError:
        raise UnusableRun(f"{path}: rank {options.rank} left no readable file; {_there(run)}") from None
    except TraceFormatError as error:
        raise UnusableRun(f"{error}. Give a run directory or a file that wanhook recorded.") from error
    except OSError as error:
        raise UnusableRun(str(error)) from error
    if options.csv:
        _write_csv(options.csv, report)
    if not options.no_record:
        leave_records(run, options.record, one_rank=options.rank is not None)
    if options.json == "-":
        sys.stdout.buffer.write(as_json(report))
        sys.stdout.buffer.flush()
        return
    if options.json:
        _write_json(Path(options.json), as_json(report))
    colour = wants_colour(sys.stdout, os.environ)
    width = min(max(shutil.get_terminal_size((WIDTH, 0)).columns, WIDTH), WIDEST) if sys.stdout.isatty() else WIDTH
    text = render(report, width=width, colour=colour, show_all=options.all, sections=options.section)
    sys.stdout.write(text)
    sys.stdout.flush()


def _there(run: Run) -> str:
    known = sorted({trace.rank for trace in run.traces if trace.rank is not None})
    return f"there are: {rank_list(known)}" if known else "its recordings have no rank: leave out --rank"


def _write_json(path: Path, text: bytes) -> None:
    try:
        path.write_bytes(text)
    except OSError as error:
        raise UnusableRun(f"{path}: {error.strerror}; give another file to --json") from error


def _write_csv(path: Path, report: Report) -> None:
    texts = as_csv(report)
    if path.suffix == ".csv":
        if len(texts) != 1:
            names = ", ".join(texts) or "none"
            raise UnusableRun(
                f"{path}: one file takes one device, the run has {len(texts)} ({names}); give a directory"
            )
        files = {path: next(iter(texts.values()))}
    else:
        files = {path / name: text for name, text in texts.items()}
    try:
        if path.suffix != ".csv":
            path.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            file.write_text(text)
    except OSError as error:
        raise UnusableRun(f"{path}: {error.strerror}; give another place to --csv") from error


def newest_run(directory: Path) -> Path:
    """The directory below `directory` with the trace file that was written last. UnusableRun where there is none."""
    files = [(file.stat().st_mtime_ns, file.parent) for file in directory.glob("*/*.wanhook")]
    if not files:
        raise UnusableRun(f"{directory}/ holds no run; give the run directory, or record one with wanhook.trace()")
    return max(files)[1]


def wants_colour(stream: TextIO, environ: os._Environ[str] | dict[str, str]) -> bool:
    """Whether the stream is a terminal that takes colour; NO_COLOR set to anything but nothing says no."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


if __name__ == "__main__":
    sys.exit(main())
