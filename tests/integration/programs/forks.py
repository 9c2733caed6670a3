"""Forks in the middle of a recording: forks.py. The child must be silent and must end; the parent goes on."""

import multiprocessing
import os
import sys
import threading

import torch

import wanhook
from wanhook._native import load as load_native


def use_everything(label: str) -> None:
    """What a child may call, all of it without effect."""
    wanhook.mark(f"{label} mark")
    with wanhook.trace(f"{label} scope") as scope, wanhook.role(f"{label} role"):
        assert scope.id == 0
        torch.ones(1000).sum()
    with wanhook.trace(f"{label} outermost", out=f"{label}-run"):
        pass

    @wanhook.trace(f"{label} function")
    def function():
        return 3

    assert function() == 3
    assert wanhook.start(out=f"{label}-run") is None
    wanhook.pause()
    wanhook.resume()
    wanhook.stop(wait=5)
    status = load_native().status()
    assert (status["forked_child"], status["recording"]) == (True, False), status


def fork_child(way) -> int:
    child = os.fork()
    if child == 0:
        use_everything("child")
        thread = threading.Thread(target=use_everything, args=("child thread",))
        thread.start()
        thread.join()
        way(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_worker() -> None:
    use_everything("worker")


def main() -> None:
    with wanhook.trace("request"):
        wanhook.mark("before")
        with wanhook.trace("around the fork"):
            assert fork_child(os._exit) == 0
        worker = multiprocessing.get_context("fork").Process(target=in_worker)
        worker.start()
        worker.join()
        assert worker.exitcode == 0
        with wanhook.trace("after"):
            wanhook.mark("after")
    wanhook.start()
    # This child leaves through the interpreter's exit, where wanhook has functions of its own.
    child = os.fork()
    if child == 0:
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    wanhook.mark("second recording")
    wanhook.stop()


main()
print("reached the end")
