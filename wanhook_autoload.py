"""What torch calls at the end of `import torch`, as an entry point of the group `torch.backends`.

Everybody who has wanhook installed runs this, most of them without ever having asked for a recording: so it imports the
standard library alone, looks at one variable, and nothing that goes wrong behind it reaches torch. An exception here
would fail `import torch`.
"""

import os


def attach() -> None:
    """Under WANHOOK=1, makes Wan's stages record themselves; otherwise nothing."""
    if os.environ.get("WANHOOK", "0") in ("", "0"):
        return
    try:
        from wanhook import autostart

        autostart.attach()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _say(error)


def _say(error: BaseException) -> None:
    try:
        import sys

        reason = " ".join(f"{type(error).__name__}: {error}".split())
        sys.stderr.write(f"wanhook: this process is not recorded: {reason}\n")
    except Exception:
        pass
