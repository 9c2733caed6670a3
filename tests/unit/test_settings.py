"""Settings from the environment."""

from pathlib import Path

import pytest

from wanhook import settings
from wanhook.settings import Settings, from_environment


@pytest.fixture(autouse=True)
def nothing_said_before(monkeypatch):
    monkeypatch.setattr(settings, "_said", set(), raising=False)


def test_defaults():
    assert from_environment({}) == Settings(enabled=True, out=None, level="op", max_mb=2048, warn_at=None)
    empty = dict.fromkeys(["WANHOOK_OUT", "WANHOOK_LEVEL", "WANHOOK_MAX_MB", "WANHOOK_WARN_AT"], "")
    assert from_environment(empty) == Settings()


def test_every_variable():
    environ = {
        "WANHOOK": "1",
        "WANHOOK_OUT": "runs/a",
        "WANHOOK_LEVEL": "block",
        "WANHOOK_MAX_MB": "64",
        "WANHOOK_ON_FULL": "stop",
        "WANHOOK_INTEGRATIONS": "wan",
        "WANHOOK_WARN_AT": "0.9",
        "WANHOOK_VERIFY": "step",
    }
    assert from_environment(environ) == Settings(
        enabled=True,
        automatic=True,
        out=Path("runs/a"),
        level="block",
        max_mb=64,
        on_full="stop",
        integrations=("wan",),
        warn_at=0.9,
        verified="step",
    )


@pytest.mark.parametrize(
    ("value", "scope"),
    [(word, "") for word in ("", "0", "off", "Off", "false", "no")]
    + [(word, "denoise_step") for word in ("1", "on", "ON", "true", "yes")]
    + [("forward", "forward"), ("Forward", "Forward"), ("2", "2")],
)
def test_scope_that_is_verified(value, scope):
    assert from_environment({"WANHOOK_VERIFY": value}).verified == scope


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
    [
        ("", ("fsdp", "wan")),
        ("none", ()),
        ("wan", ("wan",)),
        ("wan, fsdp", ("wan", "fsdp")),
        ("wan,wan,", ("wan",)),
        (" none", ()),
    ],
)
def test_integrations(value, expected, capsys):
    assert from_environment({"WANHOOK_INTEGRATIONS": value}).integrations == expected
    assert capsys.readouterr().err == ""


def test_unknown_integration_is_reported_and_left_out(capsys):
    assert from_environment({"WANHOOK_INTEGRATIONS": "wan,flux"}).integrations == ("wan",)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "'wan,flux' names flux; allowed are none, or fsdp and wan separated by commas; using wan\n" in said


@pytest.mark.parametrize(
    ("value", "named"),
    [("wann", "wann"), ("Wan", "Wan"), ("1", "1"), ("a,b", "a, b"), (",", "nothing"), (" ", "nothing")],
)
def test_integrations_of_which_none_is_known_are_the_default(value, named, capsys):
    assert from_environment({"WANHOOK_INTEGRATIONS": value}).integrations == settings.INTEGRATIONS
    said = capsys.readouterr().err
    assert said.startswith(f"wanhook: WANHOOK_INTEGRATIONS={value!r} names {named}; allowed are none, or fsdp and wan")
    assert said.endswith("; using fsdp,wan\n")


def test_none_beside_an_integration_is_reported(capsys):
    assert from_environment({"WANHOOK_INTEGRATIONS": "none,wan"}).integrations == ("wan",)
    assert "names none; allowed are none, or fsdp and wan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "meant"),
    [("WANHOOK_LEVELS", "WANHOOK_LEVEL"), ("WANHOOK_MAXMB", "WANHOOK_MAX_MB"), ("WANHOOK_KERNEL", "WANHOOK_KERNELS")],
)
def test_a_variable_that_means_nothing_is_named_with_the_nearest(name, meant, capsys):
    settings.complain_of_unknown({name: "op", "WANHOOK": "1", "PATH": "/bin"})
    assert capsys.readouterr().err == f"wanhook: {name} is no setting and changes nothing; did you mean {meant}?\n"


def test_a_variable_that_is_like_none_gets_the_list(capsys):
    settings.complain_of_unknown({"WANHOOK_XYZZY": "1"})
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(name in said for name in settings.VARIABLES)


def test_known_variables_are_not_complained_of(capsys):
    settings.complain_of_unknown(
        dict.fromkeys([*settings.VARIABLES, "WANHOOK_CUDA_HOME", "WANHOOKS", "wanhook_x"], "?")
    )
    assert capsys.readouterr().err == ""


def test_reading_complains_of_nothing(capsys):
    chosen, problems = settings.read({"WANHOOK_LEVEL": "deep", "WANHOOK_MAX_MB": "x", "WANHOOK_LEVELS": "op"})
    assert chosen == Settings()
    assert [problem.split("=")[0] for problem in problems] == ["WANHOOK_LEVEL", "WANHOOK_MAX_MB"]
    assert capsys.readouterr().err == ""


def rows_of(page):
    """Variable -> its row, of the page's table of settings."""
    lines = (Path(__file__).resolve().parents[2] / page).read_text().splitlines()
    return {line.split("`")[1]: line for line in lines if line.startswith("| `WANHOOK")}


def test_both_tables_of_settings_hold_every_variable():
    readme, integrations = rows_of("README.md"), rows_of("docs/integrations.md")
    assert tuple(readme) == settings.VARIABLES
    assert integrations == readme


@pytest.mark.parametrize("value", ["Op", "deep", " op", "stage,block"])
def test_unknown_level_is_reported(value, capsys):
    assert from_environment({"WANHOOK_LEVEL": value}).level == "op"
    assert capsys.readouterr().err == f"wanhook: WANHOOK_LEVEL={value!r} is not one of stage, block, op; using op\n"


@pytest.mark.parametrize("value", ["lots", "-5", "3", "0", "1e3", "64MB", "6.5", "²", "٣٤٥٦", "9" * 5000])
def test_unusable_cap_is_reported(value, capsys):
    assert from_environment({"WANHOOK_MAX_MB": value}).max_mb == settings.DEFAULT_MAX_MB
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"wanhook: WANHOOK_MAX_MB={value!r} is not a whole number")
    assert said.endswith("using 2048\n")


def test_cap_beyond_all_memory_is_reported(capsys):
    assert from_environment({"WANHOOK_MAX_MB": str(2**60)}).max_mb == settings.DEFAULT_MAX_MB
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("value", "share"), [("0.85", 0.85), (".5", 0.5), ("1", 1.0), ("1.0", 1.0)])
def test_watermark(value, share):
    assert from_environment({"WANHOOK_WARN_AT": value}).warn_at == share


@pytest.mark.parametrize(
    "value", ["85%", "85", "0", "0.0", "-0.5", "1.01", "nan", "inf", "1e-1", " 0.5", "½", ".", "on"]
)
def test_unusable_watermark_is_reported(value, capsys):
    assert from_environment({"WANHOOK_WARN_AT": value}).warn_at is None
    assert capsys.readouterr().err == (
        f"wanhook: WANHOOK_WARN_AT={value!r} is not a share above 0 and up to 1, such as 0.85; using no watermark\n"
    )


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


def test_kernels_and_their_window():
    found = from_environment({"WANHOOK_KERNELS": "nccl", "WANHOOK_KERNELS_WINDOW": "a:b:12"})
    assert (found.kernels, found.kernels_window) == ("nccl", ("a:b", 12))
    assert from_environment({}).kernels_window == ("denoise_step", 2)


def test_unknown_kernels_are_reported(capsys):
    assert from_environment({"WANHOOK_KERNELS": "all"}).kernels == "off"
    assert capsys.readouterr().err == "wanhook: WANHOOK_KERNELS='all' is not one of off, nccl; using off\n"


@pytest.mark.parametrize("value", ["step", "step:", "step:0", ":3", "step:-1", "step:²", "step:99999999", "step: 3"])
def test_unusable_window_is_reported(value, capsys):
    assert from_environment({"WANHOOK_KERNELS_WINDOW": value}).kernels_window == settings.DEFAULT_WINDOW
    said = capsys.readouterr().err
    assert said.startswith(f"wanhook: WANHOOK_KERNELS_WINDOW={value!r} is not NAME:N")
    assert said.endswith("using denoise_step:2\n")
