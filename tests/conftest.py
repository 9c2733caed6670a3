"""What every test gets: the `gpu` marker, and the check that nothing of wanhook outlives a test."""

import os
import sys
import threading
import time

import pytest

_SETTLE_SECONDS = 2.0  # stop() lets the last GPU spans be resolved in the background


def _required_gpus() -> int:
    """GPUs that WANHOOK_REQUIRE_GPU says this machine must have; a test that needs no more may not be skipped."""
    return int(os.environ.get("WANHOOK_REQUIRE_GPU") or 0)


def _needed_gpus(item: pytest.Item) -> int:
    """1 for @pytest.mark.gpu, 2 for @pytest.mark.gpu(2), 0 without the marker."""
    marker = item.get_closest_marker("gpu")
    return 0 if marker is None else (marker.args[0] if marker.args else 1)


def _present_gpus() -> int:
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count()


def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = _needed_gpus(item)
    if needed and (present := _present_gpus()) < needed:
        pytest.skip(f"needs {needed} GPU(s), {present} here")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and 0 < _needed_gpus(item) <= _required_gpus():
        report.outcome = "failed"
        reason = call.excinfo.value if call.excinfo else ""
        report.longrepr = f"skipped under WANHOOK_REQUIRE_GPU={_required_gpus()}: {reason}"
    return report


def _native_leftovers() -> set[str]:
    native = sys.modules.get("wanhook._C")
    return set(native.leftovers()) if native is not None else set()


def _threads() -> set[threading.Thread]:
    # Libraries keep daemon threads of their own; ours are all named.
    return {thread for thread in threading.enumerate() if not thread.daemon or thread.name.startswith("wanhook")}


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Fails a test that leaves a recording, an open gate, a scope, a file or a thread behind."""
    native_before, threads_before = _native_leftovers(), _threads()
    yield
    deadline = time.monotonic() + _SETTLE_SECONDS
    while left := _left_behind(native_before, threads_before):
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + "; ".join(left), pytrace=False)
        time.sleep(0.01)


def _left_behind(native_before: set[str], threads_before: set[threading.Thread]) -> list[str]:
    threads = sorted(thread.name for thread in _threads() - threads_before if thread.is_alive())
    return sorted(_native_leftovers() - native_before) + [f"thread {name}" for name in threads]
