"""`wanhook COMMAND`, also as `python -m wanhook COMMAND`."""

import sys
from importlib import import_module

_COMMANDS = {  # name: module with main(arguments) -> exit status, what it does
    "run": ("wanhook.run", "record an unchanged program and print its report"),
    "report": ("wanhook.report.__main__", "print the report of a run"),
    "doctor": ("wanhook.doctor.__main__", "say what will be recorded on this machine, and why not"),
    "demo": ("wanhook.demo.__main__", "record the built-in small Wan"),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; its exit status, 2 for one that there is not."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name not in _COMMANDS:
        print(f"wanhook: there is no command {name!r}\n{_usage()}", file=sys.stderr)
        return 2
    return import_module(_COMMANDS[name][0]).main(arguments[1:])


def _usage() -> str:
    lines = [f"  {name:<8} {about}" for name, (_, about) in _COMMANDS.items()]
    return "\n".join(["usage: wanhook COMMAND ...", "", *lines, "", "wanhook COMMAND --help says more."])


if __name__ == "__main__":
    sys.exit(main())
