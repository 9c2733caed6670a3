"""Settings from the environment."""

from pathlib import Path

import pytest

from wanhook import settings
from wanhook.settings import Settings, from_environment


@pytest.fixture(autouse=True)
def nothing_said_before(monkeypatch):
    monkeypatch.setattr(settings, "_said", set(), raising=False)


def test_defaults():
    assert from_environment({}) == Settings(enabled=True, out=None, level="op", max_mb=2048)
    assert from_environment({"WANHOOK_OUT": "", "WANHOOK_LEVEL": "", "WANHOOK_MAX_MB": ""}) == Settings()


def test_every_variable():
    environ = {
        "WANHOOK": "1",
        "WANHOOK_OUT": "runs/a",
        "WANHOOK_LEVEL": "block",
        "WANHOOK_MAX_MB": "64",
        "WANHOOK_ON_FULL": "stop",
        "WANHOOK_INTEGRATIONS": "wan",
    }
    assert from_environment(environ) == Settings(
        enabled=True,
        automatic=True,
        out=Path("runs/a"),
        level="block",
        max_mb=64,
        on_full="stop",
        integrations=("wan",),
    )


@pytest.mark.parametrize(("value", "enabled", "automatic"), [("0", False, False), ("1", True, True), ("", True, False)])
def test_the_switch(value, enabled, automatic, capsys):
    chosen = from_environment({"WANHOOK": value})
    assert (chosen.enabled, chosen.automatic) == (enabled, automatic)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", ["yes", "00", " 1", "2", "true"])
def test_unknown_switch_is_reported(value, capsys):
    assert from_environment({"WANHOOK": value}) == Settings()
    assert capsys.readouterr().err == f"wanhook: WANHOOK={value!r} is not one of 0, 1; taken as unset\n"


def test_unknown_policy_is_reported(capsys):
    assert from_environment({"WANHOOK_ON_FULL": "wrap"}).on_full == "stop"
    assert capsys.readouterr().err == "wanhook: WANHOOK_ON_FULL='wrap' is not one of stop; using stop\n"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", ("fsdp", "wan")), ("none", ()), ("wan", ("wan",)), ("wan, fsdp", ("wan", "fsdp")), ("wan,wan,", ("wan",))],
)
def test_integrations(value, expected, capsys):
    assert from_environment({"WANHOOK_INTEGRATIONS": value}).integrations == expected
    assert capsys.readouterr().err == ""


def test_unknown_integration_is_reported_and_left_out(capsys):
    assert from_environment({"WANHOOK_INTEGRATIONS": "wan,flux"}).integrations == ("wan",)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "'wan,flux' names flux; allowed are none, fsdp, wan" in said


@pytest.mark.parametrize("value", ["Op", "deep", " op", "stage,block"])
def test_unknown_level_is_reported(value, capsys):
    assert from_environment({"WANHOOK_LEVEL": value}).level == "op"
    assert capsys.readouterr().err == f"wanhook: WANHOOK_LEVEL={value!r} is not one of stage, block, op; using op\n"


@pytest.mark.parametrize("value", ["lots", "-5", "3", "0", "1e3", "64MB", "6.5", "²"])
def test_unusable_cap_is_reported(value, capsys):
    assert from_environment({"WANHOOK_MAX_MB": value}).max_mb == settings.DEFAULT_MAX_MB
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"wanhook: WANHOOK_MAX_MB={value!r} is not a whole number")
    assert said.endswith("using 2048\n")


def test_cap_beyond_all_memory_is_reported(capsys):
    assert from_environment({"WANHOOK_MAX_MB": str(2**60)}).max_mb == settings.DEFAULT_MAX_MB
    assert capsys.readouterr().err.count("\n") == 1


def test_reported_once_a_process(capsys):
    for _ in range(3):
        from_environment({"WANHOOK_LEVEL": "asked three times"})
    assert capsys.readouterr().err.count("\n") == 1


def test_complaining_never_raises(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    settings.complain("nobody hears")

    class Closed:
        def write(self, text):
            raise ValueError("I/O operation on closed file")

    monkeypatch.setattr("sys.stderr", Closed())
    settings.complain("nobody hears")
