"""Compiles a model of the stand-in with the integration on: one graph, the same result, no scope inside."""

import copy
import pickle
import sys
from pathlib import Path

import torch

import wanhook
from wanhook.integrations import wan as integration

sys.path.insert(0, sys.argv[1])
integration.install()
import wan
from wan.modules.model import WanModel

CALL = {"x": [torch.ones(4, 1, 2, 2)], "t": torch.tensor([5]), "context": [torch.ones(3, 32)], "seq_len": 4}


def main() -> None:
    torch.manual_seed(0)
    model = WanModel().eval().requires_grad_(False)
    expected = model(**CALL)[0]  # eager, and numbers the blocks
    for whole in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(whole(**CALL)[0], expected)
    explained = torch._dynamo.explain(model)(**CALL)
    assert explained.graph_break_count == 0, explained
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with wanhook.trace("outside", out=sys.argv[2]):
        assert torch.equal(compiled(**CALL)[0], expected)
        model.compile(backend="eager", fullgraph=True)
        assert torch.equal(model(**CALL)[0], expected)
        for block in (blocks := WanModel().blocks):
            block.compile(backend="eager", fullgraph=True, dynamic=False)
        x, more = torch.ones(1, 4, 32), {"seq_lens": torch.tensor([4]), "context": torch.ones(1, 3, 32)}
        for block in blocks:
            block(x, **more)
    wanhook.stop()
    (trace,) = wanhook.load(Path(sys.argv[2])).traces
    print([trace.paths[scope["path"]] for scope in trace.scopes])


if __name__ == "__main__":
    main()
