"""Recording by environment variable: WANHOOK=1 and no change to the program.

Attaching creates nothing: no context on a GPU and no file. The first scope that an integration (or the program itself)
opens starts the recording, and the end of the process ends it.
"""

import os

from wanhook import settings
from wanhook.integrations import registry


def attach() -> None:
    """Puts the integrations on, each right after its modules are imported. Called while torch is being imported."""
    chosen = settings.from_environment()
    if not chosen.automatic:
        return
    for name in chosen.integrations:
        registry.install(name)


def is_asked_for(environ=os.environ) -> bool:
    """True under WANHOOK=1, where a recording lasts as long as the process."""
    return settings.from_environment(environ).automatic
