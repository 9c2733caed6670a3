"""torch.compile goes through functions with scopes in them as if there were none."""

import os
import shutil

import pytest
import torch

import wanhook
from recorded import paths, recorded

COMPILER = shutil.which(os.environ.get("CXX", "g++"))


def with_context_manager(x):
    with wanhook.trace("scope", step=3):
        y = x.sin()
        with wanhook.trace("inner", level="op"), wanhook.role("qkv", "block 3"):
            y = y + 1
    wanhook.mark("mark", value=1)
    return y * 2


@wanhook.trace("inside")
def decorated(x):
    return x.sin() + 1


def with_decorator(x):
    return decorated(x) * 2


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("function", [with_context_manager, with_decorator])
def test_one_graph_and_the_same_result(tmp_path, function, backend):
    x = torch.arange(12.0).reshape(3, 4)
    expected = function(x)
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x), expected)
    with recorded(tmp_path / "run") as result, wanhook.trace("outside"):
        torch.testing.assert_close(compiled(x), expected)  # what was compiled before
        torch._dynamo.reset()
        torch.testing.assert_close(compiled(x), expected)  # compiled while recording
    assert paths(result.trace) == ["outside"]


@pytest.mark.skipif(COMPILER is None, reason="inductor needs a C++ compiler")
def test_inductor(tmp_path, monkeypatch):
    from torch._inductor import config, cpu_vec_isa

    def both(x):
        return with_context_manager(x) + with_decorator(x)

    x = torch.arange(12.0).reshape(3, 4)
    expected = both(x)
    # No pool of worker processes that would outlive the test, no precompiled headers, and no vector units: it would try
    # each of them out in a process of its own, which takes a quarter of a minute.
    monkeypatch.setattr(cpu_vec_isa, "valid_vec_isa_list", list, raising=False)
    options = {"compile_threads": 1, "cpp_cache_precompile_headers": False, "cpp.simdlen": 1, "fx_graph_cache": False}
    with config.patch({name: value for name, value in options.items() if name in config._config}):
        compiled = torch.compile(both, fullgraph=True, backend="inductor")
        with recorded(tmp_path / "run") as result, wanhook.trace("outside"):
            torch.testing.assert_close(compiled(x), expected)
    assert paths(result.trace) == ["outside"]


def test_scope_around_a_compiled_function(tmp_path):
    compiled = torch.compile(lambda x: x.sin() + 1, fullgraph=True, backend="eager")
    around = wanhook.trace("around")(compiled)
    with recorded(tmp_path) as result:
        around(torch.ones(3))
        around(torch.ones(3))
    assert paths(result.trace) == ["around", "around"]


def test_compiled_module_with_decorated_forward(tmp_path):
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        @wanhook.trace("forward", level="block")
        def forward(self, x):
            return self.linear(x)

    block = Block()
    x = torch.ones(2, 4)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    with recorded(tmp_path) as result:
        torch.testing.assert_close(compiled(x), block(x))
        compiled(x).sum().backward()
    assert paths(result.trace) == ["forward"]  # the one that was not compiled
    assert block.linear.weight.grad is not None


def test_function_outside_of_any_graph_keeps_its_scopes(tmp_path):
    @torch.compiler.disable
    def left_out(x):
        with wanhook.trace("left out"):
            return x + 1

    compiled = torch.compile(lambda x: left_out(x.sin()), backend="eager")
    with recorded(tmp_path) as result:
        compiled(torch.ones(3))
    assert paths(result.trace) == ["left out"]


def test_export(tmp_path):
    class Exported(torch.nn.Module):
        def forward(self, x):
            return with_context_manager(x)

    x = torch.arange(4.0)
    with recorded(tmp_path) as result:
        program = torch.export.export(Exported(), (x,), strict=True)
        torch.testing.assert_close(program.module()(x), Exported()(x))
    assert paths(result.trace) == ["scope", "scope/inner"]
