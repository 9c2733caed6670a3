"""Recordings whose directory lies on a network or FUSE file system are written to a local disk and moved at the end.

A mapped file there can lose stores, stall a writer for as long as the server takes, or fail with SIGBUS; ext4 and
tmpfs are proven. Until the move, a symbolic link stands in the run directory, so that a live or crashed
recording can be read from this host.
"""

import os
import shutil
import tempfile
from pathlib import Path

_NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "afs"),
        *("ceph", "lustre", "gpfs", "beegfs", "glusterfs", "orangefs", "panfs", "pvfs2", "wekafs"),
    }
)


def file_system(directory: Path, mounts: str | None = None) -> str:
    """Type of the file system that holds ``directory``, as in /proc/self/mountinfo; "unknown" where that does not
    tell. ``mounts``: the text of that file."""
    if mounts is None:
        try:
            mounts = os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
        except OSError:
            return "unknown"
    best, found = -1, "unknown"
    for line in mounts.splitlines():
        mount, separator, source = line.partition(" - ")
        fields = mount.split()
        if not separator or len(fields) < 5 or not source:
            continue
        point = _unescape(fields[4])
        # The last of several mounts on one point is the one that is seen.
        if directory.is_relative_to(point) and len(point) >= best:
            best, found = len(point), source.split()[0]
    return found


def must_spool(kind: str) -> bool:
    """True for file systems that a mapped file should not be written on."""
    return kind in _NETWORK or kind.startswith("fuse")


def place(path: Path) -> Path:
    """A local file to write instead of ``path``, with a link to it at ``path``. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix="wanhook-"))
    local = folder / path.name
    os.symlink(local, path)
    return local


def bring_home(local: Path, path: Path) -> bool:
    """Moves a finished recording to where the user wants it; False, and the local file stays, when that fails."""
    partial = path.with_name(path.name + ".partial")
    try:
        shutil.copyfile(local, partial)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        return False
    shutil.rmtree(local.parent, ignore_errors=True)
    return True


def _unescape(point: str) -> str:
    """mountinfo writes blanks and backslashes in paths as octal escapes."""
    for escaped, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(escaped, character)
    return point
