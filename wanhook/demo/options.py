"""What the command line says about the work itself: shared by the launcher and the ranks."""

import argparse

from .presets import PRESETS


def add_work_options(parser: argparse.ArgumentParser, default_preset: str | None) -> None:
    """Options that the launcher takes from the user and hands on to every rank."""
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default=default_preset,
        help="size of the model and the video (default: gpu where there are GPUs, else tiny)",
    )
    parser.add_argument("--steps", type=positive, metavar="N", help="denoising steps instead of the preset's")
    parser.add_argument(
        "--level", choices=("stage", "block", "op"), default="op", help="finest scopes to record (default: op)"
    )
    parser.add_argument(
        "--offload",
        action=argparse.BooleanOptionalAction,
        help="keep idle models in host memory (default: with one process, as Wan; impossible with more)",
    )


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number
