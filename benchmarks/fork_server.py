"""The server of `forked.py`, which forks; what makes a fork a process like one that Python has just started.

python -m benchmarks.fork_server ADDRESS, from the root of the project
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
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from itertools import dropwhile
from pathlib import Path
from typing import Any

import numpy
import torch

from . import forked
from .forked import DIGITS, OPTIONS, Popen, Server, read_at_start


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
            with connection, contextlib.suppress(OSError):  # who has started it may be gone
                connection.send(b"%*d" % (DIGITS, status))
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
            with contextlib.suppress(OSError):
                connection.send(b"%*d" % (DIGITS, number))
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
        program = [*dropwhile(OPTIONS.__contains__, words)]
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
    del sys.path[0]  # the root of the project, which a fork finds where Python would
    os.chdir("/")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for its forks
    # Before libraries take it.
    subprocess.Popen = Popen  # type: ignore[misc]
    import_commands()
    gc.freeze()
    forked.running = Server(address, read_at_start(os.environ))
    _serve(address)


if __name__ == "__main__":
    _main(sys.argv[1])
