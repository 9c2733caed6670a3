"""What the trial recording says: which hooks attach, what can be recorded of the GPU, and what it costs."""

from __future__ import annotations

import os
from collections.abc import Mapping

from wanhook.doctor.line import FAIL, OK, WARN, Line

AREA, COST = "recording", "cost"
_CACHING = ("PYTORCH_NO_CUDA_MEMORY_CACHING", "PYTORCH_NO_HIP_MEMORY_CACHING")
_COSTS = {
    "scope": ("scope", "begin and end"),
    "allocator_event": ("allocator event", "half of an allocation and its free"),
    "collective": ("collective", "one call of a group of one process"),
}


def lines(found: dict, environ: Mapping[str, str] = os.environ) -> list[Line]:
    """`found`: what probe() answered."""
    on_gpu = found["device"].get("type") == "cuda"
    return [
        _trial(found),
        _device(found),
        _memory(found, on_gpu, environ),
        _collectives(found, on_gpu),
        *_fsdp(found["fsdp"]),
        *_connections(on_gpu, environ),
        *(Line(AREA, "note", WARN, note) for note in found["notes"]),
        *_costs(found, on_gpu),
    ]


def failed(reason: str) -> Line:
    """The trial did not come to its end."""
    remedy = "run `python -m wanhook.demo` to see all of it; a rebuild helps where the extension is named"
    return Line(AREA, "trial recording", FAIL, f"did not work: {reason}", remedy)


def _trial(found: dict) -> Line:
    read = f"{found['scopes_read']} scopes, {found['collectives_read']} collectives"
    read += f" and {found['events_read']} allocator events"
    if not found["scopes_read"] or found["damage"]:
        why = "; ".join(found["damage"]) or "no scope is in the file"
        return Line(AREA, "trial recording", FAIL, f"read back {read}: {why}", "please report this")
    return Line(AREA, "trial recording", OK, f"read back {read}")


def _device(found: dict) -> Line:
    versions = found["versions"]
    told = {"torch": "torch", "cuda": "CUDA", "nccl": "NCCL", "driver": "driver"}
    listed = ", ".join(f"{name} {versions[key]}" for key, name in told.items() if versions.get(key))
    if found["device"].get("type") == "cuda":
        return Line(AREA, "device", OK, f"{found['device'].get('name')}; {listed}")
    if versions.get("cuda"):
        text = f"no GPU is visible: scopes and collectives get host times; {listed}"
        return Line(AREA, "device", WARN, text, "look at nvidia-smi and CUDA_VISIBLE_DEVICES")
    return Line(AREA, "device", OK, f"CPU; {listed}")


def _memory(found: dict, on_gpu: bool, environ: Mapping[str, str]) -> Line:
    name, backend = "allocator", found["allocator"].get("backend", "unknown")
    if not on_gpu:
        status = OK if found["attached"]["cpu_memory"] else WARN
        return Line(AREA, name, status, "CPU tensors are " + ("" if status == OK else "not ") + "recorded")
    if backend != "native":
        text = f"the backend {backend} tells nobody of its events: no memory figures but samples"
        return Line(AREA, name, WARN, text, "take backend:… out of PYTORCH_CUDA_ALLOC_CONF, and set no other allocator")
    switch = next((variable for variable in _CACHING if environ.get(variable)), None)
    if switch:
        text = f"{switch} switches the caching allocator off, and its events with it"
        return Line(AREA, name, WARN, text, f"unset {switch}")
    if not found["attached"]["cuda_memory"]:
        return Line(AREA, name, WARN, "the tracker did not attach: no memory figures but samples", "see the notes")
    settings = found["allocator"].get("settings")
    return Line(AREA, name, OK, "native; its events are recorded" + (f"; settings {settings}" if settings else ""))


def _collectives(found: dict, on_gpu: bool) -> Line:
    name, count = "collectives", found["collectives"]
    if not count:
        remedy = "install a torch with torch.distributed"
        return Line(AREA, name, WARN, "are not recorded: this torch has no torch.distributed", remedy)
    backend = "NCCL" if on_gpu else "gloo"
    failed_with = found["not_measured"].get("collective")
    if failed_with:
        return Line(AREA, name, WARN, f"{count} operations are hooked, but {backend} did not start: {failed_with}")
    return Line(AREA, name, OK, f"{count} operations are hooked; tried with {backend}")


def _fsdp(found: dict) -> list[Line]:
    points, wrapped = found["points"], found["wrapped"]
    if not points:
        return []  # without torch.distributed there is no FSDP either
    text = f"{wrapped} of {points} points of FSDP1 and FSDP2 are wrapped"
    if wrapped == points:
        return [Line(AREA, "FSDP", OK, text)]
    remedy = "update wanhook; this torch is newer or older than what it knows"
    return [Line(AREA, "FSDP", WARN, f"{text}: waits or roles of FSDP are missing", remedy)]


def _connections(on_gpu: bool, environ: Mapping[str, str]) -> list[Line]:
    if environ.get("CUDA_DEVICE_MAX_CONNECTIONS") != "1" or not on_gpu:
        return []
    text = "CUDA_DEVICE_MAX_CONNECTIONS=1 puts all streams into one queue, where our events can keep work from "
    remedy = "unset it unless the program needs it; WANHOOK_VERIFY=1 measures what recording costs with it"
    return [Line(AREA, "streams", WARN, text + "overlapping", remedy)]


def _costs(found: dict, on_gpu: bool) -> list[Line]:
    events = ", its event records included" if on_gpu else ""
    made = []
    for key, (name, about) in _COSTS.items():
        cost = found["costs"].get(key)
        if cost is not None:
            about_it = about + (events if key != "allocator_event" else "")
            made.append(Line(COST, name, OK, f"{cost:.0f} ns on the host ({about_it})"))
        elif key in found["costs"]:
            remedy = "ask again when the machine is quiet"
            made.append(Line(COST, name, WARN, "not measured: lost in noise", remedy))
        else:
            made.append(Line(COST, name, WARN, f"not measured: {found['not_measured'].get(key, 'no reason given')}"))
    return made
