"""What is imported when: imports.py. Prints nothing unless something is wrong."""

import sys

import wanhook

assert "torch" not in sys.modules
assert "numpy" not in sys.modules
assert {"trace", "start", "load", "WanhookError"} <= set(dir(wanhook))
assert issubclass(wanhook.TraceFormatError, ValueError)
assert issubclass(wanhook.WanhookError, RuntimeError)
assert "torch" not in sys.modules
assert "wanhook._C" not in sys.modules

with wanhook.trace("request"):
    wanhook.mark("mark")
assert "torch" in sys.modules
assert "torch._dynamo" not in sys.modules
assert "wanhook.report" not in sys.modules
assert not [name for name in sys.modules if name.startswith("wanhook.analysis")]

import torch  # noqa: E402

assert not torch.cuda.is_initialized()
assert torch.get_num_threads() == 1  # as OMP_NUM_THREADS says: we changed nothing


def function(x):
    with wanhook.trace("inside"):
        return x + 1


# Dynamo is imported here, long after wanhook: from then on scopes are transparent to it.
torch.compile(function, fullgraph=True, backend="eager")(torch.ones(2))
assert "torch._dynamo" in sys.modules
