"""Runs a program of a stand-in for Wan as it is, with a mark wherever a point of the integration calls what it
wraps: PROGRAM ARG… The mark lies in the scope that the point has opened."""

import functools
import runpy
import sys
from pathlib import Path

import torch

import wanhook
from wanhook.integrations.wan import wrapping


def marked(wrapper):
    def made(point, level):
        wrap = wrapper(point, level)
        return lambda original: wrap(marking(original, f"point {point}"))

    return made


def marking(original, name):
    @functools.wraps(original, updated=())
    def call(*args, **kwargs):
        wanhook.mark(name)
        return original(*args, **kwargs)

    return call


if __name__ == "__main__":
    wrapping._wrapper = marked(wrapping._wrapper)
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
