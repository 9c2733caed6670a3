"""The integrations by name, as WANHOOK_INTEGRATIONS lists them."""

from importlib import import_module

from wanhook import settings

MODULES = {"fsdp": "wanhook.integrations.fsdp", "wan": "wanhook.integrations.wan"}


def install(name: str) -> None:
    """Puts one integration on. One that fails costs itself and a line, and nothing else."""
    try:
        import_module(MODULES[name]).install()
    except Exception as error:
        settings.complain(f"the integration {name} is left out: {type(error).__name__}: {error}".splitlines()[0])


def uninstall(name: str) -> None:
    """Takes every patch of an integration off again."""
    import_module(MODULES[name]).uninstall()
