"""Scopes as a program opens and leaves them: in order, out of order, by exceptions, on threads and in tasks."""

import asyncio
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import wanhook
from recorded import CLOSED_BY_OUTER, EXCEPTION, Row, marks, paths, recorded, rows


class Oops(Exception):
    pass


def test_nested_scopes_have_the_path_of_their_names(tmp_path):
    with recorded(tmp_path) as result, wanhook.trace("request"):
        for step in range(2):
            with wanhook.trace("step", level="block", step=step):
                wanhook.mark("here")
    assert rows(result.trace) == [
        Row("request", 0, False, {}),
        Row("request/step", 0, False, {"step": 0}),
        Row("request/step", 0, False, {"step": 1}),
    ]
    assert marks(result.trace) == [("here", "request/step")] * 2
    assert result.trace.scopes["first"].tolist() == [True, True, False]


def test_exception_through_nested_scopes_is_the_programs_own(tmp_path):
    error = Oops("from inside")
    with recorded(tmp_path) as result:
        with pytest.raises(Oops) as caught, wanhook.trace("outer"), wanhook.trace("inner"):
            raise error
        with wanhook.trace("outer"):
            with pytest.raises(Oops), wanhook.trace("handled"):
                raise error
            with wanhook.trace("after"):
                pass
    assert caught.value is error
    assert [(row.path, row.flags) for row in rows(result.trace)] == [
        ("outer", EXCEPTION),
        ("outer/inner", EXCEPTION),
        ("outer", 0),
        ("outer/handled", EXCEPTION),
        ("outer/after", 0),
    ]


def test_leaving_an_outer_scope_closes_what_is_open_inside(tmp_path):
    with recorded(tmp_path) as result:
        outer, inner, innermost = wanhook.trace("outer"), wanhook.trace("inner"), wanhook.trace("innermost")
        for scope in (outer, inner, innermost):
            scope.__enter__()
        outer.__exit__(None, None, None)
        wanhook.mark("outside")
        innermost.__exit__(None, None, None)  # closed already: left in silence
        inner.__exit__(None, None, None)
        with wanhook.trace("next"):
            pass
    assert [(row.path, row.flags) for row in rows(result.trace)] == [
        ("outer", 0),
        ("outer/inner", CLOSED_BY_OUTER),
        ("outer/inner/innermost", CLOSED_BY_OUTER),
        ("next", 0),
    ]
    assert marks(result.trace) == [("outside", "")]


def test_generator_left_open_inside_a_scope(tmp_path):
    def yields_inside():
        with wanhook.trace("inside"):
            yield

    with recorded(tmp_path) as result:
        with wanhook.trace("outer"):
            generator = yields_inside()
            next(generator)
        generator.close()
    assert [(row.path, row.flags) for row in rows(result.trace)] == [("outer", 0), ("outer/inside", CLOSED_BY_OUTER)]


def test_two_tasks_close_their_scopes_out_of_order(tmp_path):
    async def task(name, entered, leave):
        with wanhook.trace(name):
            entered.set()
            await leave.wait()
            with wanhook.trace("last"):
                pass

    async def main():
        events = [asyncio.Event() for _ in range(4)]
        with wanhook.trace("main"):
            first = asyncio.create_task(task("first", events[0], events[1]))
            await events[0].wait()
            second = asyncio.create_task(task("second", events[2], events[3]))
            await events[2].wait()
            events[1].set()  # the first to come is the first to go
            await first
            events[3].set()
            await second

    with recorded(tmp_path) as result:
        asyncio.run(main())
    assert [(row.path, row.flags, row.open) for row in rows(result.trace)] == [
        ("main", 0, False),
        ("main/first", 0, False),
        ("main/second", 0, False),
        ("main/first/last", 0, False),
        ("main/second/last", 0, False),
    ]
    scopes = dict(zip(paths(result.trace), result.trace.scopes, strict=True))
    assert scopes["main/second"]["begin"] < scopes["main/first"]["end"] < scopes["main/second"]["end"]


def test_worker_threads_name_their_parent(tmp_path):
    with recorded(tmp_path) as result, wanhook.trace("request") as request, ThreadPoolExecutor(2) as pool:
        together = threading.Barrier(2)

        def work(number):
            with wanhook.trace("job", parent=request, number=number), wanhook.trace("part"):
                together.wait()
                wanhook.mark("working")

        list(pool.map(work, range(2)))
    assert sorted(paths(result.trace)) == ["request", *["request/job"] * 2, *["request/job/part"] * 2]
    assert marks(result.trace) == [("working", "request/job/part")] * 2
    jobs = result.trace.scopes[[path == "request/job" for path in paths(result.trace)]]
    assert len({*jobs["thread"].tolist(), int(result.trace.scopes["thread"][0])}) == 3


def test_worker_goes_back_to_where_it_was(tmp_path):
    def work(request):
        with wanhook.trace("own", parent=request):
            pass
        wanhook.mark("between")
        with wanhook.trace("elsewhere"):
            pass

    with recorded(tmp_path) as result:
        with wanhook.trace("request") as request:
            thread = threading.Thread(target=work, args=(request,))
            thread.start()
            thread.join()
        with wanhook.trace("a") as a, wanhook.trace("b"):
            with wanhook.trace("of a", parent=a):
                pass
            with wanhook.trace("of b"):
                pass
    assert paths(result.trace) == ["request", "request/own", "elsewhere", "a", "a/b", "a/of a", "a/b/of b"]
    assert marks(result.trace) == [("between", "")]


def test_scopes_of_a_thread_that_has_ended_stay(tmp_path):
    def work():
        threading.current_thread()
        with wanhook.trace("on a thread"):
            wanhook.mark("there")

    with recorded(tmp_path) as result:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        with wanhook.trace("later"):
            pass
    assert paths(result.trace) == ["on a thread", "later"]
    first, second = result.trace.scopes["thread"].tolist()
    assert first != second
    assert {first, second} <= set(result.trace.threads)


def test_one_trace_object_is_entered_again_and_again(tmp_path):
    scope = wanhook.trace("again", times=3)
    with recorded(tmp_path) as result:
        with scope, scope, scope:
            pass
        with scope:
            pass
        with pytest.raises(RuntimeError, match="left more often than entered"):
            scope.__exit__(None, None, None)
    assert paths(result.trace) == ["again", "again/again", "again/again/again", "again"]
    assert all(row.args == {"times": 3} for row in rows(result.trace))


def test_arguments_come_back_as_they_were(tmp_path):
    import torch

    given = {
        "whole": -(2**62),
        "huge": 2**70,
        "beyond": 10**400,
        "real": 0.1,
        "nan": math.nan,
        "flag": True,
        "none": None,
        "text": 'quote " back \\ line \n tab \t nul \0 é 漢 🎬',
        "surrogate": "\ud800",
        "tensor": torch.zeros(3),
        "sequence": [1, 2],
    }
    with recorded(tmp_path) as result, wanhook.trace("scope", **given):
        wanhook.mark("mark", **given)
        wanhook.mark("long", text="漢" * 5000)
        wanhook.mark("too much", **{f"key{number}": "x" * 4000 for number in range(20)})
    expected = {
        **given,
        "huge": float(2**70),
        "beyond": None,
        "nan": None,
        "surrogate": "?",
        "tensor": "<Tensor>",
        "sequence": "<list>",
    }
    assert rows(result.trace)[0].args == expected
    assert result.trace.mark_args[0] == expected
    assert result.trace.mark_args[1] == {"text": "漢" * (4096 // 3)}
    assert result.trace.mark_args[2] == {"clipped": True}


@pytest.mark.parametrize("name", ["", "漢字 🎬 <b>&amp;\n", "/", "x" * 3000, "é" * 600])
def test_names_come_back_up_to_their_longest(tmp_path, name):
    with recorded(tmp_path) as result, wanhook.trace(name):
        wanhook.mark(name)
    clipped = name.encode()[:1024].decode(errors="ignore")
    assert [result.trace.strings[name] for name in result.trace.scopes["name"]] == [clipped]
    assert [result.trace.strings[name] for name in result.trace.marks["name"]] == [clipped]


def test_misuse_is_told_at_once():
    for call in (wanhook.trace, wanhook.mark, wanhook.role):
        with pytest.raises(TypeError):
            call()
        with pytest.raises(TypeError):
            call(3)
    for arguments in (("x", 3), ("x", "y", "z")):
        with pytest.raises(TypeError, match="both str"):
            wanhook.role(*arguments)
    with pytest.raises(ValueError, match="'stage', 'block' or 'op', not 'deep'"):
        wanhook.trace("x", level="deep")
    with pytest.raises(TypeError, match="parent must be a scope that was entered"):
        wanhook.trace("x", parent=wanhook.trace("not entered"))
    with pytest.raises(TypeError, match="decorates callables"):
        wanhook.trace("x")(3)


def test_levels_leave_deeper_scopes_out(tmp_path):
    outer, inner = wanhook.trace("op", level="op"), wanhook.trace("block", level="block")
    with recorded(tmp_path, level="block") as result, wanhook.trace("stage"), outer, inner:
        wanhook.mark("inside")
    assert paths(result.trace) == ["stage", "stage/block"]
    assert marks(result.trace) == [("inside", "stage/block")]


def test_pause_leaves_out_what_begins_in_it(tmp_path):
    with recorded(tmp_path) as result:
        with wanhook.trace("spans the pause"):
            wanhook.pause()
            wanhook.mark("unseen")
            with wanhook.trace("unseen"):
                wanhook.resume()
                with wanhook.trace("seen"):
                    wanhook.mark("seen")
        wanhook.pause()
        wanhook.resume()
    assert paths(result.trace) == ["spans the pause", "spans the pause/seen"]
    assert marks(result.trace) == [("seen", "spans the pause/seen")]
    assert result.trace.gates["open"].tolist() == [False, True, False, True]
