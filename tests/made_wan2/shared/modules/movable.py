import torch
import torch.nn as nn

GPU = torch.device("meta")


class Movable:
    """A model that moves between the CPU and a GPU that is not there. What moves is its first parameter, which is
    empty: the weights stay where they can be computed with."""

    def __init__(self):
        super().__init__()
        self.where = nn.Parameter(torch.empty(0), requires_grad=False)

    def _apply(self, move, recurse=True):
        self.where = nn.Parameter(torch.empty(0, device=move(torch.empty(0)).device), requires_grad=False)
        return self
