"""Connects the native hooks to torch, once a process. Nothing here initialises CUDA, and nothing raises."""

import torch

from wanhook._native import load as load_native

_C = load_native()

_notes: list[str] = []
_attached = False


def attach() -> None:
    """Attaches what this process has: collectives, and CUDA memory or, where there is no GPU, CPU memory."""
    global _attached
    if _attached:
        return
    _attached = True
    if torch.distributed.is_available():
        _C.attach_collectives()
    else:
        note("collectives are not recorded: this torch was built without torch.distributed")
    if _C.has_cuda and _gpu_is_visible():
        # Runs at once where CUDA is initialised already, else right after the host program initialises it.
        torch.cuda._lazy_call(_attach_cuda)
    else:
        _C.attach_cpu_memory()


def notes() -> list[str]:
    """Sentences about what is not recorded in this process, and why."""
    return list(_notes)


def _attach_cuda() -> None:
    # Called from inside torch's initialisation: an exception here would fail the host program.
    try:
        _C.attach_cuda_memory()
        if _C.status()["recording"]:
            from wanhook import recording

            recording.cuda_came_up()
    except Exception as error:
        note(str(error))


def note(sentence: str) -> None:
    """Adds to notes()."""
    _notes.append(sentence)


def _gpu_is_visible() -> bool:
    """By NVML, as counting with the CUDA runtime would poison processes that fork later."""
    count = torch.cuda._device_count_nvml()
    return torch.cuda.device_count() > 0 if count < 0 else count > 0
