"""What the variables of the environment ask for: what is wrong with them, and what they leave out."""

from __future__ import annotations

import re
from collections.abc import Mapping

from wanhook import settings
from wanhook.doctor.line import WARN, Line

AREA = "settings"
_LOST = {"wan": "no stage of Wan will be recorded", "fsdp": "FSDP's waits and the role fsdp will be missing"}


def lines(environ: Mapping[str, str]) -> list[Line]:
    """Nothing where all is well."""
    chosen, problems = settings.read(environ)
    wrong = [Line(AREA, _variable(text), WARN, text) for text in (*problems, *settings.unknown(environ))]
    left_out = [name for name in settings.INTEGRATIONS if name not in chosen.integrations]
    return [*wrong, *(_left_out(name, environ["WANHOOK_INTEGRATIONS"]) for name in left_out)]


def _left_out(integration: str, value: str) -> Line:
    text = f"WANHOOK_INTEGRATIONS={value} leaves {integration} out: {_LOST[integration]}"
    return Line(AREA, "WANHOOK_INTEGRATIONS", WARN, text, f"unset it, or add {integration}")


def _variable(sentence: str) -> str:
    return re.match(r"\w*", sentence)[0]
