"""A recording program that ends in the way it is told: endings.py WAY. Prints "reached the end" unless it dies."""

import os
import sys
import threading

import wanhook


def os_exit():
    with wanhook.trace("request"), wanhook.trace("step"):
        wanhook.mark("last words")
        os._exit(7)


def abort():
    with wanhook.trace("request"), wanhook.trace("step"):
        wanhook.mark("last words")
        os.abort()


def open_scopes():
    wanhook.trace("request").__enter__()
    wanhook.trace("step").__enter__()
    wanhook.mark("last words")


def uncaught():
    wanhook.start()
    with wanhook.trace("request"), wanhook.trace("step"):
        wanhook.mark("last words")
        raise ValueError("the program's own")


def sys_exit():
    with wanhook.trace("request"), wanhook.trace("step"):
        wanhook.mark("last words")
        sys.exit(5)


def thread_at_exit():
    """A daemon thread records until the interpreter is gone."""
    inside = threading.Event()

    def work():
        with wanhook.trace("request"):
            while True:
                with wanhook.trace("step"):
                    inside.set()

    wanhook.start()
    threading.Thread(target=work, daemon=True).start()
    inside.wait()
    wanhook.mark("last words")


def outermost_at_exit():
    """Daemon threads enter outermost scopes, and move the gate, until the interpreter is gone."""
    inside = threading.Event()

    def scopes():
        while True:
            with wanhook.trace("step"):
                inside.set()

    def gate():
        while True:
            wanhook.pause()
            wanhook.resume()

    wanhook.start()
    for work in (scopes, scopes, gate):
        threading.Thread(target=work, daemon=True).start()
    inside.wait()


def scopes_never_left():
    """More than a stack holds: what refers to them goes away at once, with its thread."""

    def work():
        for _ in range(20_000):
            wanhook.trace("step").__enter__()

    wanhook.start()
    threading.stack_size(256 << 10)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    wanhook.mark("last words")


def deleted_directory():
    """The current directory is gone: no run directory can be made under it."""
    trace = wanhook.trace  # imports torch, which needs the directory
    os.rmdir(os.getcwd())
    for _ in range(2):
        with trace("request"):
            pass


def spool_everything():
    from wanhook import recording

    recording.spool.must_spool = lambda kind: True


def spooled_and_forked():
    """A child that leaves through the interpreter's exit, after a recording was written elsewhere."""
    spool_everything()
    with wanhook.trace("request"):
        wanhook.mark("last words")
    child = os.fork()
    if child == 0:
        sys.exit(0)
    os.waitpid(child, 0)


def spooled_and_full():
    """A spooled recording that reaches its cap while the program goes on."""
    from wanhook._native import load as load_native

    spool_everything()
    wanhook.start(max_mb=4)
    wanhook.mark("last words")
    while load_native().status()["recording"]:
        wanhook.mark("filler")
    wanhook.stop()


globals()[sys.argv[1]]()
print("reached the end")
