"""Where recordings would go: whether that can be written, how much room there is, and what kind of disk it is."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from wanhook import settings, spool
from wanhook.doctor.line import FAIL, OK, WARN, Line

AREA = "disk"
RUNS = "wanhook-runs"  # run_directory.BASE, which needs torch
_MIB = 1 << 20


def lines(
    chosen: settings.Settings,
    ranks: int = 1,
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    file_system: Callable[[Path], str] = spool.file_system,
) -> list[Line]:
    """For WANHOOK_OUT, else wanhook-runs/ here. `ranks`: recordings of one run that share this disk."""
    wanted = chosen.out or Path(RUNS)
    try:
        there = _nearest(wanted.absolute())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        remedy = "name another directory with WANHOOK_OUT or --out"
        return [Line(AREA, "directory", FAIL, f"{wanted} cannot be written: {error.strerror}", remedy)]
    try:
        kind = file_system(there.resolve())
        spooled = spool.must_spool(kind)
        written = Path(tempfile.gettempdir()) if spooled else there
        room = _room(free_bytes(written), chosen.max_mb, ranks, written)
    except OSError as error:
        return [Line(AREA, "directory", WARN, f"{wanted}: nothing is known of the disk: {error.strerror}")]
    text = f"{wanted} can be written ({kind})"
    if spooled:
        text += f"; recordings are written to {written} first and copied when the program ends"
    return [Line(AREA, "directory", OK, text), room]


def _nearest(directory: Path) -> Path:
    """The directory itself, else the nearest one above it that is there; nothing is made."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    if not directory.is_dir():
        raise NotADirectoryError(20, "it is no directory")
    return directory


def _room(free: int, max_mb: int, ranks: int, where: Path) -> Line:
    free_mb, wanted = free // _MIB, max_mb * ranks
    many = f"{ranks} ranks" if ranks > 1 else "a rank"
    text = f"{free_mb} MiB are free in {where}; {many} may write {max_mb} MiB" + (" each" if ranks > 1 else "")
    if free_mb < settings.MIN_MAX_MB * ranks:
        return Line(AREA, "room", FAIL, text, "make room, or name another directory with WANHOOK_OUT")
    if free_mb < wanted:
        remedy = "make room, or lower WANHOOK_MAX_MB; a recording ends early when the disk is full"
        return Line(AREA, "room", WARN, text, remedy)
    return Line(AREA, "room", OK, text)
