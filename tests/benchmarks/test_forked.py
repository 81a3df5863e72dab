"""benchmarks/forked.py: a fork is seen from outside as a process is that Python has just started."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import forked

SHOWN = """
import os, sys
print(sys.argv, sys.path[0], os.getcwd(), os.environ["GIVEN"], __name__, sys.stdin.read(), sys.stdout.encoding)
print(os.getsid(0) == os.getpid(), sorted(map(int, os.listdir("/proc/self/fd")))[:4], sys.stdout.line_buffering)
print("said", file=sys.stderr)
"""
ENDS = {
    "nothing": "",
    "a number": "import sys; sys.exit(7)",
    "words": "import sys; sys.exit('error: words')",
    "an exception": "raise ValueError('wrong')",
    "Ctrl-C": "raise KeyboardInterrupt",
    "killed": "import os; print('lost', end=''); os.kill(os.getpid(), 9)",
    "a signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "at once": "import os; os._exit(3)",
    "at exit": "import atexit; atexit.register(print, 'end')",
    "a thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('end'))).start()",
    "a full disk": "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); print('lost')",
    "a process": "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'exit(5)']).returncode)",
}
HAS_TORCH = "import sys; print('torch' in sys.modules)"

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="processes are started anew on this system")


def last_lines(done):
    return done.returncode, done.stdout, done.stderr.splitlines()[-1:]


def both(command, **given):
    """How a command ends as a fork and anew; the first is a fork for sure."""
    given = {"capture_output": True, "text": True} | given
    return [last_lines(run([sys.executable, *command], **given)) for run in (forked.run, subprocess.run)]


@pytest.mark.parametrize("how", ["code", "file", "module"])
@pytest.mark.parametrize("options", [[], ["-u"], ["-P"]])
def test_what_a_program_sees(tmp_path, how, options):
    (tmp_path / "shown.py").write_text(SHOWN)
    program = {"code": ["-c", SHOWN], "file": [str(tmp_path / "shown.py")], "module": ["-m", "shown"]}[how]
    environment = os.environ | {"GIVEN": "à", "PYTHONPATH": str(tmp_path)}
    for session in (True, False):
        fork, anew = both(
            [*options, *program, "-x", "y z"], cwd=tmp_path, env=environment, input="in", start_new_session=session
        )
        assert fork == anew
        assert fork[0] == 0, fork
        assert str(session) in fork[1]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("end", ENDS)
def test_how_a_program_ends(end, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    fork, anew = both(["-c", ENDS[end]])
    assert fork == anew


def test_each_draws_its_own_random_numbers():
    draw = "import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.rand(()).item())"
    fork, other = (forked.run([sys.executable, "-c", draw], capture_output=True, text=True) for _ in range(2))
    assert not {*fork.stdout.split()} & {*other.stdout.split()}


def test_it_is_forked_unless_it_cannot_be():
    command = [sys.executable, "-c", HAS_TORCH]
    given = {"capture_output": True, "text": True}
    assert forked.run(command, **given).stdout == "True\n"
    for variable in ("OMP_NUM_THREADS", "TRITON_INTERPRET"):
        assert forked.run(command, env=os.environ | {variable: "3"}, **given).stdout == "False\n"
    assert forked.run([sys.executable, "-S", "-c", HAS_TORCH], **given).stdout == "False\n"
    assert forked.run(["echo", "x"], **given).stdout == "x\n"


def test_while_it_runs():
    process = forked.Popen([sys.executable, "-c", "import os; print(os.getpid()); input()"], stdin=-1, stdout=-1)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.01)
    assert int(process.stdout.readline()) == process.pid
    assert process.communicate(b"\n", timeout=60) == (b"", None)
    assert process.poll() == 0
    process.kill()  # of one that has ended, nothing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals(number):
    with forked.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], stdout=-1) as process:
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=60) == -number


def test_one_that_nobody_waits_for():
    """The server goes on."""
    process = forked.Popen([sys.executable, "-c", "import time; time.sleep(0.2)"])
    process._status.close()
    process.returncode = 0
    time.sleep(0.4)
    assert forked.run([sys.executable, "-c", "exit(4)"]).returncode == 4


def test_at_a_terminal():
    ours, theirs = pty.openpty()
    code = "import sys; print(sys.stdin.isatty(), sys.stdout.isatty(), sys.stderr.line_buffering, input())"
    said = []
    for start in (forked.Popen, subprocess.Popen):
        with start([sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.write(ours, b"x\n")
            assert process.wait(timeout=60) == 0
        said.append(os.read(ours, 100))
    os.close(theirs)
    os.close(ours)
    assert said[0] == said[1]
    assert b"True True" in said[0]
