"""The faults, and what each command must do about them: what `faults.py` and its tests run."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attention_guidance.commands.pretraining.saving.checkpoints import checkpoints, damage, step_of

from .fault_commands import Command, make_commands, quick
from .fault_injection import KINDS, Ended, Fault, content_of, debris, fresh, run

# Exit codes that keep the promise; 0 also needs the results of a command without a fault.
CODES: dict[str, set[int]] = {
    "killed": {-signal.SIGKILL},
    "killed in a write": {-signal.SIGXFSZ, 0},
    "disk full": {0, 1},
    "read-only": {0, 1, 2},
    "SIGINT": {0, 128 + signal.SIGINT},
    "SIGTERM": {0, 128 + signal.SIGTERM},
    "SIGHUP": {0, 128 + signal.SIGHUP},
    "terminal closed": {0, 128 + signal.SIGHUP},
    "reader gone": {0},
    "log on a full disk": {0},
    "worker killed": {1},
    "out of memory": {1},
    "input changed": {0, 1, 2},
    "input changed before the next call": {0, 2},
}
# A terminal, a pipe or a log can only be lost by a command that prints.
_PRINTS = ("terminal closed", "reader gone", "log on a full disk")
_WHOLE = re.compile(r"(?:^|/)(?:checkpoints/checkpoint-\d+|fits/[0-9a-f]{32}/[^/]+)$")


@dataclass
class Kit:
    """The commands with their input, and what each of them gives without a fault.

    Args:
        folder: Folder for input and output.
    """

    folder: Path
    commands: dict[str, Command] = field(init=False)
    _whole: dict[tuple[str, str], tuple[tuple[str, ...], dict[str, object]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commands = make_commands(self.folder)

    def output(self, name: str) -> Path:
        """The output folder of a command: always the same, since paths are among the results."""
        return self.folder / "out" / name

    def whole(self, name: str, variant: str = "") -> tuple[tuple[str, ...], dict[str, object]]:
        """The moments of a command without a fault, and its results; a variant has another input at the moment."""
        if (name, variant) not in self._whole:
            with fresh(self.output(name)) as output:
                ended = run(self.commands[name].line(output), output, prepare=quick)
                if ended.code != 0 and not variant:
                    raise RuntimeError(f"{name} failed without a fault: {ended.said}")
                self._whole[name, variant] = ended.moments, content_of(output)
        return self._whole[name, variant]


def file_case(kit: Kit, name: str, fault: Fault) -> list[str]:
    """Let a fault of the system happen to a command, then run it again; returns the promises that were broken."""
    command = kit.commands[name]
    moments, whole = kit.whole(name)
    with fresh(kit.output(name)) as output:
        line = command.line(output)
        if fault.kind in _PRINTS:
            line.remove("-q")
        ended = run(line, output, fault, quick)
        # The number of operations may vary by one, so that a command ends before the last of them.
        happened = len(ended.moments) > fault.at
        broken = _end(fault.kind, ended, output, whole, happened)
        if fault.kind in ("disk full", "read-only") and ended.code not in (0, None) and str(output) not in ended.said:
            broken.append(f"does not name what could not be written: {ended.said.strip()}")
        if ended.code is not None and ended.code >= 0 and fault.kind != "read-only" and debris(output):
            broken.append(f"leaves {', '.join(debris(output))}")
        if ended.code != 0:
            broken += _lost(moments[: fault.at], output)
        return broken + _next(command, output, whole)


def _end(kind: str, ended: Ended, output: Path, whole: dict[str, object], happened: bool = True) -> list[str]:
    """The promises about the end of a command that were broken."""
    broken = []
    if ended.code is None:
        return ["hangs"]
    if ended.code not in (CODES[kind] if happened else (0,)):
        broken.append(f"exit code {ended.code}: {ended.said.strip()[-1500:]}")
    if "Traceback" in ended.said:
        broken.append(f"traceback: {ended.said.strip()[-1500:]}")
    lines = ended.said.splitlines()
    if ended.code > 0 and kind not in _PRINTS and (len(lines) != 1 or not lines[0].startswith("error: ")):
        broken.append(f"not one line: {ended.said.strip()[-1500:]}")
    if ended.code == 0 and (wrong := _different(content_of(output), whole)):
        broken.append(f"exit code 0 with wrong results: {', '.join(wrong)}")
    return broken


def _different(found: dict[str, object], whole: dict[str, object]) -> list[str]:
    return [name for name, content in whole.items() if found.get(name) != content]


def _lost(moments: Sequence[str], output: Path) -> list[str]:
    """The checkpoints and fits that were complete and are not there any more, without a newer one."""
    complete: dict[str, None] = {}
    for moment in moments:
        operation, _, paths = moment.partition(" ")
        target = paths.rpartition(" -> ")[2]
        if operation == "os.rename" and _WHOLE.search(target):
            complete[target] = None
        elif operation in ("os.remove", "os.rmdir"):
            complete = {path: None for path in complete if not f"{target}/".startswith(f"{path}/")}
    # Fits are removed on purpose once a fine-tuning is finished.
    complete = {
        path: None for path in complete if not (output / path.rpartition("fits/")[0] / "finetune.json").is_file()
    }
    newest = {str(Path(path).parent) if "checkpoint-" in path else path: path for path in complete}
    lost = [path for path in newest.values() if damage(output / path) is not None and not _newer(output / path)]
    return [f"lost: {', '.join(lost)}"] if lost else []


def _newer(checkpoint: Path) -> bool:
    """Whether there is a whole checkpoint of a later step beside a checkpoint; never beside a fit."""
    if not checkpoint.name.startswith("checkpoint-"):
        return False
    later = (path for path in checkpoints(checkpoint.parent) if step_of(path) > step_of(checkpoint))
    return any(damage(path) is None for path in later)


def _next(command: Command, output: Path, whole: dict[str, object]) -> list[str]:
    """The promises about the next call that were broken."""
    ended = run(command.line(output, again=True), output, prepare=quick)
    if ended.code != 0:
        return [f"the next call: exit code {ended.code}: {ended.said.strip()[-1500:]}"]
    broken = []
    if wrong := _different(content_of(output), whole):
        broken.append(f"the next call: wrong results: {', '.join(wrong)}")
    if left := debris(output):
        broken.append(f"the next call leaves {', '.join(left)}")
    return broken


def _kill_worker_at(step: int) -> None:
    """In the forked process: kill the process that loads data when a step begins."""
    from attention_guidance.commands.pretraining.loop.trainer import PretrainingTrainer

    quick()
    train, seen = PretrainingTrainer.training_step, 0

    def killing(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == step:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGKILL)
            time.sleep(0.05)
        return train(self, *args, **kwargs)

    PretrainingTrainer.training_step = killing  # type: ignore[method-assign]


def worker_case(kit: Kit, name: str, step: int) -> list[str]:
    """Kill a data loader worker of `pretrain`."""
    command, (_, whole) = kit.commands[name], kit.whole(name)
    with fresh(kit.output(name)) as output:
        line = [*command.line(output), "--set", "dataloader_num_workers=1", "--set", "dataloader_prefetch_factor=1"]
        ended = run(line, output, prepare=functools.partial(_kill_worker_at, step))
        broken = _end("worker killed", ended, output, whole)
        kept = sorted(output.glob("checkpoints/checkpoint-*"))
        if (str(kept[-1]) if kept else "no checkpoint") not in ended.said:
            broken.append(f"does not name the last checkpoint: {ended.said.strip()}")
        return broken + _next(command, output, whole)


def _cuda() -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _cpu() -> None:
    import torch

    torch.empty(1 << 60, dtype=torch.uint8)


def _python() -> None:
    bytearray(1 << 60)


MEMORIES: tuple[Callable[[], None], ...] = (_cuda, _cpu, _python)


def _run_out_at(call: int, fail: Callable[[], None]) -> None:
    """In the forked process: have memory run out at a call of a linear layer."""
    from torch import nn

    quick()
    forward, seen = nn.Linear.forward, 0

    def failing(self: nn.Linear, *args: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == call:
            fail()
        return forward(self, *args)

    nn.Linear.forward = failing  # type: ignore[method-assign, assignment]


def memory_case(kit: Kit, name: str, call: int, fail: Callable[[], None]) -> list[str]:
    """Have memory run out in a command."""
    command, (_, whole) = kit.commands[name], kit.whole(name)
    with fresh(kit.output(name)) as output:
        ended = run(command.line(output), output, prepare=functools.partial(_run_out_at, call, fail))
        if ended.code == 0:  # it has fewer calls
            return _end("disk full", ended, output, whole)
        broken = _end("out of memory", ended, output, whole)
        if not re.search(r"out of memory.*batch", ended.said):
            broken.append(f"does not name the batch size: {ended.said.strip()}")
        return broken + _next(command, output, whole)


def _changed(path: Path, how: str) -> None:
    if how == "vanishes":
        path.unlink()
    elif how == "is truncated":
        os.truncate(path, path.stat().st_size // 2)
    else:
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], *(line.replace("a", "e") for line in lines[1:]), ""]))


def _change_at(opening: int, path: Path, how: str) -> None:
    """In the forked process: change a file when it is opened for the n-th time."""
    quick()
    seen = 0

    def opened(event: str, arguments: Sequence[Any]) -> None:
        nonlocal seen
        if event == "open" and isinstance(arguments[0], str | os.PathLike) and os.fspath(arguments[0]) == str(path):
            seen += 1
            if seen == opening:
                _changed(path, how)

    sys.addaudithook(opened)


CHANGES = ("changes", "is truncated", "vanishes")
#: The file that changes while a command reads it.
READ = {
    "pretrain": "corpus.txt", "compare": "corpus.txt", "finetune": "train.tsv", "downstream": "train.tsv",
    "predict": "new.txt", "recipe": "ner/test.txt", "tokenizer": "corpus.txt", "census": "corpus.txt",
    "ablate": "corpus.txt", "probe": "sentences.txt", "skill": "sentences.txt",
}  # fmt: skip


def change_case(kit: Kit, name: str, opening: int, how: str, *, killed_at: int | None = None) -> list[str]:
    """Change a file of the input while it is read, or (`killed_at`) between a command that is killed and the next."""
    command, path = kit.commands[name], kit.folder / READ[name]
    kind = "input changed" if killed_at is None else "input changed before the next call"
    _, whole = kit.whole(name)
    before = path.read_bytes()
    try:
        if how != "vanishes":
            _changed(path, how)
            _, other = kit.whole(name, how)
            path.write_bytes(before)
        else:
            other = whole
        with fresh(kit.output(name)) as output:
            if killed_at is None:
                ended = run(command.line(output), output, prepare=functools.partial(_change_at, opening, path, how))
            else:
                run(command.line(output), output, Fault("killed", killed_at), quick)
                _changed(path, how)
                ended = run(command.line(output, again=True), output, prepare=quick)
            fits = any(not _different(content_of(output), results) for results in (whole, other))
            broken = _end(kind, ended, output, whole if not fits or ended.code != 0 else content_of(output))
            path.write_bytes(before)
            again = command.line(output, again=True)
            if ended.code == 0 and killed_at is None and name in ("finetune", "downstream"):
                # Results of the changed input are not taken for those of this one. (A finished run of `pretrain` is
                # kept without a look at its text.)
                after = run([*again, "--overwrite"], output, prepare=quick)
                if after.code != 0 or _different(content_of(output), whole):
                    broken.append(
                        f"the next call: wrong results, or exit code {after.code}: {after.said.strip()[-500:]}"
                    )
                return broken
            return broken + _next(command, output, whole) if ended.code != 0 else broken
    finally:
        path.write_bytes(before)


# Each gets this share of the cases, so that all of them take some 25 minutes: it takes long, or writes as others do.
_SHARE = {
    "pretrain": 2, "compare": 10, "finetune": 4, "downstream": 10, "recipe": 20, "tokenizer": 2, "census": 2,
    "ablate": 4, "look": 4, "probe": 4, "skill": 4, "report": 4,
}  # fmt: skip
_BYTES = (0, 100, 1000, 10_000, 100_000)


@dataclass(frozen=True)
class Case:
    """One fault that happens to one command; equal cases are the same."""

    fault: str
    command: str
    at: int
    how: str = ""

    def run(self, kit: Kit) -> list[str]:
        """Run it; returns the promises that were broken."""
        if self.fault in KINDS:
            return file_case(kit, self.command, Fault(self.fault, self.at, int(self.how or 0)))
        if self.fault == "worker killed":
            return worker_case(kit, self.command, self.at)
        if self.fault == "out of memory":
            return memory_case(kit, self.command, self.at, MEMORIES[int(self.how)])
        if self.fault == "input changed":
            return change_case(kit, self.command, self.at, self.how)
        return change_case(kit, self.command, 0, self.how, killed_at=self.at)


def all_cases(kit: Kit, n_seeds: int, faults: Sequence[str] = (), commands: Sequence[str] = ()) -> list[Case]:
    """The cases of the long version: for each fault and command some random moments; kills of `pretrain` at all.

    Args:
        kit: The commands.
        n_seeds: Cases of each fault and command; fewer for slow commands.
        faults: Faults to include (default: all).
        commands: Commands to include (default: all).
    """
    cases = []
    for name in commands or kit.commands:
        n_moments = len(kit.whole(name)[0])
        for kind in faults or CODES:
            if kind == "killed" and name == "pretrain":
                cases += [Case(kind, name, at) for at in range(n_moments)]
            for seed in range(max(1, n_seeds // _SHARE.get(name, 1))):
                chance = random.Random(f"{kind}:{name}:{seed}")
                if (case := _drawn(kind, name, n_moments, seed, chance)) is not None:
                    cases.append(case)
    return list(dict.fromkeys(cases))


def _drawn(kind: str, name: str, n_moments: int, seed: int, chance: random.Random) -> Case | None:
    if kind in KINDS:
        size = str(chance.choice(_BYTES)) if kind in ("disk full", "killed in a write") else ""
        return Case(kind, name, chance.randrange(n_moments), size)
    if kind == "worker killed":
        return Case(kind, name, chance.randint(1, 12)) if name == "pretrain" else None
    if kind == "out of memory":
        limit = 60 if name in ("pretrain", "compare", "finetune", "downstream", "recipe") else 6
        return None if name == "tokenizer" else Case(kind, name, chance.randint(1, limit), str(seed % len(MEMORIES)))
    if name not in READ or (kind != "input changed" and name not in ("pretrain", "finetune")):
        return None
    how = CHANGES[seed % len(CHANGES)]
    return Case(kind, name, chance.randint(1, 15) if kind == "input changed" else chance.randrange(n_moments), how)
