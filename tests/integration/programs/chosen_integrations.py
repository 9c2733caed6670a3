"""Says what is put on by the import of the recorder alone: FSDP's own functions, or wrappers of them, and the same of
coalesced groups."""

import torch.distributed.distributed_c10d as c10d
import torch.distributed.fsdp._runtime_utils as runtime

import wanhook

wanhook.mark("loads the recorder")


def is_own(module, name: str) -> bool:
    return vars(module)[name].__module__ == module.__name__ and not hasattr(vars(module)[name], "_wanhook_replaced")


fsdp = runtime._pre_forward_unshard.__code__.co_filename == runtime.__file__
print("own" if fsdp else "wrapped", "own" if is_own(c10d, "_coalescing_manager") else "wrapped")
