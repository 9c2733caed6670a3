"""What `sums_figures` found, as Markdown. Nothing is computed here."""

from __future__ import annotations

from .sums_verdicts import constant


def markdown(found: dict) -> str:
    lines = [*_about(found["about"]), *_clocks(found["clocks"])]
    lines += [f"PROBLEM {what}" for what in found["problems"]]
    if found["collectives"]:
        lines += ["", *_sums(found["collectives"]), "", *_classes(found["collectives"]), "", *_ranks(found)]
    if found["exposed"]:
        lines += ["", *_exposed(found["exposed"])]
    lines += ["", *_verdicts(found["verdicts"]), *_worst(found)]
    return "\n".join(lines)


def _about(about: dict | None) -> list[str]:
    if about is None:
        return ["about.json is missing"]
    machine = ", ".join(f"{about[key]}" for key in ("ranks", "device", "date", "commit") if key in about)
    served = ", ".join(f"{one['observer']} {one['seconds']:.3f} s" for one in about["requests"])
    same = "equal" if about["latents_equal"] else "NOT EQUAL"
    return [
        f"{machine}; torch {about['torch']}, NCCL {about['nccl']}; {about['size']['name']}: {served}; latents {same}"
    ]


def _clocks(clocks: list[dict]) -> list[str]:
    return [
        f"rank {one['rank']}: {one['calls']} calls met, {one['activities']} activities; Kineto's clock - ours "
        f"{one['least_ns'] / 1e3:.1f} to {one['most_ns'] / 1e3:.1f} us; an event pair costs "
        f"{one['pair_ns'] / 1e3:.2f} us ({'measured' if one['measured'] else 'assumed'})"
        for one in clocks
    ]


def _ms(ns: float) -> str:
    return f"{ns / 1e6:.3f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:+.2%}"


def _us(ns: float | None) -> str:
    return "-" if ns is None else f"{ns / 1e3:.1f}"


def _cells(each: dict) -> str:
    return (
        f"{each['n']} | {_ms(each['kineto_ns'])} | {_ms(each['stream_ns'])} | {_ms(each['queued_ns'])} | "
        f"{_ms(each['time_ns'])} | {_percent(each['time_share'])} | {_ms(each['corrected_ns'])} | "
        f"{_percent(each['corrected_share'])} | {_ms(each['least_ns'])} to {_ms(each['most_ns'])} | "
        f"{'yes' if each['inside'] else 'NO'} | {each['calls_inside']:.1%}"
    )


_HEAD = "calls | Kineto | stream | queued | time | diff | corrected | diff | bounds | hold | calls held |"


def _sums(found: list[dict]) -> list[str]:
    lines = ["Sums over all ranks, ms; differences from Kineto's kernels.", "", f"| | {_HEAD}", "|---" * 12 + "|"]
    return lines + [f"| {each['name']} | {_cells(each)} |" for each in found]


def _classes(found: list[dict]) -> list[str]:
    lines = [
        "By class: median length of a kernel, time less kernel (median, p95), us; and what the sum of that is made of, "
        "ms: an event pair a call, before the host's call returned, waiting beside other streams' kernels, an end "
        "event that came late beside the next collective, rest. Queued by Kineto: until an earlier collective's kernel "
        "ended.",
        "",
        f"| | class | {_HEAD} kernel | more | p95 | events | host | beside | late end | rest | queued by Kineto |",
        "|---" * 22 + "|",
    ]
    for each in found:
        for name, one in each["classes"].items():
            parts = " | ".join(_ms(one["excess"][key]) for key in one["excess"])
            middle = " | ".join(_us(one[key]) for key in ("kernel_p50_ns", "excess_p50_ns", "excess_p95_ns"))
            lines.append(f"| {each['name']} | {name} | {_cells(one)} | {middle} | {parts} | {_ms(one['behind_ns'])} |")
    return lines


def _ranks(found: dict) -> list[str]:
    lines = ["By rank, ms.", "", f"| | rank | {_HEAD}", "|---" * 13 + "|"]
    for each in found["collectives"]:
        lines += [f"| {each['name']} | {rank} | {_cells(one)} |" for rank, one in each["ranks"].items()]
    return lines


def _exposed(ranks: list[dict]) -> list[str]:
    lines = [
        "FSDP's waits and Kineto's gaps on the compute stream, ms.", "",
        "| rank | waits | sum | with a gap | sum | gaps | sum | in all_gather kernels | exposed all_gather | "
        "of it with a gap |",
        "|---" * 10 + "|",
    ]  # fmt: skip
    for one in ranks:
        lines.append(
            f"| {one['rank']} | {one['waits']} | {_ms(one['waits_ns'])} | {one['waits'] - one['without_gap']} | "
            f"{_ms(one['with_gap_ns'])} | {one['gaps']} | {_ms(one['gaps_ns'])} | {_ms(one['gaps_in_gather_ns'])} | "
            f"{_ms(one['exposed_ns'])} | {_ms(one['exposed_with_gap_ns'])} |"
        )
    still = constant(ranks)
    if still:
        medians = [_us(still[key]) for key in ("waits_ns", "gaps_ns", "dry_ns")]
        said = "{} us, their gaps {} us, of which {} before the wait (medians)".format(*medians)
        lines += ["", f"{still['n']} waits in which nothing was exposed: {said}."]
    return lines


def _verdicts(verdicts: list[dict]) -> list[str]:
    lines = []
    for each in verdicts:
        limit = f" (at most {each['limit']:.0%})" if each["limit"] is not None else ""
        word = "PASS" if each["passed"] else "EXPL" if each["explained"] else "FAIL"
        lines.append(f"{word} {_percent(each['value']):>9}  {each['what']}{limit}{_parts(each)}")
    return lines or ["FAIL: nothing could be compared"]


def _parts(each: dict) -> str:
    """What a missed limit is made of."""
    if each["passed"] or not each["parts"]:
        return ""
    parts = ", ".join(f"{name.replace('_', ' ')} {_ms(ns)} ms" for name, ns in each["parts"].items())
    return f": {parts}; {_percent(each['left'])} is left"


def _worst(found: dict) -> list[str]:
    """The spans and waits behind each limit that was missed."""
    missed = [each["what"] for each in found["verdicts"] if each["passed"] is False]
    lines = []
    for each in found["collectives"]:
        if any(what.startswith(f"{each['name']}:") for what in missed):
            lines += ["", f"{each['name']}: the {len(each['worst'])} spans farthest from their kernels"]
            lines += [_span(one) for one in each["worst"]]
    if any("gaps" in what for what in missed):
        lines += ["", "Waits that are farthest from their gaps, us"]
        for rank in found["exposed"]:
            lines += [_wait(rank["rank"], one) for one in rank["worst"]]
    return lines


def _span(one: dict) -> str:
    lead = f"{_us(one['host_ns'])} host, {_us(one['beside_ns'])} beside others"
    after = f"{_us(one['after_ns'])} after {one['after']}" if one["after"] else "after no other"
    return (
        f"- #{one['sequence']} rank {one['rank']} {one['role']} {one['class']} stream {one['stream']:#x} at "
        f"{_ms(one['begin_ns'])} ms: interval {_us(one['stream_ns'])}, queued {_us(one['queued_ns'])} "
        f"({_us(one['behind_ns'])} by Kineto), kernel {_us(one['kernel_ns'])}; begins "
        f"{_us(one['lead_ns'])} after its turn ({lead}), ends "
        f"{_us(one['lag_ns'])} early ({_us(one['late_end_ns'])} beside the next); "
        f"{after}; beside it {', '.join(one['beside']) or 'nothing'}; "
        f"in {one['path']}"
    )


def _wait(rank: int, one: dict) -> str:
    return (
        f"- rank {rank} wait {one['wait']} at {_ms(one['begin_ns'])} ms: wait {_us(one['wait_ns'])}, exposed "
        f"{_us(one['exposed_ns'])}, gap {_us(one['gap_ns'])}, of it in all_gather {_us(one['gather_ns'])}; in "
        f"{one['path']}"
    )
