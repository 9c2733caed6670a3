"""Imports torch, as anybody's program does, and says what that left: one JSON object a process."""

import json
import os
import sys

import torch


def state() -> dict:
    return {
        "wanhook": sorted(name for name in sys.modules if name.partition(".")[0].startswith("wanhook")),
        "cuda": torch.cuda.is_initialized(),
        "threads": len(os.listdir("/proc/self/task")),
        "finders": [type(finder).__module__ for finder in sys.meta_path if not isinstance(finder, type)],
    }


def spawned(rank, folder):
    with open(f"{folder}/spawned-{rank}", "w") as file:
        json.dump(state(), file)


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor(float(index))


def main(what: str) -> None:
    if what == "spawn":
        torch.multiprocessing.spawn(spawned, (os.getcwd(),), nprocs=1)
    if what == "loader":
        loader = torch.utils.data.DataLoader(Numbers(), num_workers=1, multiprocessing_context="spawn")
        assert sum(batch.item() for batch in loader) == 6
    print(json.dumps(state()))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
