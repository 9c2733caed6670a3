"""Says what this machine lacks for a build, and the remedy: python3 native_build/check_machine.py [MODULE ...]

MODULEs are imports that the interpreter must find. Runs on Python 3.6, so that an old one gets a sentence instead of a
syntax error.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig

_OLDEST = (3, 10)
_DEBIAN_REMEDY = "on Debian and Ubuntu: apt-get install {}"


def problems(modules, new_environment):
    """One sentence for each thing that is missing, remedy included; ``new_environment``: a venv has to be made."""
    found = []
    version = ".".join(str(part) for part in sys.version_info[:2])
    if sys.version_info[:2] < _OLDEST:
        return [f"Python {version} is too old, 3.10 or newer is needed: make ... PYTHON=/path/to/python3.10"]
    if new_environment and not (_has("venv") and _has("ensurepip")):
        found.append(
            "this Python cannot make virtual environments; "
            + _DEBIAN_REMEDY.format("python3-venv")
            + ", or use an environment that has torch already: make ... PYTHON=/path/to/python INSTALL=0"
        )
    if not os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        found.append("Python.h is missing; " + _DEBIAN_REMEDY.format("python3-dev"))
    if shutil.which(os.environ.get("CXX", "g++").split()[0]) is None:
        found.append("no C++ compiler; " + _DEBIAN_REMEDY.format("g++") + ", or set CXX")
    missing = [name for name in modules if not _has(name)]
    if missing:
        found.append(
            f"{', '.join(missing)} cannot be imported: install {'it' if len(missing) == 1 else 'them'}, "
            "or let make do it (without INSTALL=0)"
        )
    return found


def _has(module):
    return importlib.util.find_spec(module) is not None


def main():
    arguments = sys.argv[1:]
    found = problems([name for name in arguments if name != "--new-environment"], "--new-environment" in arguments)
    for sentence in found:
        sys.stderr.write(f"{sys.executable}: {sentence}\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
