import pytest

from made_trace import TraceBuilder
from made_wan import DeadProcesses
from wanhook.analysis.health import file_health
from wanhook.analysis.last_moments import LastCollective, LastMoments
from wanhook.report.build import build
from wanhook.report.terminal import render
from wanhook.tracefile.model import load

SECOND = 1_000_000_000


class LivingProcesses(DeadProcesses):
    def process_began(self, pid):
        return 0


class ElsewhereProcesses(DeadProcesses):
    def host(self):
        return "another-host"


def health(builder, tmp_path, machine=None):
    traces = load(builder.save(tmp_path / "a.wanhook"), machine=machine or DeadProcesses()).traces
    (found,) = file_health(traces)
    return found


def kinds(found):
    return [problem.kind for problem in found.problems]


def test_clean_end_has_no_problems_and_a_price(tmp_path):
    builder = TraceBuilder()
    builder.recorder_sample(9 * SECOND, resolver_cpu=SECOND // 100, process_cpu=5 * SECOND)
    builder.end(10 * SECOND)
    found = health(builder, tmp_path)
    assert (found.ending, found.problems, found.moments) == ("clean", [], [])
    assert found.recorder_share == pytest.approx(0.001, rel=1e-6)
    assert (found.wall_ns // SECOND, found.process_cpu_ns) == (10, 5 * SECOND)
    assert found.bytes == (tmp_path / "a.wanhook").stat().st_size


def test_recorder_share_is_unknown_without_a_sample(tmp_path):
    assert health(TraceBuilder(), tmp_path).recorder_share is None


@pytest.mark.parametrize(
    ("machine", "ending"),
    [(DeadProcesses(), "crashed"), (LivingProcesses(), "alive"), (ElsewhereProcesses(), "unknown")],
)
def test_file_that_was_not_closed(tmp_path, machine, ending):
    builder = TraceBuilder(state=0)
    builder.mark("here", 2 * SECOND)
    found = health(builder, tmp_path, machine)
    assert (found.ending, kinds(found)) == (ending, [ending])
    assert "2.000 s" in found.problems[0].text


@pytest.mark.parametrize("state", ["full", "disk_full", "failed"])
def test_recording_that_ended_early_says_what_to_do(tmp_path, state):
    builder = TraceBuilder()
    builder.end(SECOND, state=state)
    found = health(builder, tmp_path)
    assert kinds(found) == [state.replace("_", " ")]
    assert "was not recorded" in found.problems[0].text


def test_losses_are_counted(tmp_path):
    builder = TraceBuilder()
    builder.scope("left open", 0, None)
    builder.drop(100, 12)
    builder.end(SECOND, dropped=12, unresolved=3)
    found = health(builder, tmp_path)
    assert (found.dropped, found.unresolved) == (12, 3)
    assert [problem.text.split(".")[0] for problem in found.problems] == [
        "Records dropped: 12",
        "GPU times never resolved: 3",
        "Scopes still open when the recording ended: 1",
    ]


def test_times_on_their_way_in_a_live_file_are_no_loss(tmp_path):
    builder = TraceBuilder(state=0)
    builder.scope("step", 0, SECOND)  # timed, and its GPU time is not there yet
    found = health(builder, tmp_path, LivingProcesses())
    assert (found.unresolved, kinds(found)) == (1, ["alive"])


def test_damage_is_passed_on(tmp_path):
    builder = TraceBuilder()
    builder.group("0", (0,))
    builder.record(3, b"no json", tick=0)
    found = health(builder, tmp_path)
    assert kinds(found) == ["damage"]


def test_last_moments_of_each_thread(tmp_path):
    builder = TraceBuilder(state=0)
    builder.group("0", (0, 1), description="default_pg")
    outer = builder.scope("request", 10, None)
    inner = builder.scope("step", 20, None, parent=outer)
    builder.scope("done", 30, 40, parent=inner)
    builder.collective("alltoall_", 50, returned=60, gpu=(55, 70), scope=inner)
    builder.collective("alltoall_base_", 80, returned=90, scope=inner, role="qkv", unit="B", flags=16)
    builder.scope("load", 15, 18, thread=2)
    builder.collective("barrier", 100, thread=3)
    exchange = LastCollective("all_to_all", "qkv", "B", "default_pg", 2, 80, "not completed")
    assert health(builder, tmp_path).moments == [
        LastMoments(1, "request/step", 20, exchange),
        LastMoments(3, None, None, LastCollective("barrier", "", "", "default_pg", 3, 100, "not returned")),
    ]


def test_last_collective_that_was_done_or_failed(tmp_path):
    builder = TraceBuilder(state=0, device="cpu")
    builder.group("0", (0, 1))
    builder.collective("allreduce_", 10, returned=11, completed=20, thread=1)
    builder.collective("allreduce_", 10, returned=11, failed=20, thread=2)
    states = [thread.collective.state for thread in health(builder, tmp_path).moments]
    assert states == ["completed", "failed"]


def test_a_copy_that_stopped_early_did_not_end_cleanly(tmp_path):
    """The End record is in the first chunk, so that nothing else of it says so."""
    path = tmp_path / "a.wanhook"
    builder = TraceBuilder(chunk_bytes=1 << 18)
    builder.end(SECOND)
    assert not health(builder, tmp_path).damaged
    path.write_bytes(path.read_bytes()[:-4096])
    run = load(path, machine=DeadProcesses())
    assert (file_health(run.traces)[0].damaged, kinds(file_health(run.traces)[0])) == (True, ["damage"])
    text = render(build(run), sections=["recording"])
    assert "4096 bytes missing" in text
    assert "ended cleanly" not in text
