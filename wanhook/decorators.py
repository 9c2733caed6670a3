"""``@wanhook.trace("name")`` on functions, generators, coroutines and asynchronous generators.

A generator or coroutine is charged for its own steps: the scope is open while it runs and closed while its consumer,
or another task, does.
"""

import contextlib
import functools
import inspect
import types

from wanhook._native import load as load_native

_C = load_native()


def decorate(scope, function):
    """Returns ``function`` inside ``scope`` (what wanhook.trace() returned). Raises TypeError for what cannot be
    called."""
    if isinstance(function, staticmethod | classmethod):
        return type(function)(decorate(scope, function.__func__))
    if not callable(function):
        raise TypeError(f"wanhook.trace() decorates callables, not {type(function).__name__}")
    if inspect.isasyncgenfunction(function):
        return _decorate_async_generator(scope, function)
    if inspect.iscoroutinefunction(function):
        return _decorate_coroutine(scope, function)
    if inspect.isgeneratorfunction(function):
        generator = _decorate_generator(scope, function)
        return types.coroutine(generator) if _can_be_awaited(function) else generator

    return in_scope(scope, function)


def in_scope(scope, original):
    """``original``, which is no generator or coroutine function, inside ``scope`` (what wanhook.trace() returned)."""

    @functools.wraps(original)
    def call(*args, **kwargs):
        with _C.again(scope):
            return original(*args, **kwargs)

    call.__code__ = call.__code__.replace()  # of its own: torch.compile gives up a code that it meets in many functions
    return call


def _can_be_awaited(function) -> bool:
    """A generator function that types.coroutine() was called with."""
    code = getattr(function, "__code__", None)
    return bool(getattr(code, "co_flags", 0) & inspect.CO_ITERABLE_COROUTINE)


def _decorate_generator(scope, function):
    @functools.wraps(function)
    def generate(*args, **kwargs):
        with _recording(scope):
            return (yield from _Steps(scope, function(*args, **kwargs)))

    return generate


def _decorate_coroutine(scope, function):
    @functools.wraps(function)
    async def run(*args, **kwargs):
        with _recording(scope):
            return await _Steps(scope, function(*args, **kwargs))

    return run


def _decorate_async_generator(scope, function):
    @functools.wraps(function)
    async def generate(*args, **kwargs):
        owned = _C.begin_outermost(scope)
        source = function(*args, **kwargs)
        step = source.__anext__()
        try:
            while True:
                try:
                    item = await _Steps(scope, step.__await__())
                except StopAsyncIteration:
                    return
                try:
                    sent = yield item
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step = source.athrow(error)
                else:
                    step = source.asend(sent)
        finally:
            await source.aclose()
            _C.end_outermost(owned)

    return generate


@contextlib.contextmanager
def _recording(scope):
    """Where the decorated one is outermost, its recording runs from its first step to its last."""
    owned = _C.begin_outermost(scope)
    try:
        yield
    finally:
        _C.end_outermost(owned)


class _Steps:
    """Drives a generator or coroutine, each step inside the scope; itself both iterable and awaitable."""

    __slots__ = ("_inner", "_scope")

    def __init__(self, scope, inner):
        self._scope = scope
        self._inner = inner

    def __iter__(self):
        return self

    __await__ = __iter__

    def __next__(self):
        with _C.again(self._scope):
            return next(self._inner) if hasattr(self._inner, "__next__") else self._inner.send(None)

    def send(self, value):
        with _C.again(self._scope):
            return self._inner.send(value)

    def throw(self, *error):
        with _C.again(self._scope):
            return self._inner.throw(*error)

    def close(self):
        with _C.again(self._scope):
            return self._inner.close()
