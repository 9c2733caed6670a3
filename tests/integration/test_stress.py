"""The stress program of tests/native without a sanitizer; `make sanitize` runs it under three of them."""

import subprocess


def test_core_under_fire(native_program, tmp_path):
    done = subprocess.run([native_program("stress"), tmp_path], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "stress: every scenario passed"
    # One scenario uses up all names.
    assert [line for line in done.stderr.splitlines() if "different names, and no room for more" not in line] == []
    assert list(tmp_path.iterdir()) == []  # nothing left, not even by the forked children
