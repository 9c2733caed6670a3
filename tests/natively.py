"""A wrapper of the recorder's twice: called natively, and by its own Python code."""

import functools
import types

import pytest

import wanhook
from recorded import rows
from wanhook._native import load as load_native
from wanhook.decorators import in_scope

_C = load_native()
BOTH = pytest.mark.parametrize("natively", [True, False], ids=["native", "python"])


def wrapped(wrap, original, natively: bool):
    """The wrapper of `original`; not natively: its code and closure in a function that nobody changed."""
    made = wrap(original)
    if natively:
        return made
    plain = types.FunctionType(made.__code__, made.__globals__, made.__name__, made.__defaults__, made.__closure__)
    return functools.update_wrapper(plain, original)


def call(function, /, *args, **kwargs):
    """From C: the bytecode of Python 3.11 calls the code of a function and not the function."""
    return functools.partial(function)(*args, **kwargs)


def scoped(name: str, **options):
    scope = wanhook.trace(name, **options)
    return lambda original: _C.call_natively(in_scope(scope, original), "scope")


def seen(trace) -> list[tuple]:
    return [(row.path, row.flags, row.args) for row in rows(trace)]
