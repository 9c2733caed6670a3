"""Where a recording is written when its directory lies on a network file system."""

import os
from pathlib import Path

import pytest

from wanhook import spool

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:26 / /shm rw - tmpfs tmpfs rw
31 22 0:40 / /net/cluster rw - nfs4 server:/export rw
32 31 0:41 / /net/cluster/scratch rw - lustre mds:/scratch rw
33 22 0:42 / /net/with\\040blank rw - fuse.sshfs host:/ rw
a line that means nothing
"""


@pytest.mark.parametrize(
    ("directory", "kind", "spooled"),
    [
        ("/data/runs", "ext4", False),
        ("/shm/runs", "tmpfs", False),
        ("/shmfile", "ext4", False),
        ("/net/cluster/runs", "nfs4", True),
        ("/net/cluster/scratch/runs", "lustre", True),
        ("/net/with blank/runs", "fuse.sshfs", True),
    ],
)
def test_the_longest_mount_point_decides(directory, kind, spooled):
    assert spool.file_system(Path(directory), MOUNTS) == kind
    assert spool.must_spool(kind) is spooled


def test_the_last_of_two_mounts_on_one_point_is_seen():
    again = "40 22 0:50 / /shm rw - nfs server:/shm rw\n"
    assert spool.file_system(Path("/shm/runs"), MOUNTS + again) == "nfs"


def test_mount_point_that_is_no_text(monkeypatch):
    mounts = b"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / /disk/\xff rw - nfs4 server:/ rw\n"
    monkeypatch.setattr(Path, "read_bytes", lambda _: mounts)
    assert spool.file_system(Path(os.fsdecode(b"/disk/\xff/run"))) == "nfs4"
    assert spool.file_system(Path("/disk/run")) == "ext4"


def test_without_mounts_nothing_is_claimed():
    assert spool.file_system(Path("/runs"), "") == "unknown"
    assert not spool.must_spool("unknown")


def test_a_link_stands_for_the_file_until_it_comes_home(tmp_path):
    path = tmp_path / "rank00000-1-0.wanhook"
    local = spool.place(path)
    local.write_bytes(b"records")
    assert path.is_symlink()
    assert path.read_bytes() == b"records"
    assert spool.bring_home(local, path)
    assert not path.is_symlink()
    assert path.read_bytes() == b"records"
    assert not local.parent.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_copy_that_fails_leaves_the_local_file(tmp_path):
    path = tmp_path / "gone" / "rank.wanhook"
    local = tmp_path / "local" / "rank.wanhook"
    local.parent.mkdir()
    local.write_bytes(b"records")
    assert not spool.bring_home(local, path)
    assert local.read_bytes() == b"records"
