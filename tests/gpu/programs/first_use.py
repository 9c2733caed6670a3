"""`first_use WHEN FOLDER`: a recording that begins before torch has taken any memory of the GPU."""

import sys

import torch

import wanhook

MIB = 1 << 20


def main(when: str, folder: str) -> None:
    if when == "initialised":
        torch.cuda.init()
    with wanhook.trace("request", out=folder):
        with wanhook.trace("load"):
            kept = torch.empty(30 * MIB, dtype=torch.uint8, device="cuda")
        with wanhook.trace("denoise"):
            torch.empty(5 * MIB, dtype=torch.uint8, device="cuda")
        del kept


if __name__ == "__main__":
    main(*sys.argv[1:])
