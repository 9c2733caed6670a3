"""Recording by environment variable: WANHOOK=1 and no change to the program.

Attaching creates nothing: no context on a GPU and no file. The first scope that an integration (or the program itself)
opens starts the recording, and the end of the process ends it.
"""

from wanhook import _native, settings
from wanhook.integrations import registry


def attach() -> None:
    """Puts the integrations on, each right after its modules are imported. Called while torch is being imported.
    Raises ImportError where the extension does not fit this torch."""
    chosen = settings.from_environment()
    if not chosen.automatic:
        return
    settings.complain_of_unknown()
    if not chosen.integrations:
        return
    _native.load()  # an extension that does not fit is one line now, and not one for each integration later
    for name in chosen.integrations:
        registry.install(name)
