"""The CPU twin's own state: what is alive is known again after a pause, and in a second recording."""

import threading

import pytest
import torch

import wanhook
from recorded import recorded
from wanhook.analysis.memory import memory_of

MIB = 1 << 20
BLOCK = 4 * MIB

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's memory is recorded here")


def block():
    return torch.empty(BLOCK // 4)


def of(trace):
    (found,) = memory_of([trace])
    return found


def begin_of(memory):
    return memory.start.allocated_bytes


def test_pause_and_resume_in_a_loop_count_nothing_twice(tmp_path):
    with recorded(tmp_path) as result, wanhook.trace("loop"):
        for _ in range(6):
            kept = block()
            wanhook.pause()
            kept = block()
            wanhook.resume()
            other = block()
            del other
        del kept
    found = of(result.trace)
    # The new one is there before the old one goes: two at most.
    assert found.allocated_peak.moment.allocated_bytes - begin_of(found) == 2 * BLOCK
    assert found.end.allocated_bytes == begin_of(found)
    assert (found.check.contradictions, found.check.first_difference, found.end_known) == (0, None, True)
    assert found.check.places == found.check.equal > 0


def test_the_check_of_the_cost_does_not_change_the_peak(tmp_path):
    peaks = []
    for verify in (False, True):
        with recorded(tmp_path / str(verify)) as result, wanhook.trace("request"):
            for _ in range(40):
                with wanhook.trace("denoise_step", verify=verify):
                    kept = block()
                    kept = kept + 1
            del kept
        found = of(result.trace)
        peaks.append(found.allocated_peak.moment.allocated_bytes - begin_of(found))
        assert (found.check.contradictions, found.check.equal) == (0, found.check.places)
    # The one that goes, the one that comes, and the scalar.
    assert peaks[0] == peaks[1]
    assert 2 * BLOCK < peaks[0] < 2 * BLOCK + 1000


def test_a_second_recording_knows_what_is_there_already(tmp_path):
    with recorded(tmp_path / "first"):
        held = block()
    with recorded(tmp_path / "second") as result:
        wanhook.mark("recorded")
        torch.empty(100)
    found = of(result.trace)
    kinds = {owner.source.kind: owner.allocated_bytes for owner in found.allocated_peak.owners}
    assert kinds["before recording"] >= held.nbytes == BLOCK
    del held


def test_state_under_threads_that_allocate_is_right_or_not_there(tmp_path):
    done = threading.Event()

    def churn():
        while not done.is_set():
            torch.empty(1000)

    with recorded(tmp_path) as result:
        threads = [threading.Thread(target=churn) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(30):
            wanhook.pause()
            wanhook.resume()
        done.set()
        for thread in threads:
            thread.join()
    found = of(result.trace)
    assert (found.check.contradictions, found.check.first_difference) == (0, None)


@pytest.mark.parametrize("verify", [True, False])
def test_name_of_a_check_that_cannot_be_is_in_the_file(tmp_path, verify):
    from wanhook.analysis.perturbation import unchecked

    with wanhook.trace("request", out=tmp_path, verify=verify), wanhook.trace("inner"):
        pass
    trace = wanhook.load(tmp_path).traces[0]
    assert trace.meta.get("verify", []) == ["request"] * verify
    assert [(none.scope, none.occurrences) for none in unchecked([trace])] == [("request", 1)] * verify
