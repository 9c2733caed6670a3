"""The memory analysis against a plain simulation, for programs of any order of scopes, allocations and frees."""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from made_allocator import MIB, MadeAllocator
from made_trace import TraceBuilder
from wanhook.analysis.allocator_figures import Figures
from wanhook.analysis.allocator_timeline import AllocatorTimeline
from wanhook.analysis.memory import memory_of
from wanhook.analysis.memory_by_scope import scope_memory
from wanhook.analysis.memory_owners import Sources, owners_at
from wanhook.analysis.range_maximum import Ranges
from wanhook.tracefile.model import load

SEGMENTS = 4
STEPS = st.lists(
    st.one_of(
        st.just(("open",)),
        st.just(("close",)),
        st.tuples(st.just("alloc"), st.integers(0, SEGMENTS - 1), st.integers(2, 20)),
        st.tuples(st.sampled_from(["free", "request", "complete"]), st.integers(0, SEGMENTS - 1)),
    ),
    max_size=60,
)


@dataclass
class Simulated:
    """What happened, state by state: `states` holds (time, allocated, active, reserved, slack); scopes by id. Slack is
    0 between a segment and its block."""

    states: list[tuple[int, ...]] = field(default_factory=lambda: [(0, 0, 0, 0, 0)])
    begin: dict[int, int] = field(default_factory=dict)
    end: dict[int, int] = field(default_factory=dict)
    around: dict[int, list[int]] = field(default_factory=dict)
    blocks: list[dict] = field(default_factory=list)
    churned: int = 0


class Program:
    """Runs steps against a MadeAllocator and keeps count. Each block has a segment of its own."""

    def __init__(self) -> None:
        self.builder = TraceBuilder()
        self.device = MadeAllocator(self.builder)
        self.made, self.open, self.begun = Simulated(), [], []
        self.live: dict[int, dict] = {}
        self.now = 10

    def run(self, steps) -> Simulated:
        for step in steps:
            self.now += 10
            getattr(self, {"open": "open_scope", "close": "close_scope"}.get(step[0], step[0]))(*step[1:])
        self.now += 10
        while self.open:
            self.close_scope()
        for number, (parent, begin) in enumerate(self.begun, 1):
            self.builder.scope(f"scope{number % 3}", begin, self.made.end[number], parent=parent)
        return self.made

    def open_scope(self) -> None:
        self.begun.append((self.open[-1] if self.open else 0, self.now))
        number = len(self.begun)
        self.made.around[number] = [number, *self.made.around.get(self.begun[-1][0], [])]
        self.made.begin[number] = self.now
        self.open.append(number)

    def close_scope(self) -> None:
        if self.open:
            self.made.end[self.open.pop()] = self.now

    def alloc(self, slot: int, size: int) -> None:
        if slot in self.live:
            return
        scope = self.open[-1] if self.open else 0
        segment = self.device.segment(40 * MIB, self.now, scope=scope)
        self.made.churned += 40 * MIB
        self.note(hidden=True)
        self.device.alloc(segment, size * MIB, self.now + 1, scope=scope)
        self.live[slot] = {"address": segment, "size": size * MIB, "scope": scope, "freed": None, "begun": self.now + 1}
        self.made.blocks.append(self.live[slot])
        self.note(later=1)

    def free(self, slot: int) -> None:
        if slot in self.live and self.live[slot]["freed"] is None:
            block = self.live.pop(slot)
            block["freed"] = self.now
            self.device.free(block["address"], self.now)
            self.note()

    def request(self, slot: int) -> None:
        if slot in self.live and self.live[slot]["freed"] is None:
            self.live[slot]["freed"] = self.now
            self.device.request_free(self.live[slot]["address"], self.now)
            self.note()

    def complete(self, slot: int) -> None:
        if slot in self.live and self.live[slot]["freed"] is not None:
            self.device.complete_free(self.live.pop(slot)["address"], self.now)
            self.note()

    def note(self, later: int = 0, hidden: bool = False) -> None:
        active = sum(block["size"] for block in self.live.values())
        allocated = sum(block["size"] for block in self.live.values() if block["freed"] is None)
        reserved = sum(size for size, _ in self.device.segments.values())
        slack = 0 if hidden else reserved - allocated
        self.made.states.append((self.now + later, allocated, active, reserved, slack))


def inside(made: Simulated, scope: int) -> list[tuple[int, ...]]:
    """The state at the scope's begin, and those until its end."""
    before = [state for state in made.states if state[0] < made.begin[scope]]
    return before[-1:] + [state for state in made.states if made.begin[scope] <= state[0] <= made.end[scope]]


def left_behind(made: Simulated, scope: int) -> int:
    own = [block for block in made.blocks if block["scope"] and scope in made.around[block["scope"]]]
    return sum(block["size"] for block in own if block["freed"] is None or block["freed"] > made.end[scope])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_every_scope_and_every_owner(tmp_path, steps):
    program = Program()
    made = program.run(steps)
    trace = load(program.builder.save(tmp_path / "a.wanhook")).traces[0]
    timeline = AllocatorTimeline(trace, 0)
    table = scope_memory(trace, timeline)
    for scope, row in zip(trace.scopes["id"].tolist(), table, strict=True):
        states = inside(made, scope)
        assert row["allocated_peak"] == max(state[1] for state in states)
        assert row["active_peak"] == max(state[2] for state in states)
        assert row["reserved_peak"] == max(state[3] for state in states)
        assert row["slack_peak"] == max(state[4] for state in states)
        assert row["pending_peak"] == max(state[2] - state[1] for state in states)
        assert (row["allocated_begin"], row["allocated_end"]) == (states[0][1], states[-1][1])
        assert row["left_behind"] == left_behind(made, scope)
    piecewise = Figures(timeline.counters, timeline.events, on_gpu=True, stretch=3)
    assert piecewise.peaks(timeline.start) == timeline.figures.peaks(timeline.start)
    inside_each = Ranges(table["first"], table["last"] + 1)
    for name, most in timeline.figures.maxima(inside_each).items():
        assert (piecewise.maxima(inside_each)[name] == most).all()
    for position in range(len(timeline.counters)):
        owners = owners_at(timeline, position, Sources(trace))
        counted = timeline.counters[position]
        assert sum(owner.allocated_bytes for owner in owners) == counted["allocated"]
        assert sum(owner.pending_bytes for owner in owners) == counted["active"] - counted["allocated"]
        assert sum(owner.requested_bytes for owner in owners) == counted["requested"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_the_device_as_a_whole(tmp_path, steps):
    program = Program()
    made = program.run(steps)
    (memory,) = memory_of(load(program.builder.save(tmp_path / "a.wanhook")).traces)
    assert memory.allocated_peak.moment.allocated_bytes == max(state[1] for state in made.states)
    assert memory.active_peak_bytes == max(state[2] for state in made.states)
    assert memory.reserved_peak.moment.reserved_bytes == max(state[3] for state in made.states)
    assert sum(row.malloc_bytes for row in memory.churn) == made.churned
    series = memory.series
    for place, name in enumerate(("allocated", "active", "reserved"), 1):
        assert max(series.most[name]) == max(state[place] for state in made.states)
        assert min(series.least[name]) == min(state[place] for state in made.states)
    for pins in memory.pins:
        alone = sum(holder.alone_bytes for holder in pins.holders)
        assert alone == pins.pinned_bytes == sum(one.free_bytes for one in pins.worst)
        assert all(2 * one.active_bytes < one.bytes for one in pins.worst)
