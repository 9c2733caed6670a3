"""The scopes and roles of the integrations, for one observation at a time: bare requests run in the same process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def wan_scopes() -> Iterator[None]:
    """While open, Wan's stages, blocks and operations are scopes and its collectives have roles, as
    docs/integrations.md lists them. Import Wan first: what is patched later, by the harness too, would hide a point."""
    from wanhook.integrations import registry

    names = ("fsdp", "wan")
    for name in names:
        registry.install(name)
    try:
        yield
    finally:
        for name in reversed(names):
            registry.uninstall(name)
