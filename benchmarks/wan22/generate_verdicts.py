"""The criteria of `run_generate`: what recording may not change, and what a recording must hold."""

from __future__ import annotations

import difflib
from collections import Counter
from itertools import chain

from . import generate_counts as derived
from .generate_launch import BREAKS, STEPS, Ended
from .sizes import Size
from .verdicts import Verdict

_WAIT = "fsdp wait"
_EXCHANGES = ("allgather", "alltoall")


def judge_pair(bare: Ended, recorded: Ended) -> list[Verdict]:
    """What recording may not change."""
    statuses = (bare.status, recorded.status)
    if statuses != (0, 0):
        failed = bare if bare.status else recorded
        told = f"statuses {statuses}; {failed.directory.name}:\n{failed.last_words()}"
        return [Verdict("both succeed", False, told)]
    latents = bare.latents(), recorded.latents()
    same = bool(latents[0]) and latents[0] == latents[1]
    verdicts = [
        Verdict("both succeed", True, "exit status 0"),
        Verdict("latents equal", same, f"{len(latents[0])} and {len(latents[1])} ranks: {_digests(latents)}"),
    ]
    for stream in ("stdout", "stderr"):
        first, second = bare.of_ranks(stream), recorded.of_ranks(stream)
        verdicts.append(_compared(f"{stream} of each rank equal", first, second))
        console = bare.of_console(stream), recorded.of_console(stream)
        verdicts.append(_compared(f"{stream} of the launch equal", *({"all": lines} for lines in console)))
    return verdicts


def _digests(latents: tuple[list[str], list[str]]) -> str:
    return ", ".join(sorted({digest[:16] for digest in chain(*latents)}))


def _compared(name: str, first: dict[str, list[str]], second: dict[str, list[str]]) -> Verdict:
    if first == second:
        return Verdict(name, bool(first), f"{sum(map(len, first.values()))} lines of {', '.join(first)}")
    changed = []
    for rank in sorted({*first, *second}):
        lines = difflib.unified_diff(first.get(rank, []), second.get(rank, []), "bare", "recorded", lineterm="", n=0)
        changed += [f"{rank}: {line[:200]}" for line in lines if not line.startswith(("---", "+++", "@@"))]
    return Verdict(name, False, "; ".join(changed[:6]) or f"ranks {', '.join(first)} and {', '.join(second)}")


def judge_recording(recorded: Ended, task: str, size: Size, ranks: int) -> list[Verdict]:
    """Every scope, argument and role with the count that Wan's code implies, on every rank."""
    import wanhook

    try:
        run = wanhook.load(recorded.recording)
    except (OSError, wanhook.TraceFormatError) as error:
        return [Verdict("recordings whole", False, str(error))]
    problems = list(run.problems) + [note for trace in run for note in trace.meta.get("notes", [])]
    problems += [f"rank {trace.rank} has dropped {trace.health.dropped}" for trace in run if trace.health.dropped]
    problems += [f"{len(run.traces)} traces of {ranks} ranks"] * (len(run.traces) != ranks)
    wanted = derived.scopes(task, size, STEPS, ranks)
    paths = {trace.rank: Counter(trace.paths[one] for one in trace.scopes["path"]) for trace in run}
    there = {rank: Counter({path: n for path, n in found.items() if not path.endswith(_WAIT)})
             for rank, found in paths.items()}  # fmt: skip
    per_rank = {rank: {path: n for path, n in wanted.items() if not rank or path not in derived.ONLY_RANK_0}
                for rank in there}  # fmt: skip
    arguments = derived.arguments(task, size, STEPS)
    seen = {trace.rank: _arguments(trace, arguments) for trace in run}
    return [
        Verdict("recordings whole", not problems, "; ".join(problems[:4]) or f"{ranks} files, no note"),
        *_counted("scope", there, per_rank),
        _same_paths(paths),
        *_counted("role", {trace.rank: _roles(trace) for trace in run},
                  dict.fromkeys(paths, derived.collectives(task, size, STEPS, ranks))),
        *_counted("argument", seen, dict.fromkeys(paths, arguments)),
    ]  # fmt: skip


def _counted(kind: str, found: dict[int, Counter], wanted: dict[int, dict]) -> list[Verdict]:
    """A verdict for each thing that is wanted on some rank, and one that there is nothing else."""
    verdicts, names = [], list(dict.fromkeys(chain(*wanted.values())))
    for name in names:
        counts = {rank: (found[rank].get(name, 0), wanted[rank].get(name, 0)) for rank in sorted(found)}
        right = bool(counts) and all(one == other for one, other in counts.values())
        told = ", ".join(f"rank {rank}: {_of(*pair)}" for rank, pair in counts.items())
        verdicts.append(Verdict(f"{kind} {_named(name)}", right, told))
    more = [f"rank {rank}: {_named(name)} {count}" for rank, there in sorted(found.items())
            for name, count in there.items() if name not in names]  # fmt: skip
    return [*verdicts, Verdict(f"no other {kind}", not more, "; ".join(more[:6]) or f"{len(names)} in all")]


def _of(found: int, wanted: int) -> str:
    return str(found) if found == wanted else f"{found}, not {wanted}"


def _named(name: str | tuple) -> str:
    return name if isinstance(name, str) else "{} {}={}".format(*name)


def _same_paths(paths: dict[int, Counter]) -> Verdict:
    """Waits for FSDP included."""
    name, first = "scope paths alike", set(paths.get(0, ())) - derived.ONLY_RANK_0
    unlike = [f"rank {rank}: {path}" for rank, there in sorted(paths.items()) for path in sorted(first ^ set(there))
              if rank or path not in derived.ONLY_RANK_0]  # fmt: skip
    return Verdict(name, bool(first) and not unlike, "; ".join(unlike[:6]) or f"{len(first)} on every rank")


def _arguments(trace, wanted: dict) -> Counter:
    """Of the scopes and arguments that are derived: how often each value comes."""
    keys = {(scope, argument) for scope, argument, _value in wanted}
    found: Counter = Counter()
    for number, path in zip(trace.scopes["id"].tolist(), trace.scopes["path"].tolist(), strict=True):
        scope = trace.paths[path].rpartition("/")[2]
        for argument, value in trace.scope_args.get(number, {}).items():
            if (scope, argument) in keys:
                found[scope, argument, value] += 1
    return found


def _roles(trace) -> Counter:
    """Collectives by role; one that moves data between ranks and that nobody tagged counts under its op."""
    found: Counter = Counter()
    for op, role in zip(trace.collectives["op"], trace.collectives["role"], strict=True):
        name, tag = trace.strings[op], trace.strings[role]
        if tag or any(word in name for word in _EXCHANGES):
            found[tag or f"none: {name}"] += 1
    return found


def judge_break(how: str, bare: Ended, recorded: Ended, ranks: int) -> Verdict:
    """A launch that breaks in the middle of the request ends with the same status, and its recordings are readable."""
    import wanhook

    statuses = [bare.status, recorded.status]
    broken = ranks if how in ("ctrl-c", "interrupt") else 1
    reached = min(len(bare.reached()), len(recorded.reached()))
    try:
        files = len(wanhook.load(recorded.recording).traces)
    except (OSError, wanhook.TraceFormatError) as error:
        return Verdict(BREAKS[how], False, f"exit statuses {statuses}: {error}")
    right = statuses[0] == statuses[1] and statuses[0] not in (0, None) and files == ranks and reached == broken
    told = f"exit statuses {statuses}, {files} ranks' recordings, {reached} of {broken} ranks came to the break"
    return Verdict(BREAKS[how], right, told)
