"""A recording program with a secret wherever a program may have one: secrets_everywhere.py --prompt SECRET.

Its directory, its environment and its arguments hold the secret; it never hands it to wanhook.
"""

import os
import sys

import torch

import wanhook

SECRET = sys.argv[2]


class Prompt(str):
    __slots__ = ()


def generate(prompt: str, cache: dict) -> torch.Tensor:
    with wanhook.trace("generate", prompt=Prompt(prompt), cache=cache, words=prompt.encode()):
        return torch.tensor([ord(letter) for letter in prompt])


def main() -> None:
    assert SECRET in os.getcwd()
    assert sum(SECRET in value for value in os.environ.values()) > 5
    with wanhook.trace("request"):
        generate(SECRET, {"text": SECRET})
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            wanhook.mark("failed", error=error)
        try:
            with wanhook.trace("fails"):
                raise ValueError(SECRET)
        except ValueError:
            pass


main()
wanhook.start(max_mb=4)
from wanhook._native import load as load_native  # noqa: E402

while load_native().status()["recording"]:  # until it ends early, which is noted
    wanhook.mark("filler")
wanhook.stop()
main()
