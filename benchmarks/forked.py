"""Processes of this interpreter that are forked from one that has imported the libraries, which takes 5 s of a core.

`Popen` and `run` are those of `subprocess`, for `python -m MODULE ...`, `python -c CODE ...` and `python FILE ...`. The
first starts a server, a process that imports and waits; each command is a fork of it with its own arguments,
environment, folder, files and signals, and ends as Python ends. In a fork, `subprocess.Popen` is this `Popen`. All
else is started as always: other programs, other values of what Python and libraries read at their start, and everything
where the system has no process descriptors (only Linux has).

A test that is about the start of a process uses `subprocess` itself.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import torch

# What begins so is read at the start or on import, but for what each fork follows.
_READ_AT_START = ("HF_", "LD_", "MALLOC_", "MKL_", "OMP_", "PYTHON", "TRANSFORMERS_")
_FOLLOWED = ("PYTHONPATH", "PYTHONUNBUFFERED")
# Options that each fork follows: standard output without a buffer, and no modules from the program's folder.
_OPTIONS = ("-u", "-P")
# Numbers of processes, and how they ended, are sent in this many digits.
_DIGITS = 12


def import_commands() -> None:
    """Import what the commands import."""
    from attention_guidance.commands.finetuning import downstream, finetune  # noqa: F401
    from attention_guidance.commands.finetuning.prediction import predict  # noqa: F401
    from attention_guidance.commands.pretraining import compare, pretrain  # noqa: F401
    from attention_guidance.commands.recipe import low_resource  # noqa: F401
    from attention_guidance.commands.studies import census, look, probe, report, skill  # noqa: F401
    from attention_guidance.commands.studies.ablation import ablate  # noqa: F401
    from attention_guidance.commands.studies.texts import tokenizer  # noqa: F401


def take(files: Sequence[int], buffered: bool | None = None) -> None:
    """Make files the standard input, output and error of this process; signals do what they do when Python starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(name, signal.SIG_DFL)
    for number, file in enumerate(files):
        os.dup2(file, number)
    if buffered is None:
        buffered = not os.environ.get("PYTHONUNBUFFERED")
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")
    sys.stdout, sys.stderr = _written(1, "strict", buffered), _written(2, "backslashreplace", buffered)


def _written(number: int, errors: str, buffered: bool) -> io.TextIOWrapper:
    file: Any = io.FileIO(number, "w", closefd=False)
    if not buffered:
        return io.TextIOWrapper(file, "utf-8", errors, write_through=True)
    return io.TextIOWrapper(io.BufferedWriter(file), "utf-8", errors, line_buffering=number == 2 or os.isatty(number))


def exit_code(program: Callable[[], object], at_exit: Callable[[], None] = lambda: None) -> int:
    """Run a program and what is left at its end; the exit code that Python would give it."""
    code = 0
    try:
        program()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        code = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
    at_exit()
    with contextlib.suppress(OSError):
        try:
            sys.stdout.flush()
        except OSError as error:
            code = 120
            print(f"Exception ignored in: {sys.stdout!r}\nOSError: {error}", file=sys.stderr)
        sys.stderr.flush()
    return code


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
        self.pid = int(self._status.read(_DIGITS))
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._status is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc, no-any-return]
        if wait_flags == os.WNOHANG and not select.select([self._status], [], [], 0)[0]:
            return 0, 0
        with self._status:
            return self.pid, int(self._status.read(_DIGITS))

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
    program = [*dropwhile(_OPTIONS.__contains__, words[1:])]
    python = words[:1] == [sys.executable] and program and (program[0] in ("-m", "-c") or program[0][0] != "-")
    if not python or not hasattr(os, "pidfd_open"):
        return None
    server = _server()
    return server.address if _read_at_start(environment) == server.read_at_start else None


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    names = [name for name in environment if name.startswith(_READ_AT_START) and name not in _FOLLOWED]
    return {name: environment[name] for name in names}


@dataclass(frozen=True)
class _Server:
    address: str
    read_at_start: dict[str, str]


# Set by the first process that is forked, and in the server itself.
_running: _Server | None = None


def _server() -> _Server:
    global _running
    if _running is None:
        _running = _start(tempfile.TemporaryDirectory(prefix="forked-"))
    return _running


def _start(folder: tempfile.TemporaryDirectory[str]) -> _Server:
    """Start the server, and have it end with this process."""
    import attention_guidance

    address = str(Path(folder.name, "socket"))
    environment = os.environ | {"PYTHONPATH": str(Path(attention_guidance.__file__).parents[1])}
    command = [sys.executable, __file__, address]
    server = _StartedAnew(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd="/")
    assert server.stdin is not None
    assert server.stdout is not None
    if server.stdout.readline() != b"ready\n":
        raise RuntimeError(f"{' '.join(command)} ended with exit code {server.wait()}")

    def end() -> None:
        server.communicate()
        folder.cleanup()

    atexit.register(end)
    return _Server(address, _read_at_start(environment))


def _serve(address: str) -> None:
    """Fork for each request, until standard input is closed."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    os.write(1, b"ready\n")
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        waits: list[Any] = [0, listener, *running]
        ready = select.select(waits, [], [])[0]
        if 0 in ready:
            return
        for process in {*running} & {*ready}:
            number, connection = running.pop(process)
            status = os.waitpid(number, 0)[1]
            with connection, contextlib.suppress(OSError):  # nobody waits for it
                connection.send(b"%*d" % (_DIGITS, status))
            os.close(process)
        if listener in ready:
            connection = listener.accept()[0]
            files = socket.recv_fds(connection, 1, 3)[1]
            with connection.makefile("rb") as stream:
                request = json.load(stream)
            number = os.fork()
            if number == 0:
                for other in (listener, connection, *(waiting for _, waiting in running.values())):
                    other.close()
                for file in running:
                    os.close(file)
                _become(files, **request)
            connection.send(b"%*d" % (_DIGITS, number))
            running[os.pidfd_open(number)] = number, connection
            for file in files:
                os.close(file)


def _become(files: Sequence[int], words: list[str], environment: dict[str, str], folder: str, session: bool) -> None:
    """Make a fork what a process is that Python has just started, run it, and end."""
    code = 1
    try:
        if session:
            os.setsid()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        program = [*dropwhile(_OPTIONS.__contains__, words)]
        options = words[: -len(program)]
        take(files, buffered=False if "-u" in options else None)
        for file in files:
            os.close(file)
        numpy.random.seed()
        torch.seed()
        code = exit_code(lambda: _python(program, safe_path="-P" in options), at_exit=_at_exit)
    finally:
        os._exit(code)


def _python(words: list[str], safe_path: bool) -> None:
    """Run a module, code or a file as `python` does with these words."""
    first = {"-m": str(Path.cwd()), "-c": ""}.get(words[0], str(Path(words[0]).resolve().parent))
    given = [os.path.abspath(name) for name in os.environ.get("PYTHONPATH", "").split(os.pathsep) if name]  # noqa: PTH100
    sys.path[:0] = given if safe_path else [first, *given]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), module.__dict__)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def _at_exit() -> None:
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


def _main(address: str) -> None:
    global _running
    del sys.path[0]  # this folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for its forks
    # Before libraries take it.
    subprocess.Popen = Popen  # type: ignore[misc]
    import_commands()
    gc.freeze()
    _running = _Server(address, _read_at_start(os.environ))
    _serve(address)


if __name__ == "__main__":
    _main(sys.argv[1])
