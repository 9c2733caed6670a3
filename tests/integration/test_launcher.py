"""`wanhook run -- COMMAND`: what the command does and how it ends is as without it; the report goes to stderr."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launching import arguments, launch, python
from programs import environment
from wanhook.tracefile.model import load

_RECORDED = "import wanhook, torch\nwith wanhook.trace('stage'):\n  torch.zeros(9)\n"
_NOTHING = (
    "wanhook: nothing was recorded: the command ran none of Wan's stages and opened no scope of its own; "
    "`wanhook doctor` says what would be recorded\n"
)


@pytest.mark.parametrize(
    ("program", "status"),
    [("pass", 0), ("raise SystemExit(3)", 3), ("raise ValueError('its own')", 1), ("import os; os._exit(255)", 255)],
)
def test_exit_status_is_the_commands(tmp_path, program, status):
    assert launch(tmp_path, *python(program)).returncode == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGABRT, signal.SIGHUP])
def test_command_that_a_signal_ends_ends_us_by_the_same(tmp_path, number):
    program = f"import os, signal; signal.signal({number}, signal.SIG_DFL); os.kill(os.getpid(), {number})"
    program = program if number != signal.SIGKILL else f"import os; os.kill(os.getpid(), {number})"
    assert launch(tmp_path, *python(program)).returncode == -number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_are_passed_on(tmp_path, number):
    program = (
        "import signal, sys\n"
        f"signal.signal({number}, lambda *_: sys.exit(17))\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        arguments(*python(program)), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as launcher:
        assert launcher.stdout.readline() == b"ready\n"
        launcher.send_signal(number)
        assert launcher.wait(30) == 17


def test_interrupt_from_the_terminal_arrives_once(tmp_path):
    """The kernel sends it to the whole foreground group: passed on, it would arrive twice."""
    program = (
        "import signal, sys, time\n"
        "seen = []\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "print('ready', flush=True)\n"
        "while not seen: time.sleep(0.01)\n"
        "time.sleep(0.5)\n"
        "print('interrupts', len(seen), flush=True)\n"
    )
    master, terminal = os.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", *arguments(*python(program))], cwd=tmp_path, env=environment(), stdin=terminal,
        stdout=terminal, stderr=terminal,
    ) as launcher:  # fmt: skip
        os.close(terminal)
        text = b""
        while b"ready" not in text:
            text += os.read(master, 1000)
        os.write(master, b"\x03")
        while b"interrupts" not in text:
            text += os.read(master, 1000)
        assert launcher.wait(30) == 0
    assert b"interrupts 1" in text + os.read(master, 1000)
    os.close(master)


def test_stdin_stdout_and_stderr_are_the_commands(tmp_path):
    program = "import sys; print(sys.stdin.read().upper()); print('an error', file=sys.stderr)"
    ended = subprocess.run(
        arguments(*python(program)), cwd=tmp_path, env=environment(), input="given", capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (ended.stdout, ended.stderr) == ("GIVEN\n", "an error\n" + _NOTHING)


def test_nothing_recorded_leaves_nothing(tmp_path):
    ended = launch(tmp_path, *python("pass"))
    assert ended.stderr == _NOTHING
    assert list(tmp_path.iterdir()) == []
    assert launch(tmp_path, *python("pass"), options=("--out", "a/b/c")).stderr == _NOTHING
    assert list(tmp_path.iterdir()) == []


def test_directory_that_was_there_stays(tmp_path):
    (tmp_path / "runs").mkdir()
    launch(tmp_path, *python("pass"), options=("--out", "runs"))
    assert (tmp_path / "runs").is_dir()


def test_command_that_is_not_there(tmp_path):
    ended = launch(tmp_path, "wanhook-no-such-command")
    assert ended.returncode == 127
    assert ended.stderr == "wanhook: cannot run wanhook-no-such-command: No such file or directory\n"
    (tmp_path / "text").write_text("no program")
    assert launch(tmp_path, "./text").returncode == 126
    assert [file.name for file in tmp_path.iterdir()] == ["text"]


def test_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    ended = launch(tmp_path, *python("print('ran')"), options=("--out", "file/run"))
    assert (ended.returncode, ended.stdout) == (126, "")
    assert "cannot make the run directory" in ended.stderr
    assert "--out" in ended.stderr


def test_usage(tmp_path):
    assert launch(tmp_path).returncode == 2
    assert launch(tmp_path, *python("pass"), options=("--level", "deep")).returncode == 2


@pytest.mark.parametrize("cap", ["-3", "0", "3", "64MB", "6.5", ""])
def test_a_cap_that_cannot_be_used_is_refused_before_anything_runs(tmp_path, cap):
    ended = launch(tmp_path, *python("print('ran')"), options=(f"--max-mb={cap}",))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"{cap!r} is not a whole number from 4 to" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_autoload_that_is_switched_off_is_said(tmp_path):
    said = launch(tmp_path, *python("pass"), TORCH_DEVICE_BACKEND_AUTOLOAD="0").stderr
    assert said.startswith("wanhook: nothing will be recorded: TORCH_DEVICE_BACKEND_AUTOLOAD=0")


def test_package_that_is_not_installed_is_said_with_the_remedy(tmp_path):
    (tmp_path / "wanhook").symlink_to(Path(__file__).resolve().parents[2] / "wanhook")
    ended = subprocess.run(
        [sys.executable, "-E", "-c", "import sys; from wanhook.__main__ import main; sys.exit(main(sys.argv[1:]))",
         "run", "--", *python("pass")], cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "not installed" not in ended.stderr:
        pytest.skip("this interpreter has wanhook installed")
    assert ended.returncode == 0
    assert f"Remedy: {sys.executable} -m pip install --no-build-isolation" in ended.stderr


def test_recorded_command_is_reported_on_stderr(tmp_path):
    ended = launch(tmp_path, *python(_RECORDED + "print('its own line')"), options=("--out", "run", "--level", "stage"))
    assert (ended.returncode, ended.stdout) == (0, "its own line\n")
    assert "SCOPES" in ended.stderr
    assert "level stage" in ended.stderr
    assert ended.stderr.rstrip().endswith(f"python -m wanhook.report {tmp_path / 'run'} prints this report again")


def test_report_can_be_left_out(tmp_path):
    ended = launch(tmp_path, *python(_RECORDED), options=("--no-report",))
    assert (ended.stdout, ended.stderr) == ("", "")
    (directory,) = (tmp_path / "wanhook-runs").iterdir()
    assert len(load(directory)) == 1


def test_directory_comes_from_the_environment_too(tmp_path):
    launch(tmp_path, *python(_RECORDED), WANHOOK_OUT="elsewhere")
    assert len(load(tmp_path / "elsewhere")) == 1


def test_killed_command_still_gets_its_report(tmp_path):
    program = "import wanhook, os\nwith wanhook.trace('stage'):\n  os.kill(os.getpid(), 9)\n"
    ended = launch(tmp_path, *python(program), options=("--out", "run"))
    assert ended.returncode == -signal.SIGKILL
    assert "The process died" in ended.stderr
    assert "stage" in ended.stderr


_SLOW_REPORT = """
import sys, time
import wanhook.report.build
from wanhook.run import main

def slow(run):
    print('reporting', flush=True)
    time.sleep(60)

wanhook.report.build.build = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("end", "status"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 15)", -15), ("", 0)]
)
def test_a_signal_ends_the_report_and_leaves_the_exit_status(tmp_path, number, end, status):
    command = [sys.executable, "-c", _SLOW_REPORT, "--out", "run", "--", *python(_RECORDED + end)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as launcher:
        assert launcher.stdout.readline() == "reporting\n"
        launcher.send_signal(number)
        _, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == status
    said = f"wanhook: {number.name} ended the report; python -m wanhook.report {tmp_path / 'run'} prints it\n"
    assert errors.endswith(said)
    assert "Traceback" not in errors
    assert len(load(tmp_path / "run")) == 1


def test_a_signal_for_the_command_alone_does_not_end_the_report(tmp_path):
    command = [sys.executable, "-c", _SLOW_REPORT.replace("60", "1"), "--out", "run", "--", *python(_RECORDED)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as launcher:
        assert launcher.stdout.readline() == "reporting\n"
        launcher.send_signal(signal.SIGUSR1)
        _, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == 0
    assert "cannot be reported on: AttributeError" in errors  # the made-up report came to its end


def test_exit_status_is_kept_where_nobody_reads_stderr(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        arguments(*python(_RECORDED + "raise SystemExit(7)"), options=("--out", "run")), cwd=tmp_path,
        env=environment(), stderr=writer, timeout=120, check=False,
    )  # fmt: skip
    os.close(writer)
    assert ended.returncode == 7


_WAITING_RANK = "import os, time\n" + _RECORDED + "open('ready-' + os.environ['RANK'], 'w').close()\ntime.sleep(60)\n"


def interrupted_torchrun(directory: Path, launched: bool) -> tuple[int, str]:
    """Exit status and stderr of two ranks whose torchrun, or its launcher, is interrupted."""
    directory.mkdir()
    (directory / "rank.py").write_text(_WAITING_RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "rank.py"]
    command = arguments(*command, options=("--out", "run")) if launched else command
    changes = {} if launched else {"WANHOOK": "0"}
    with subprocess.Popen(
        command, cwd=directory, env=environment(**changes), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while len(list(directory.glob("ready-*"))) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert len(list(directory.glob("ready-*"))) == 2, errors
    return process.returncode, errors


def test_interrupt_under_torchrun_ends_as_without_us(tmp_path):
    bare, _ = interrupted_torchrun(tmp_path / "bare", launched=False)
    status, errors = interrupted_torchrun(tmp_path / "launched", launched=True)
    assert status == bare != 0
    assert "SCOPES" in errors
    assert sorted(trace.rank for trace in load(tmp_path / "launched" / "run")) == [0, 1]


def test_stages_that_follow_each_other_are_one_recording(tmp_path):
    launch(tmp_path, *python(_RECORDED + "with wanhook.trace('second'):\n  pass\n"), options=("--out", "run"))
    (trace,) = load(tmp_path / "run").traces
    assert [trace.paths[scope["path"]] for scope in trace.scopes] == ["stage", "second"]
    assert trace.meta["run"]["started_by"] == "env"


def test_terminated_launcher_takes_the_command_along(tmp_path):
    program = _RECORDED + "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"
    with subprocess.Popen(
        arguments(*python(program), options=("--out", "run")), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as launcher:  # fmt: skip
        assert launcher.stdout.readline() == "ready\n"
        launcher.terminate()
        _, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == -signal.SIGTERM
    assert "SCOPES" in errors


def test_program_that_records_itself_still_does(tmp_path):
    """What begins by itself gives way: the program would fail under the launcher only."""
    program = _RECORDED + "wanhook.start('own')\nwith wanhook.trace('mine'):\n  pass\nwanhook.stop()\n"
    ended = launch(tmp_path, *python(program), options=("--out", "run", "--no-report"))
    assert (ended.returncode, ended.stderr) == (0, "")
    named = {}
    for directory in ("run", "own"):
        (trace,) = load(tmp_path / directory).traces
        named[directory] = [trace.paths[scope["path"]] for scope in trace.scopes]
    assert named == {"run": ["stage"], "own": ["mine"]}
