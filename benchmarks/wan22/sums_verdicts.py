"""Whether the sums of a request agree with Kineto's, and what explains a difference that is too large.

A verdict has `what`, `value` (a share of Kineto's sum), `limit`, `passed`, `parts` (what explains a difference, ns) and
`left` (the share that is left of it then). `explained`: the limit is missed, and `left` keeps it.
"""

from __future__ import annotations

import numpy as np

GATHER = "all_gather fsdp"
JUDGED = ("all_to_all qkv", "all_to_all out", GATHER)
WITHIN, EXPOSED_WITHIN = 0.01, 0.05


def verdicts(found: list[dict], exposed: list[dict]) -> list[dict]:
    by_name = {each["name"]: each for each in found}
    judged = []
    for name in JUDGED:
        each = by_name.get(name)
        judged += _of_calls(each) if each else [_said(f"{name}: calls with kernels", False)]
    return judged + _of_waits(exposed)


def constant(exposed: list[dict]) -> dict | None:
    """Of waits in which nothing was exposed: how many, and the medians of their lengths, of their gaps, and of the part
    of a gap before its wait, ns."""
    found = {name: [ns for each in exposed for ns in each[f"idle_{name}_ns"]] for name in ("waits", "gaps", "dry")}
    medians = {f"{name}_ns": float(np.median(values)) for name, values in found.items() if values}
    return {"n": len(found["waits"])} | medians if medians else None


def _of_calls(each: dict) -> list[dict]:
    name, excess = each["name"], each["excess"]
    parts = {key: excess[key] for key in ("events", "host", "beside", "late_end")}
    taken = each["time_ns"] - each["corrected_ns"]
    return [
        _within(f"{name}: time against Kineto's kernels", each["time_ns"], each["kineto_ns"], WITHIN, parts),
        _within(
            f"{name}: corrected time against Kineto's kernels", each["corrected_ns"], each["kineto_ns"], WITHIN,
            parts | {"events": parts["events"] - taken},
        ),
        _said(f"{name}: the bounds hold Kineto's sum", each["inside"]),
        _said(f"{name}: every call has its kernel", each["without_kernel"] == 0),
    ]  # fmt: skip


def _of_waits(exposed: list[dict]) -> list[dict]:
    names = ("exposed_with_gap_ns", "gaps_ns", "gaps_in_gather_ns", "with_gap_ns", "gaps", "lead_ns")
    ours, gaps, gathering, waits, count, lead = (sum(each[key] for each in exposed) for key in names)
    still, extra = constant(exposed), {}
    if still:  # ours are shorter than the gaps by these
        dry = np.concatenate([np.array(each["dry_ns"]) for each in exposed]) - still["dry_ns"]
        extra = {"constant of the gaps": -round(count * (still["gaps_ns"] - still["waits_ns"])),
                 "dry before the wait": -round(float(np.maximum(dry, 0).sum()))}  # fmt: skip
    none = {"waits without an all_gather": ours - waits}
    return [
        _within("exposed all_gather against the gaps of its waits", ours, gaps, EXPOSED_WITHIN, extra | none),
        _within("exposed all_gather against the gaps while its kernels ran", ours, gathering, EXPOSED_WITHIN,
                {"before its kernels": lead}),
        _within("waits against their gaps", waits, gaps, EXPOSED_WITHIN, extra),
    ]  # fmt: skip


def _said(what: str, passed: bool) -> dict:
    return {"what": what, "value": None, "limit": None, "passed": passed, "explained": False, "parts": {}, "left": None}


def _within(what: str, ours: int, kinetos: int, limit: float, parts: dict[str, int]) -> dict:
    value = (ours - kinetos) / kinetos if kinetos else None
    left = (ours - kinetos - sum(parts.values())) / kinetos if kinetos else None
    passed = value is not None and abs(value) <= limit
    explained = not passed and left is not None and abs(left) <= limit
    return {"what": what, "value": value, "limit": limit, "passed": passed, "explained": explained,
            "parts": {key: ns for key, ns in parts.items() if ns}, "left": left}  # fmt: skip
