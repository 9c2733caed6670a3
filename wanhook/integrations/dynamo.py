"""Makes scopes transparent to torch.compile: inside a compiled region they are left out, and the graph stays whole."""

import contextlib

from wanhook._native import load as load_native
from wanhook.integrations.import_hook import on_import

_C = load_native()


def install() -> None:
    """Registers once torch._dynamo is imported; importing it ourselves would cost 0.8 s."""
    on_import("torch._dynamo", _register)


def _register() -> None:
    try:
        import torch

        substitute = torch.compiler.substitute_in_graph
        substitute(_C.trace, skip_signature_check=True)(_no_scope)
        substitute(_C.again, skip_signature_check=True)(_no_scope)
        substitute(_C.role, skip_signature_check=True)(_no_scope)
        substitute(_C.mark, skip_signature_check=True)(_no_mark)
    except Exception as error:
        from wanhook import settings

        settings.complain(f"scopes will break graphs of torch.compile: {type(error).__name__}: {error}")


def _no_scope(*args, **kwargs):
    return contextlib.nullcontext()


def _no_mark(*args, **kwargs):
    return None
