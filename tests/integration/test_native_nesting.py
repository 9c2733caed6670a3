"""Which scope is innermost while native code holds some open around its calls: the same as if Python had entered each
of them, whatever is entered, left or left open inside. Only what other threads take over is another one."""

import asyncio
import contextvars
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

import wanhook
from natively import BOTH, call, scoped, wrapped
from recorded import CLOSED_BY_OUTER, marks, paths, recorded, rows

KINDS = ["op", "block", "stage", "with", "left open", "left later", "generator", "leave", "go on", "copy", "asyncio"]
programs = st.recursive(
    st.tuples(st.sampled_from(KINDS), st.just([])),
    lambda inner: st.tuples(st.sampled_from(KINDS), st.lists(inner, min_size=1, max_size=4)),
    max_leaves=12,
)


def is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Program:
    """Runs a tree of scopes. What is left open or later, and generators, stay for nodes that come after."""

    def __init__(self, natively: bool) -> None:
        self._natively = natively
        self._open: list = []
        self._suspended: list = []
        self._number = 0

    def run(self, node) -> None:
        kind, children = node
        self._number += 1
        name = f"{kind} {self._number}"

        def inside() -> None:
            wanhook.mark(f"in {name}")
            for child in children:
                self.run(child)
            wanhook.mark(f"end of {name}")

        if kind in ("op", "block", "stage"):
            call(wrapped(scoped(name, level=kind), inside, self._natively))
        elif kind == "with":
            with wanhook.trace(name):
                inside()
        elif kind in ("left open", "left later"):
            scope = wanhook.trace(name)
            scope.__enter__()
            if kind == "left later":
                self._open.append(scope)
            inside()
        elif kind == "generator":
            generator = self._steps(name, inside)
            next(generator)
            self._suspended.append(generator)
        elif kind == "copy":
            contextvars.copy_context().run(inside)
            wanhook.mark(f"behind {name}")
        elif kind == "asyncio" and not is_in_loop():  # there asyncio refuses another one
            asyncio.run(self._two_tasks(name, inside))
            wanhook.mark(f"behind {name}")
        elif kind == "leave" and self._open:
            self._open.pop(0).__exit__(None, None, None)
            inside()
        elif kind == "go on" and self._suspended:
            next(self._suspended.pop(0), None)
            inside()

    @staticmethod
    async def _two_tasks(name: str, inside: Callable[[], None]) -> None:
        async def task(number: int) -> None:
            with wanhook.trace(f"{name} task {number}"):
                await asyncio.sleep(0)
                inside()
                await asyncio.sleep(0)

        await asyncio.gather(task(0), task(1))

    @staticmethod
    def _steps(name: str, inside: Callable[[], None]):
        with wanhook.trace(name):
            inside()
            yield
        wanhook.mark("behind a generator's scope")


def told_by(program, natively: bool):
    with tempfile.TemporaryDirectory() as out:
        with recorded(Path(out)) as result:

            def in_thread() -> None:
                with wanhook.trace("all"):
                    Program(natively).run(program)
                with wanhook.trace("after"):
                    wanhook.mark("last")

            thread = threading.Thread(target=in_thread)  # a context of its own
            thread.start()
            thread.join()
        return rows(result.trace), marks(result.trace)


@example(program=("op", [("op", [("left open", [])]), ("op", [("asyncio", [])])]))
@given(program=programs)
def test_natively_held_scopes_nest_as_scopes_of_python_do(program):
    held, entered = (told_by(program, natively) for natively in (True, False))
    assert held == entered
    assert held[1][-1] == ("last", "after")


def test_a_scope_inside_of_a_held_one_knows_it_and_is_closed_with_it(tmp_path):
    def body() -> None:
        wanhook.trace("never left").__enter__()
        call(scoped("op", level="op")(lambda: wanhook.mark("deep")))

    with recorded(tmp_path) as result, wanhook.trace("outer"):
        call(scoped("block", level="block")(body))
        wanhook.mark("outside")
    assert paths(result.trace) == ["outer", "outer/block", "outer/block/never left", "outer/block/never left/op"]
    assert [row.flags for row in rows(result.trace)] == [0, 0, CLOSED_BY_OUTER, 0]
    assert marks(result.trace) == [("deep", "outer/block/never left/op"), ("outside", "outer")]


@BOTH
def test_a_context_copied_in_a_stage_knows_it(tmp_path, natively):
    def inside() -> None:
        with wanhook.trace("copied"):
            pass

    def body() -> None:
        contextvars.copy_context().run(inside)

    with recorded(tmp_path) as result, wanhook.trace("outer"):
        call(wrapped(scoped("stage"), body, natively))
    assert paths(result.trace) == ["outer", "outer/stage", "outer/stage/copied"]


@BOTH
def test_a_context_copied_in_a_block_and_run_there_lies_in_it(tmp_path, natively):
    def op(name: str, body: Callable[[], None]) -> None:
        call(wrapped(scoped(name, level="op"), body, natively))

    def inside() -> None:
        op("op", lambda: op("inner", lambda: None))
        with wanhook.trace("with"):
            op("op", lambda: None)
        wanhook.trace("never left").__enter__()

    def body() -> None:
        contextvars.copy_context().run(inside)
        op("back", lambda: None)

    with recorded(tmp_path) as result, wanhook.trace("outer"):
        call(wrapped(scoped("block", level="block"), body, natively))
        wanhook.mark("outside")
    assert [path.removeprefix("outer/block") for path in paths(result.trace)[1:]] == [
        "", "/op", "/op/inner", "/with", "/with/op", "/never left", "/back"
    ]  # fmt: skip
    assert marks(result.trace) == [("outside", "outer")]


def test_a_context_copied_in_a_block_for_another_thread_knows_the_stage_around(tmp_path):
    def inside() -> None:
        with wanhook.trace("elsewhere"):
            pass

    def body() -> None:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(inside,))
        thread.start()
        thread.join()

    with recorded(tmp_path) as result, wanhook.trace("outer"):
        call(scoped("block", level="block")(body))
    assert paths(result.trace) == ["outer", "outer/block", "outer/elsewhere"]


def test_a_thread_without_any_context_holds_its_scopes_too(tmp_path):
    def work() -> None:
        call(scoped("op", level="op")(lambda: call(scoped("inner", level="op")(lambda: wanhook.mark("deep")))))
        call(scoped("next", level="op")(lambda: wanhook.mark("flat")))

    with recorded(tmp_path) as result:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert marks(result.trace) == [("deep", "op/inner"), ("flat", "next")]
