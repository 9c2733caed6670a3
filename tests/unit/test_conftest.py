"""What conftest.py promises: leftovers fail a test, and a GPU test may be skipped only where no GPU is required."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
_CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"


@pytest.fixture
def suite(pytester, monkeypatch):
    """An empty test suite under our conftest, with an extension whose leftovers the tests set, and no GPU."""
    quick = _CONFTEST.read_text().replace("_SETTLE_SECONDS = 2.0", "_SETTLE_SECONDS = 0.05")
    no_gpu = "def _present_gpus() -> int:\n    return 0\n"
    pytester.makeconftest(f"{quick}\n\n{no_gpu}")
    pytester.makeini("[pytest]\nmarkers = gpu: needs a GPU")
    monkeypatch.delenv("WANHOOK_REQUIRE_GPU", raising=False)
    return pytester


def _outcomes(suite, source):
    suite.makepyfile(source)
    return suite.runpytest_subprocess("-p", "no:cacheprovider")


_EXTENSION = """
import sys, types
left = []
sys.modules["wanhook._C"] = types.SimpleNamespace(leftovers=lambda: left)
"""


def test_recording_left_running_fails(suite):
    result = _outcomes(suite, _EXTENSION + "def test_a():\n    left.append('recording is running')")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*left behind: recording is running*"])


def test_only_the_test_that_left_it_fails(suite):
    source = _EXTENSION + "def test_a():\n    left.append('gate is open')\ndef test_b():\n    pass"
    _outcomes(suite, source).assert_outcomes(passed=2, errors=1)


def test_thread_left_running_fails(suite):
    source = """
        import threading
        stop = threading.Event()
        def test_a():
            threading.Thread(target=stop.wait, args=(1,), name="forgotten").start()
    """
    result = _outcomes(suite, source)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*left behind: thread forgotten*"])


def test_tidy_tests_pass(suite):
    source = """
        import threading
        def test_a():
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
        def test_b():
            import sys
            assert "torch" not in sys.modules
    """
    _outcomes(suite, source).assert_outcomes(passed=2)


_GPU_TESTS = """
import pytest
@pytest.mark.gpu
def test_one():
    pass
@pytest.mark.gpu(2)
def test_two():
    pass
def test_none():
    pytest.skip("for another reason")
"""


def test_gpu_tests_are_skipped_without_a_gpu(suite):
    _outcomes(suite, _GPU_TESTS).assert_outcomes(skipped=3)


@pytest.mark.parametrize(("required", "failed"), [("1", 1), ("2", 2)])
def test_skipped_gpu_test_fails_where_gpus_are_required(suite, monkeypatch, required, failed):
    monkeypatch.setenv("WANHOOK_REQUIRE_GPU", required)
    result = _outcomes(suite, _GPU_TESTS)
    counted = result.parseoutcomes()
    assert counted.get("failed", 0) + counted.get("errors", 0) == failed
    assert counted["skipped"] == 3 - failed
    assert result.ret == 1
