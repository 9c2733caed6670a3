"""wanhook.trace() as a decorator: functions, generators, coroutines and asynchronous generators."""

import asyncio
import inspect
import threading
import types

import pytest

import wanhook
from recorded import EXCEPTION, Row, marks, only_trace, paths, recorded, rows


class Oops(Exception):
    pass


@wanhook.trace("function", kind="plain")
def function(value, *, double=False):
    """Docstring."""
    wanhook.mark("inside")
    if value is None:
        raise Oops
    return value * (2 if double else 1)


@wanhook.trace("generator")
def generator(count):
    for number in range(count):
        wanhook.mark("step")
        try:
            got = yield number
        except Oops:
            got = "thrown"
        if got is not None:
            wanhook.mark(f"got {got}")
    return "returned"


@wanhook.trace("coroutine")
async def coroutine(count):
    for _ in range(count):
        wanhook.mark("step")
        await asyncio.sleep(0)
    return count


@wanhook.trace("stream")
async def stream(count):
    try:
        for number in range(count):
            wanhook.mark("step")
            await asyncio.sleep(0)
            try:
                got = yield number
            except Oops:
                got = "thrown"
            if got is not None:
                wanhook.mark(f"got {got}")
    finally:
        wanhook.mark("closed")


class Methods:
    @wanhook.trace("static")
    @staticmethod
    def static(value):
        return value

    @wanhook.trace("class")
    @classmethod
    def of_class(cls):
        return cls

    @classmethod
    @wanhook.trace("inside")
    def inside(cls):
        return cls


def test_methods_of_a_class_stay_what_they_are(tmp_path):
    with recorded(tmp_path) as result:
        assert (Methods.static(1), Methods().static(2)) == (1, 2)
        assert {Methods.of_class(), Methods().of_class(), Methods.inside(), Methods().inside()} == {Methods}
    assert paths(result.trace) == ["static"] * 2 + ["class"] * 2 + ["inside"] * 2


def test_generator_that_can_be_awaited_still_can(tmp_path):
    @wanhook.trace("awaited")
    @types.coroutine
    def awaited():
        yield
        return 3

    async def main():
        return await awaited()

    with recorded(tmp_path) as result:
        assert asyncio.run(main()) == 3
    assert set(paths(result.trace)) == {"awaited"}


def test_decorated_callables_look_like_themselves():
    assert function.__name__ == "function"
    assert function.__doc__ == "Docstring."
    assert inspect.isgeneratorfunction(generator)
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isasyncgenfunction(stream)


def test_function(tmp_path):
    with recorded(tmp_path) as result:
        assert function(4) == 4
        assert function(4, double=True) == 8
        with pytest.raises(Oops):
            function(None)
    args = {"kind": "plain"}
    assert rows(result.trace) == [
        Row("function", 0, False, args),
        Row("function", 0, False, args),
        Row("function", EXCEPTION, False, args),
    ]


def test_recursive_function_on_many_threads(tmp_path):
    @wanhook.trace("down", level="op")
    def down(depth):
        return depth and down(depth - 1)

    with recorded(tmp_path) as result:
        threads = [threading.Thread(target=down, args=(3,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expected = ["/".join(["down"] * depth) for depth in range(1, 5)]
    assert sorted(paths(result.trace)) == sorted(expected * 4)


def test_method_and_callable_object(tmp_path):
    class Model:
        @wanhook.trace("forward")
        def __call__(self, value):
            return value + 1

    class Plain:
        def __call__(self):
            return "called"

    with recorded(tmp_path) as result:
        assert Model()(1) == 2
        assert wanhook.trace("plain")(Plain().__call__)() == "called"
    assert paths(result.trace) == ["forward", "plain"]


def test_generator_is_charged_for_its_own_steps(tmp_path):
    with recorded(tmp_path) as result, wanhook.trace("consumer"):
        for _ in generator(2):
            wanhook.mark("consumer's")
    assert marks(result.trace) == [
        ("step", "consumer/generator"),
        ("consumer's", "consumer"),
        ("step", "consumer/generator"),
        ("consumer's", "consumer"),
    ]
    assert paths(result.trace) == ["consumer", *["consumer/generator"] * 3]


def test_generator_takes_what_is_sent_and_thrown(tmp_path):
    with recorded(tmp_path) as result:
        running = generator(3)
        assert next(running) == 0
        assert running.send("a value") == 1
        assert running.throw(Oops()) == 2
        with pytest.raises(StopIteration) as stopped:
            next(running)
        assert stopped.value.value == "returned"
        left_open = generator(3)
        next(left_open)
        left_open.close()
        failing = generator(3)
        next(failing)
        with pytest.raises(ValueError, match="unexpected"):
            failing.throw(ValueError("unexpected"))
    assert [name for name, _ in marks(result.trace)] == ["step", "got a value", "step", "got thrown", *["step"] * 3]


def test_normal_end_is_no_exception(tmp_path):
    async def main():
        assert await coroutine(2) == 2
        assert [number async for number in stream(2)] == [0, 1]

    with recorded(tmp_path) as result:
        assert list(generator(2)) == [0, 1]
        asyncio.run(main())
    assert {row.flags for row in rows(result.trace)} == {0}


def test_coroutines_are_charged_for_their_own_steps(tmp_path):
    async def main():
        with wanhook.trace("main"):
            return await asyncio.gather(coroutine(2), coroutine(2))

    with recorded(tmp_path) as result:
        assert asyncio.run(main()) == [2, 2]
    assert marks(result.trace) == [("step", "main/coroutine")] * 4
    assert paths(result.trace) == ["main", *["main/coroutine"] * 6]
    steps = result.trace.scopes[1:]
    assert (steps["begin"][1:] >= steps["end"][:-1]).all()  # never two at a time


def test_coroutine_that_fails_or_is_cancelled(tmp_path):
    @wanhook.trace("waits")
    async def waits():
        await asyncio.Event().wait()

    @wanhook.trace("fails")
    async def fails():
        await asyncio.sleep(0)
        raise Oops

    async def main():
        with pytest.raises(Oops):
            await fails()
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with recorded(tmp_path) as result:
        asyncio.run(main())
    assert [(row.path, row.flags) for row in rows(result.trace)] == [
        ("fails", 0),
        ("fails", EXCEPTION),
        ("waits", 0),
        ("waits", EXCEPTION),
    ]


def test_asynchronous_generator(tmp_path):
    async def main():
        assert [number async for number in stream(2)] == [0, 1]
        running = stream(3)
        assert await anext(running) == 0
        assert await running.asend("a value") == 1
        assert await running.athrow(Oops()) == 2
        await running.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(running)

    with recorded(tmp_path) as result, wanhook.trace("consumer"):
        asyncio.run(main())
    expected = ["step", "step", "closed", "step", "got a value", "step", "got thrown", "step", "closed"]
    assert [name for name, _ in marks(result.trace)] == expected
    inside = [path for name, path in marks(result.trace) if name != "closed"]
    assert set(inside) == {"consumer/stream"}


@pytest.mark.parametrize("kind", ["generator", "coroutine", "stream"])
def test_outermost_decorated_makes_one_recording(tmp_path, kind):
    @wanhook.trace("whole", out=tmp_path)
    def generate():
        yield from generator(3)

    @wanhook.trace("whole", out=tmp_path)
    async def run():
        return await coroutine(3)

    @wanhook.trace("whole", out=tmp_path)
    async def produce():
        for number in range(3):
            wanhook.mark("step")
            yield number

    async def consume():
        return [number async for number in produce()]

    if kind == "generator":
        assert list(generate()) == [0, 1, 2]
    else:
        asyncio.run(run() if kind == "coroutine" else consume())
    trace = only_trace(tmp_path)
    assert [name for name, _ in marks(trace)] == ["step"] * 3
