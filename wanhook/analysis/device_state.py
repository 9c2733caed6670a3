"""What NVML said of each GPU: clocks, what held them down, power, temperature, links."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wanhook.analysis import intervals
from wanhook.analysis.ranks import rank_of
from wanhook.tracefile.names import section, whole

if TYPE_CHECKING:
    from wanhook.tracefile.model import Trace

# DeviceSample.valid
CLOCKS, THROTTLE, POWER, TEMPERATURE = 1, 2, 4, 8
# NVML's clock event reasons (nvmlClocksEventReason...). Idle (0x1) and clocks that were set on purpose (0x2) are no
# throttling.
IDLE = 0x1
REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal, by the driver",
    0x40: "thermal, by the hardware",
    0x80: "power brake",
    0x100: "display clocks",
}
SLOW = 0.05  # a clock that lies this share or more below the most seen


@dataclass(frozen=True)
class DeviceState:
    """One GPU of one recording. Clocks in MHz, power in mW, temperatures in degrees Celsius; None: never read.

    `loaded` counts the samples under load: inside an outermost scope, and not idle by NVML's word. `sm_clock_max` is
    over all samples; `sm_clock_p50`, `sm_clock_min`, `slow_share` (share of samples 5 % or more below the most seen)
    and `throttled` (reason -> share of samples) are over those under load. Shares are of samples that have the value.
    `cost_p50_ns` and `cost_max_ns` are what asking NVML took. `peers` are the other GPUs of the host by UUID: `nvlink`,
    `path`, as in the trace's meta object (`gpus`); `uuid`, `pcie_...`, `nvlinks` and limits are from there too.
    """

    rank: int
    device: int
    samples: int
    loaded: int
    sm_clock_max: int | None
    sm_clock_p50: float | None
    sm_clock_min: int | None
    slow_share: float | None
    throttled: dict[str, float]
    power_max: int | None
    power_limit: int | None
    temperature_max: int | None
    temperature_limit: int | None
    cost_p50_ns: float | None
    cost_max_ns: int | None
    uuid: str | None
    nvlinks: int | None
    pcie_generation: int | None
    pcie_width: int | None
    pcie_max_generation: int | None
    pcie_max_width: int | None
    peers: dict[str, dict[str, Any]]


def device_states(traces: Iterable[Trace]) -> list[DeviceState]:
    """One value for each GPU of each trace that was sampled or described."""
    return [state for trace in traces for state in _states(trace)]


def _states(trace: Trace) -> Iterator[DeviceState]:
    described = section(trace.meta, "gpus")
    named = {int(name) for name in described if name.isdecimal() and len(name) < 4}
    sampled = set(np.unique(trace.device_samples["device"]).tolist())
    for device in sorted(named | sampled):
        yield _state(trace, device, section(described, str(device)))


def _state(trace: Trace, device: int, about: dict[str, Any]) -> DeviceState:
    samples = trace.device_samples[trace.device_samples["device"] == device]
    loaded = samples[_under_load(trace, samples)]
    clocks, under_load = _read(samples, CLOCKS, "sm_clock"), _read(loaded, CLOCKS, "sm_clock")
    most = int(clocks.max()) if len(clocks) else None
    power, temperature = _read(samples, POWER, "power"), _read(samples, TEMPERATURE, "temperature")
    pcie, cost = section(about, "pcie"), samples["cost"]
    limits = [whole(about.get(name), least=1) for name in ("slowdown_temperature", "max_temperature")]
    uuid = about.get("uuid")
    return DeviceState(
        rank=rank_of(trace),
        device=device,
        samples=len(samples),
        loaded=len(loaded),
        sm_clock_max=most,
        sm_clock_p50=float(np.median(under_load)) if len(under_load) else None,
        sm_clock_min=int(under_load.min()) if len(under_load) else None,
        slow_share=float((under_load <= (1 - SLOW) * most).mean()) if len(under_load) else None,
        throttled=_throttled(_read(loaded, THROTTLE, "throttle")),
        power_max=int(power.max()) if len(power) else None,
        power_limit=whole(about.get("power_limit"), least=1),
        temperature_max=int(temperature.max()) if len(temperature) else None,
        temperature_limit=min((limit for limit in limits if limit is not None), default=None),
        cost_p50_ns=float(np.median(cost)) if len(cost) else None,
        cost_max_ns=int(cost.max()) if len(cost) else None,
        uuid=uuid if isinstance(uuid, str) else None,
        nvlinks=whole(about.get("nvlinks")),
        pcie_generation=whole(pcie.get("generation")),
        pcie_width=whole(pcie.get("width")),
        pcie_max_generation=whole(pcie.get("max_generation")),
        pcie_max_width=whole(pcie.get("max_width")),
        peers={name: peer for name, peer in section(about, "peers").items() if isinstance(peer, dict)},
    )


def _read(samples: np.ndarray, bit: int, name: str) -> np.ndarray:
    return samples[name][(samples["valid"] & bit) != 0]


def _under_load(trace: Trace, samples: np.ndarray) -> np.ndarray:
    """bool, shape (samples,)."""
    idle = ((samples["valid"] & THROTTLE) != 0) & ((samples["throttle"] & np.uint64(IDLE)) != 0)
    scopes = trace.scopes[trace.scope_rows(trace.scopes["parent"]) < 0]
    if not len(scopes):
        return ~idle
    # On a GPU that runs behind the host, a request goes on after its scope has been left.
    end = np.maximum(scopes["end"], scopes["gpu_end"])
    end = np.where(end < 0, trace.health.last_time, end)
    edges = intervals.union(intervals.of(scopes["begin"], end)).ravel()
    # Edges are begin, end, begin, ...: behind an odd number of them a moment lies inside.
    return (np.searchsorted(edges, samples["time"], "right") % 2 == 1) & ~idle


def _throttled(reasons: np.ndarray) -> dict[str, float]:
    """Largest share first."""
    if not len(reasons):
        return {}
    shares = {name: float(((reasons & np.uint64(bit)) != 0).mean()) for bit, name in REASONS.items()}
    return dict(sorted(((name, share) for name, share in shares.items() if share), key=lambda item: -item[1]))
