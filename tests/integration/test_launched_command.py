"""What the command of `wanhook run` gets is what it would get without: files, signals, and its end; and none of the
launcher's own words."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from launching import arguments, launch, python
from programs import environment

_KILLED = python("import os; os.kill(os.getpid(), 15)")


def in_shell(directory, redirection: str, *command: str) -> subprocess.CompletedProcess:
    """The launcher with redirections of its own files; what comes out of stdout and stderr otherwise."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *arguments(*command)], cwd=directory, env=environment(),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("redirection", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_where_stderr_is_closed_nothing_is_said_elsewhere(tmp_path, redirection):
    ended = in_shell(tmp_path, redirection, *python("pass"))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_files_do_not_change_how_it_ends(tmp_path, redirection):
    assert in_shell(tmp_path, redirection, *_KILLED).returncode == -signal.SIGTERM
    assert in_shell(tmp_path, redirection, "wanhook-no-such-command").returncode == 127


def test_inference_record_is_left_where_nobody_reads_stderr(tmp_path):
    program = python("import wanhook\nwith wanhook.trace('request', sampling_steps=1): pass")
    assert in_shell(tmp_path, "2>&-", *program).returncode == 0
    assert len(list(tmp_path.glob("wanhook-runs/*/inference_record*.json"))) == 1


@pytest.mark.parametrize("out", ["x" * 300, "a/" + "y" * 300])
def test_directory_whose_name_is_too_long(tmp_path, out):
    ended = launch(tmp_path, *python("print('ran')"), options=("--out", out))
    assert (ended.returncode, ended.stdout) == (126, "")
    assert ended.stderr.startswith("wanhook: cannot make the run directory ")
    assert ended.stderr.endswith(": File name too long. Pass another one with --out.\n")
    assert list(tmp_path.iterdir()) == []


def test_current_directory_is_gone(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    shell = ["sh", "-c", f'rmdir {gone}; exec "$@"', "sh"]
    run = {"cwd": gone, "env": environment(), "capture_output": True, "text": True, "timeout": 60, "check": False}
    ended = subprocess.run([*shell, *arguments("echo", "ran")], **run)
    assert (ended.returncode, ended.stdout) == (126, "")
    assert "No such file or directory. Pass another one with --out." in ended.stderr
    gone.mkdir()
    ended = subprocess.run([*shell, *arguments("echo", "ran", options=("--out", str(tmp_path / "run")))], **run)
    assert (ended.returncode, ended.stdout) == (0, "ran\n")


def test_files_that_were_opened_for_it_are_open(tmp_path):
    (tmp_path / "given").write_text("for the command\n")
    ended = in_shell(tmp_path, "3<given", "sh", "-c", "cat <&3")
    assert (ended.returncode, ended.stdout) == (0, "for the command\n")


def test_signals_that_were_ignored_for_it_are_ignored(tmp_path):
    program = "import signal; print(*(signal.getsignal(n) == signal.SIG_IGN for n in (signal.SIGCHLD, signal.SIGHUP)))"

    def ignore():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    ended = subprocess.run(
        arguments(*python(program)), cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60,
        check=False, preexec_fn=ignore,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "True True\n")


def test_script_without_interpreter_line_runs_as_in_a_shell(tmp_path):
    script = tmp_path / "launched-script"
    script.write_text('echo "$0 $1"\n')
    script.chmod(0o755)
    assert launch(tmp_path, "./launched-script", "argument").stdout == "./launched-script argument\n"
    by_name = launch(tmp_path, "launched-script", "argument", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert (by_name.returncode, by_name.stdout) == (0, f"{script} argument\n")


def test_report_that_nobody_takes_is_ended_by_a_signal(tmp_path):
    """stderr is a pipe that is full and stays so: only the signal can end it."""
    reader, writer = os.pipe()
    program = python(
        "import wanhook\nwith wanhook.trace('stage'): pass\nprint('ready', flush=True)\nraise SystemExit(7)"
    )
    with subprocess.Popen(
        arguments(*program, options=("--out", "run", "--max-mb", "4")), cwd=tmp_path, env=environment(),
        stdout=subprocess.PIPE, stderr=writer,
    ) as launcher:  # fmt: skip
        assert launcher.stdout.readline() == b"ready\n"
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)  # of the launcher's end too, which is the same file
        ended = None
        for _ in range(20):
            launcher.send_signal(signal.SIGHUP)
            with contextlib.suppress(subprocess.TimeoutExpired):
                ended = launcher.wait(0.5)
                break
        if ended is None:
            launcher.kill()
    os.close(reader)
    os.close(writer)
    assert ended in (7, -signal.SIGHUP)  # it may have reached the command


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="by a mechanism of Linux")
def test_killed_launcher_takes_the_command_along(tmp_path):
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen(
        arguments(*python(program)), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as launcher:
        command = int(launcher.stdout.readline())
        launcher.kill()
        launcher.wait(30)
    deadline = time.monotonic() + 10
    while is_running(command) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(command)
