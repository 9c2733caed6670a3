"""Says which integrations are put on by the import of the recorder alone: FSDP's own functions, or wrappers of them."""

import torch.distributed.fsdp._runtime_utils as runtime

import wanhook

wanhook.mark("loads the recorder")
own = runtime._pre_forward_unshard.__code__.co_filename == runtime.__file__
print("own" if own else "wrapped")
