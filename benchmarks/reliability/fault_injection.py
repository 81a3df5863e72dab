"""Run a command in a forked process, and have a fault happen at one of its moments: what `faults.py` works with.

A moment is an operation inside the output folder that changes it: a file opened for writing, a folder made, a rename, a
removal, a sync. They are counted by an audit hook, so a command has the same moments each time it runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import resource
import select
import shutil
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_guidance.commands.cli import main

from ..fork_server import exit_code, take

SECONDS = 300
_CHANGES = {"os.rename": 2, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.truncate": 1}


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    Attributes:
        kind: A key of `KINDS`.
        at: Number of the moment, from 0.
        n_bytes: For a full disk, and a process killed in a write: bytes that still fit into a file.
    """

    kind: str
    at: int
    n_bytes: int = 0


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Exit code; negative for the signal that killed it, None if it hung.
        said: What it wrote to standard error.
        moments: The operations that were counted, as `os.rename a -> b`, with paths relative to the output folder.
    """

    code: int | None
    said: str
    moments: tuple[str, ...]


class _Moments:
    """Count the moments of this process, and let the fault happen."""

    def __init__(self, output: Path, fault: Fault | None, log: int) -> None:
        self.output, self.fault, self.log = f"{output}/", fault, log
        self.n, self.process, self.read_only, self.busy = 0, os.getpid(), False, False
        # Open until the fault `hangup` closes it.
        self.terminal: int | None = None
        self.reader: threading.Thread | None = None

    def read_terminal(self, terminal: int) -> None:
        """Show what is printed to a terminal to nobody until it is closed; unread, it would block the command."""

        def read() -> None:
            while self.terminal is not None:
                if select.select([terminal], [], [], 0.02)[0]:
                    os.read(terminal, 1 << 16)

        self.terminal, self.reader = terminal, threading.Thread(target=read, daemon=True)
        self.reader.start()

    def close_terminal(self) -> None:
        """Close the side of a terminal that is read."""
        assert self.terminal is not None
        assert self.reader is not None
        terminal, self.terminal = self.terminal, None
        self.reader.join()
        os.close(terminal)

    def watch(self) -> None:
        sync = os.fsync

        def watched_sync(file: Any) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()
            self.seen("os.fsync", [Path(f"/proc/self/fd/{descriptor}").readlink()])
            sync(file)

        os.fsync = watched_sync  # type: ignore[assignment]
        sys.addaudithook(self.audit)

    def audit(self, event: str, arguments: Sequence[Any]) -> None:
        if self.busy or os.getpid() != self.process:
            return
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and isinstance(path, str | bytes | os.PathLike):
                self.seen(event, [path])
        elif event in _CHANGES:
            n = _CHANGES[event]
            folder = arguments[-1] if event != "os.truncate" else -1
            within = [] if folder in (-1, None) else [Path(f"/proc/self/fd/{folder}").readlink()]
            self.seen(event, [os.path.join(*within, os.fsdecode(path)) for path in arguments[:n]])  # noqa: PTH118

    def seen(self, event: str, paths: Sequence[Any]) -> None:
        whole = [os.path.abspath(os.fsdecode(path)) for path in paths]  # noqa: PTH100
        if not whole[-1].startswith(self.output) and whole[-1] != self.output[:-1]:
            return
        self.busy = True
        try:
            names = " -> ".join(path.removeprefix(self.output) for path in whole)
            os.write(self.log, f"{event} {names}\n".encode("utf-8", "backslashreplace"))
            number, self.n = self.n, self.n + 1
            if self.fault is not None and number == self.fault.at:
                KINDS[self.fault.kind](self, self.fault)
        finally:
            self.busy = False
        if self.read_only and event != "os.fsync":
            raise OSError(30, "Read-only file system", whole[-1])


def _kill(moments: _Moments, fault: Fault) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _limit(moments: _Moments, fault: Fault) -> None:
    """Also for libraries that write without Python; Python itself ignores the signal, and writes fail."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (fault.n_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _read_only(moments: _Moments, fault: Fault) -> None:
    moments.read_only = True


def _signal(number: int) -> Callable[[_Moments, Fault], None]:
    return lambda moments, fault: os.kill(os.getpid(), number)


def _hang_up(moments: _Moments, fault: Fault) -> None:
    """Close the other side of the terminal: the system sends SIGHUP, and writes to it fail."""
    moments.close_terminal()


def _redirect(path: str | None) -> Callable[[_Moments, Fault], None]:
    def redirect(moments: _Moments, fault: Fault) -> None:
        reader, writer = os.pipe() if path is None else (None, os.open(path, os.O_WRONLY))
        if reader is not None:
            os.close(reader)
        for descriptor in (1, 2):
            os.dup2(writer, descriptor)

    return redirect


KINDS: dict[str, Callable[[_Moments, Fault], None]] = {
    "killed": _kill,
    "killed in a write": _limit,
    "disk full": _limit,
    "read-only": _read_only,
    "SIGINT": _signal(signal.SIGINT),
    "SIGTERM": _signal(signal.SIGTERM),
    "SIGHUP": _signal(signal.SIGHUP),
    "terminal closed": _hang_up,
    "reader gone": _redirect(None),
    "log on a full disk": _redirect("/dev/full"),
}


def run(
    arguments: Sequence[object],
    output: Path,
    fault: Fault | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> Ended:
    """Run the command line in a forked process.

    Args:
        arguments: The command and its arguments.
        output: The folder in which moments are counted.
        fault: What goes wrong, if anything.
        prepare: Called in the process before the command, for faults that are not of the file system.
    """
    (reads, writes), (reads_log, writes_log) = os.pipe(), os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.close(reads)
            os.close(reads_log)
            _begin(writes, _Moments(output.absolute(), fault, writes_log), fault)
            prepare()
            code = exit_code(lambda: main([str(argument) for argument in arguments]))
        finally:
            os._exit(code)
    os.close(writes)
    os.close(writes_log)
    (said, log), hung = _read(process, reads, reads_log)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return Ended(None if hung else status, said, tuple(log.splitlines()))


def _begin(errors: int, moments: _Moments, fault: Fault | None) -> None:
    """Set up the forked process: its streams, its signals, and the fault."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if fault is not None and fault.kind == "terminal closed":
        terminal, errors = pty.openpty()
        os.setsid()
        fcntl.ioctl(errors, termios.TIOCSCTTY, 0)
        os.environ["TERM"] = "xterm"
        moments.read_terminal(terminal)
        take((errors, errors, errors))
    else:
        nowhere = os.open(os.devnull, os.O_RDWR)
        take((nowhere, nowhere, errors))
    if fault is not None and fault.kind == "killed in a write":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    moments.watch()


def _read(process: int, *pipes: int) -> tuple[list[str], bool]:
    """All that comes through pipes until they are closed; a process that takes too long is killed."""
    import selectors

    found: dict[int, list[bytes]] = {pipe: [] for pipe in pipes}
    deadline, hung = time.monotonic() + SECONDS, False
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready and not hung:
                os.kill(process, signal.SIGKILL)
                hung, deadline = True, time.monotonic() + SECONDS
            for key, _ in ready:
                if chunk := os.read(key.fd, 1 << 16):
                    found[key.fd].append(chunk)
                else:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return [b"".join(found[pipe]).decode("utf-8", "backslashreplace") for pipe in pipes], hung


@contextlib.contextmanager
def fresh(folder: Path, before: Path | None = None) -> Iterator[Path]:
    """An output folder for one case, a copy of another if given; removed afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    if before is not None and before.exists():
        shutil.copytree(before, folder, symlinks=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Times, sizes and names of the machine, which differ from run to run.
_VOLATILE = {
    "date", "seconds", "command", "device", "train_seconds", "step_seconds_p50", "resumed_from", "tokens_per_second",
    "step_time_ratio", "arguments", "wall_clock_ratio",
}  # fmt: skip


def content_of(folder: Path) -> dict[str, object]:
    """The files of an output folder that must be the same after a fault, with their contents but for times.

    Checkpoints, of which a stopped run has others, logs and locks are left out.
    """
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.name.startswith(".") or path.name in ("seal.json", "lock"):
            continue
        if "logs/" in name or "checkpoints/" in name:
            continue
        if path.suffix == ".json":
            found[name] = _still(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix in (".html", ".md", ".yaml"):
            found[name] = path.stat().st_size > 0
        else:
            found[name] = path.read_bytes()
    return found


def _still(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _still(value) for name, value in content.items() if name not in _VOLATILE}
    return [_still(value) for value in content] if isinstance(content, list) else content


def debris(folder: Path) -> list[str]:
    """Files and folders that are only there while something is written."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.name == "partial" or p.suffix == ".partial"]
