"""What the state of the GPUs explains: sentences for those that were held down, are slower, or lack NVLink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wanhook.analysis.device_state import SLOW, DeviceState
from wanhook.analysis.ranks import rank_of

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

NEAR_LIMIT = 5  # degrees Celsius
MOST_PAIRS = 4
_ENOUGH = 0.05  # of the samples under load with a low clock: less costs nothing one could see


@dataclass(frozen=True)
class DeviceRemark:
    """One sentence, and the ranks that it is about. `kind` is one of "clock", "throttled", "temperature", "slow gpu",
    "pcie width", "no nvlink"."""

    kind: str
    text: str
    ranks: list[int]


def device_remarks(traces: Sequence[Trace], states: Sequence[DeviceState]) -> list[DeviceRemark]:
    """Nothing where nothing explains anything."""
    own = [
        remark for state in states for remark in (_clock(state), _throttled(state), _temperature(state), _pcie(state))
    ]
    return [remark for remark in (*own, _slow_gpu(states), _no_nvlink(traces, states)) if remark]


def _clock(state: DeviceState) -> DeviceRemark | None:
    if not state.sm_clock_max or state.slow_share is None or state.slow_share < _ENOUGH or state.loaded < 2:
        return None
    drop = 1 - state.sm_clock_min / state.sm_clock_max
    text = (
        f"Under load the SM clock fell to {state.sm_clock_min} MHz, {drop:.0%} below the {state.sm_clock_max} MHz "
        f"seen; {state.slow_share:.0%} of {state.loaded} samples lie {SLOW:.0%} or more below."
    )
    return DeviceRemark("clock", text, [state.rank])


def _throttled(state: DeviceState) -> DeviceRemark | None:
    if not state.throttled:
        return None
    reasons = "; ".join(f"{name} in {share:.0%}" for name, share in state.throttled.items())
    return DeviceRemark("throttled", f"The GPU held its clocks down under load: {reasons} of samples.", [state.rank])


def _temperature(state: DeviceState) -> DeviceRemark | None:
    hottest, limit = state.temperature_max, state.temperature_limit
    if hottest is None or limit is None or hottest < limit - NEAR_LIMIT:
        return None
    text = f"The GPU was {hottest} °C hot; at {limit} °C it slows itself down."
    return DeviceRemark("temperature", text, [state.rank])


def _pcie(state: DeviceState) -> DeviceRemark | None:
    # The generation is no sign: it falls whenever the link has nothing to do.
    if not state.pcie_width or not state.pcie_max_width or state.pcie_width >= state.pcie_max_width:
        return None
    text = f"The PCIe link of the GPU has {state.pcie_width} lanes, of {state.pcie_max_width} that it could have."
    return DeviceRemark("pcie width", text, [state.rank])


def _slow_gpu(states: Sequence[DeviceState]) -> DeviceRemark | None:
    known = [state for state in states if state.sm_clock_p50]
    if len({state.rank for state in known}) < 2:
        return None
    slow, fast = (choose(known, key=lambda state: state.sm_clock_p50) for choose in (min, max))
    below = 1 - slow.sm_clock_p50 / fast.sm_clock_p50
    if below < SLOW or slow.rank == fast.rank:
        return None
    text = (
        f"The SM clock of rank {slow.rank} under load lies {below:.0%} below that of rank {fast.rank} (medians "
        f"{slow.sm_clock_p50:.0f} and {fast.sm_clock_p50:.0f} MHz): where ranks wait for each other, all wait for it."
    )
    return DeviceRemark("slow gpu", text, [slow.rank])


def _no_nvlink(traces: Sequence[Trace], states: Sequence[DeviceState]) -> DeviceRemark | None:
    """Only GPUs that both ranks can see are known to lack it: a rank in a container may see its own alone."""
    owner = {state.uuid: state.rank for state in states if state.uuid}
    pairs: dict[tuple[int, int], str] = {}
    for state in states:
        together = _partners(traces, state.rank)
        for uuid, peer in state.peers.items():
            other = owner.get(uuid)
            if other in together and peer.get("nvlink") is False:
                pairs[min(state.rank, other), max(state.rank, other)] = str(peer.get("path", "path unknown"))
    if not pairs:
        return None
    shown = ", ".join(f"{a} and {b} ({path})" for (a, b), path in sorted(pairs.items())[:MOST_PAIRS])
    more = f", and {len(pairs) - MOST_PAIRS} pairs more" if len(pairs) > MOST_PAIRS else ""
    text = f"No NVLink between the GPUs of ranks that communicate, they go over PCIe: {shown}{more}."
    return DeviceRemark("no nvlink", text, sorted({rank for pair in pairs for rank in pair}))


def _partners(traces: Sequence[Trace], rank: int) -> set[int]:
    """Ranks that share a process group with this one."""
    groups = [group.ranks for trace in traces if rank_of(trace) == rank for group in trace.groups.values()]
    return {other for ranks in groups if ranks and rank in ranks for other in ranks} - {rank}
