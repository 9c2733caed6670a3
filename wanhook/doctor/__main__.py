"""`wanhook doctor [--out DIR] [--wan DIR] [--json]`, also `python -m wanhook.doctor`. Exit status 0 when recording will
work, 1 when not."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

from wanhook import settings
from wanhook.doctor import environment, hooks, places, software, wan
from wanhook.doctor.line import FAIL, WARN, Line
from wanhook.doctor.probe import ProbeFailed, probe
from wanhook.report.text import plain

SCHEMA = "wanhook.doctor/1"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; its exit status."""
    options = _parser().parse_args(arguments)
    answers, costs = examine(options)
    works = not any(line.status == FAIL for line in answers)
    if options.json:
        told = {"schema": SCHEMA, "works": works, "lines": [asdict(line) for line in answers], "costs_ns": costs}
        _print(json.dumps(told, indent=2))
    else:
        _print(render(answers))
    return 0 if works else 1


def _print(text: str) -> None:
    """To stdout, whose reader may have left: the exit status is an answer too."""
    if sys.stdout is None:
        return
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    about = "Say what will and will not be recorded on this machine, and why."
    made = argparse.ArgumentParser(prog="wanhook doctor", description=about)
    made.add_argument("--out", type=Path, metavar="DIR", help="where recordings will go; WANHOOK_OUT unless given")
    made.add_argument("--wan", type=Path, metavar="DIR", help="a checkout of Wan; the current directory unless given")
    made.add_argument("--ranks", type=int, default=1, metavar="N", help="ranks of a run that share this disk")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def examine(options: argparse.Namespace) -> tuple[list[Line], dict[str, float | None]]:
    """All answers, and the costs in ns (None: lost in noise)."""
    chosen, _ = settings.read(os.environ)  # what is wrong is among the answers
    chosen = replace(chosen, out=options.out) if options.out else chosen
    answers = software.lines(software.Software.here()) + environment.lines(os.environ)
    costs: dict[str, float | None] = {}
    # An extension that was built for another torch is not loaded, not even by the probe.
    if not any(line.status == FAIL and line.name in ("torch", "extension") for line in answers):
        try:
            found = probe()
            answers += hooks.lines(found)
            costs = found["costs"]
        except ProbeFailed as error:
            answers.append(hooks.failed(str(error)))
    answers += places.lines(chosen, max(options.ranks, 1))
    answers += wan.lines(wan.points(), options.wan)
    return answers, costs


def render(answers: list[Line]) -> str:
    """Lines under their areas, then the verdict."""
    width = max(len(line.name) for line in answers)
    told, area = [], ""
    for line in answers:
        if line.area != area:
            area = line.area
            told.append(("\n" if told else "") + area)
        told.append(f"  {line.status:<4}  {plain(line.name):<{width}}  {plain(line.text)}")
        if line.remedy:
            told.append(f"        {'':<{width}}  -> {plain(line.remedy)}")
    return "\n".join([*told, "", _verdict(answers)])


def _verdict(answers: list[Line]) -> str:
    failed = {line.name for line in answers if line.status == FAIL}
    if failed == {software.ENTRY_POINT}:
        return "A program that calls wanhook itself is recorded; WANHOOK=1 and `wanhook run` will record nothing."
    warned = sum(line.status == WARN for line in answers)
    mind = f" {warned} warning{'s' if warned > 1 else ''} above." if warned else ""
    return ("Recording will not work." if failed else "Recording will work.") + mind


if __name__ == "__main__":
    sys.exit(main())
