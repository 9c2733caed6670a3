"""`overrun`: writes 4 KiB behind a block of 32 MiB, for what checks memory accesses to see; run it nowhere else."""

import torch

BYTES = 32 << 20  # a segment of its own, which ends where the block does


class Longer:
    """A tensor's memory, with more of it claimed than there is."""

    def __init__(self, block: torch.Tensor):
        self.__cuda_array_interface__ = {
            "shape": (block.numel() + 4096,),
            "typestr": "|u1",
            "data": (block.data_ptr(), False),
            "version": 2,
        }


if __name__ == "__main__":
    block = torch.empty(BYTES, dtype=torch.uint8, device="cuda")
    torch.as_tensor(Longer(block), device="cuda").fill_(1)
    torch.cuda.synchronize()
