"""Processes of this interpreter that are forked from one that has imported the libraries, which takes 5 s of a core.

`Popen` and `run` are those of `subprocess`, for `python -m MODULE ...`, `python -c CODE ...` and `python FILE ...`. The
first starts a server (`fork_server.py`), a process that imports and waits; each command is a fork of it with its own
arguments, environment, folder, files and signals, and ends as Python ends. In a fork, `subprocess.Popen` is this
`Popen`. All else is started as always: other programs, other values of what Python and libraries read at their start,
and everything where the system has no process descriptors (only Linux has).

A test that is about the start of a process uses `subprocess` itself.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any
from unittest import mock

# What begins so is read at the start or on import, but for what each fork follows.
_READ_AT_START = ("HF_", "LD_", "MALLOC_", "MKL_", "OMP_", "PYTHON", "TRANSFORMERS_", "TRITON_")
_FOLLOWED = ("PYTHONPATH", "PYTHONUNBUFFERED")
# Options that each fork follows: standard output without a buffer, and no modules from the program's folder.
OPTIONS = ("-u", "-P")
# Numbers of processes, and how they ended, are sent in this many digits.
DIGITS = 12


_StartedAnew = subprocess.Popen


class Popen(subprocess.Popen[Any]):
    """A process, forked where it can be."""

    _status: io.FileIO | None = None

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any,
                       env: Any, startupinfo: Any, creationflags: Any, shell: Any, *rest: Any) -> None:  # fmt: skip
        pipes, (*others, session, group) = rest[:6], rest[6:]
        environment = dict(os.environ if env is None else env)
        special = (executable, preexec_fn, pass_fds, shell, others != [True, None, None, None, -1], group != -1)
        server = None if any(special) else _server_for(args, environment)
        if server is None:
            given = (args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell)
            super()._execute_child(*given, *rest)  # type: ignore[misc]
            return
        request = {
            "words": [os.fspath(word) for word in args[1:]], "environment": environment,
            "folder": os.path.abspath(cwd or ""), "session": session,  # noqa: PTH100
        }  # fmt: skip
        files = [own if pipes[of] == -1 else pipes[of] for own, of in enumerate((0, 3, 5))]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(server)
            socket.send_fds(connection, [b"!"], files)
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            self._status = io.FileIO(connection.detach())
        self.pid = int(self._status.read(DIGITS))
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._status is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc, no-any-return]
        if wait_flags == os.WNOHANG and not select.select([self._status], [], [], 0)[0]:
            return 0, 0
        with self._status:
            return self.pid, int(self._status.read(DIGITS))

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        if self._status is None:
            return super()._internal_poll(_deadstate)  # type: ignore[misc, no-any-return]
        if self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid:
                        self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def run(*command: Any, **given: Any) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run`, forked where it can be."""
    with mock.patch("subprocess.Popen", Popen):
        return subprocess.run(*command, **given)


def _server_for(command: Any, environment: Mapping[str, str]) -> str | None:
    """The address of the server that can fork a command; None where none can."""
    words = [] if isinstance(command, str | bytes | os.PathLike) else [os.fspath(word) for word in command]
    program = [*dropwhile(OPTIONS.__contains__, words[1:])]
    python = words[:1] == [sys.executable] and program and (program[0] in ("-m", "-c") or program[0][0] != "-")
    if not python or not hasattr(os, "pidfd_open"):
        return None
    server = _server()
    return server.address if read_at_start(environment) == server.read_at_start else None


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a fork cannot follow."""
    names = [name for name in environment if name.startswith(_READ_AT_START) and name not in _FOLLOWED]
    return {name: environment[name] for name in names}


@dataclass(frozen=True)
class Server:
    """A server that runs: the path of its socket, and the variables that it has read."""

    address: str
    read_at_start: dict[str, str]


# Set by the first process that is forked, and in the server itself.
running: Server | None = None


def _server() -> Server:
    global running
    if running is None:
        running = _start(tempfile.TemporaryDirectory(prefix="forked-"))
    return running


def _start(folder: tempfile.TemporaryDirectory[str]) -> Server:
    """Start the server, and have it end with this process."""
    import attention_guidance

    address = str(Path(folder.name, "socket"))
    environment = os.environ | {"PYTHONPATH": str(Path(attention_guidance.__file__).parents[1])}
    command = [sys.executable, "-m", "benchmarks.fork_server", address]
    root = Path(__file__).parents[1]
    server = _StartedAnew(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=root)
    assert server.stdin is not None
    assert server.stdout is not None
    if server.stdout.readline() != b"ready\n":
        raise RuntimeError(f"{' '.join(command)} ended with exit code {server.wait()}")

    def end() -> None:
        server.communicate()
        folder.cleanup()

    atexit.register(end)
    return Server(address, read_at_start(environment))
