"""The folder that a command writes to: what it holds, and what --resume and --overwrite do with that.

Nothing is overwritten unless asked, and nothing is ever removed that the command has not written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from attention_guidance.commands.output_lock import LOCK_FILE, is_only_locked, lock, unlock
from attention_guidance.errors import RunError


class State(enum.Enum):
    """What a folder holds, as seen by a command."""

    NOTHING = "no folder, an empty one, or what the command left there before there was anything to resume"
    BEGUN = "what the command can resume"
    FINISHED = "what the command has finished"
    OTHER = "what another command has trained or scored"
    FOREIGN = "files that no command is known by"


@dataclass(frozen=True)
class Kind:
    """What a command leaves in its folder; all but the first are patterns of `Path.glob`.

    Attributes:
        name: what it is called in messages.
        finished: there once the command has ended.
        begun: any of these can be resumed; empty for a command without --resume.
        traces: any of these is the command's, without anything to resume.
        sign: without this none of the above is the command's.
        first: what it writes first; where nothing else is there, nothing is.
        owned: what is removed before another takes its place, `sign` last so that a removal that dies goes on.
    """

    name: str
    finished: str
    begun: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    sign: str = "*"
    first: tuple[str, ...] = ()
    owned: tuple[str, ...] = ()


def within(folder: str, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Patterns of what lies in a folder, itself a pattern."""
    return tuple(f"{folder}/{pattern}" for pattern in patterns)


RUN = Kind(
    "a run",
    finished="results.json",
    begun=("stepped", "checkpoints/checkpoint-*"),
    traces=("data.json",),
    sign="run.yaml",
    first=("run.yaml", "tokenizer/seal.json"),
    owned=(
        "results.json",
        "model",
        "checkpoints",
        "stepped",
        "attention",
        "logs",
        "tokenizer",
        "data.json",
        "run.yaml",
    ),
)
_ARM = "seed-*/*"
COMPARISON = Kind(
    "a comparison",
    finished="compare.json",
    begun=within(_ARM, (RUN.finished, *RUN.begun)),
    traces=within(_ARM, (RUN.sign,)),
    sign="run.yaml",
    first=(*RUN.first, "seed-*"),
    owned=("compare.json", "compare.html", "attention_maps.json", *within(_ARM, RUN.owned), "tokenizer", "run.yaml"),
)
FINE_TUNING = Kind("a fine-tuning", finished="finetune.json", begun=("fits/" + "[0-9a-f]" * 32,), owned=("model",))
DOWNSTREAM = Kind("fine-tunings compared", finished="downstream.json")
RECIPE = Kind(
    "a recipe",
    finished="recipe.json",
    begun=("text.jsonl",),
    owned=(
        "recipe.json",
        "recipe.html",
        *within("guided", RUN.owned),
        *within("unguided", RUN.owned),
        *(f"classify-{split}.jsonl" for split in ("train", "dev", "test")),
        "text.jsonl",
    ),
)
# What hours went into, which no other command writes beside. A text.jsonl alone may be anyone's.
_TRAINED = (RUN, COMPARISON, FINE_TUNING, DOWNSTREAM, dataclasses.replace(RECIPE, begun=()))


class Workspace:
    """The folder of a command.

    Args:
        path: the folder.
        kind: what the command leaves in it.
    """

    def __init__(self, path: Path, kind: Kind) -> None:
        self.path = path
        self.kind = kind

    @property
    def state(self) -> State:
        """What the folder holds."""
        if self._is(self.kind, self.kind.finished):
            return State.FINISHED
        if self._is(self.kind, *self.kind.begun):
            return State.BEGUN
        if self._is(self.kind, *self.kind.traces):
            return State.NOTHING
        if self._other is not None:
            return State.OTHER
        # A command that died while it wrote its first file leaves only that file's beginning.
        begun = self._find("*.partial", "partial", *self.kind.first)
        there = {path.name for path in self._find("*") if not is_only_locked(path)}
        foreign = there - {path.relative_to(self.path).parts[0] for path in begun}
        return State.FOREIGN if foreign else State.NOTHING

    def claim(
        self,
        *,
        resume: bool = False,
        overwrite: bool = False,
        other: Callable[[], str | None] = lambda: None,
        uses: Iterable[str | Path | None] = (),
    ) -> State:
        """Lock the folder and decide what becomes of what it holds. Writes nothing but the lock.

        The lock is this process's, so that a command may claim folders again and in others; see `output_lock`.

        Args:
            resume: go on with what is there.
            overwrite: replace what is there; with `resume`, only where it was made by another request.
            other: what of another request is there, None if nothing is; asked only where it would be resumed.
            uses: what the command reads.

        Returns:
            `BEGUN` or `FINISHED` if the command goes on with that; `NOTHING` if it begins.

        Raises:
            RunError: another process writes to it; it holds something that may not be replaced, or that cannot go on;
                or cannot be written to.
        """
        _check_usable(self.path)
        locked = lock(self.path)
        try:
            return self._decide(resume, overwrite, other, uses)
        except BaseException:
            if locked:
                unlock(self.path)
            raise

    def _decide(
        self, resume: bool, overwrite: bool, other: Callable[[], str | None], uses: Iterable[str | Path | None]
    ) -> State:
        state, give = self.state, "give another folder"
        if state is State.OTHER:
            raise RunError(f"--output {self.path} holds {self._other}; {give}")
        if state in (State.BEGUN, State.FINISHED):
            different = other() if resume else f"{self.kind.name} already"
            if different is None:
                return state
            if not overwrite:
                ways = "go on with --resume, " if self.kind.begun and not resume else ""
                raise RunError(f"--output {self.path} holds {different}; {ways}replace it with --overwrite, or {give}")
        owned = self._find(*self.kind.owned)
        for path in [Path(used) for used in uses if used]:
            if any(path.resolve().is_relative_to(ours.resolve()) for ours in owned):
                raise RunError(f"--output {self.path}: {path} would be replaced, and is what is read; {give}")
        if state is State.FOREIGN and (owned or not overwrite):
            names = ", ".join(str(path.relative_to(self.path)) for path in owned)
            way = f"move {names} away" if overwrite else "--overwrite to write beside what is there"
            what = self.kind.name.removeprefix("a ")
            raise RunError(f"--output {self.path} is not empty and holds no {what}; {give}, or {way}")
        return State.NOTHING

    def clear(self) -> None:
        """Remove what the command has written there, and the folders in it that are empty then."""
        for pattern in self.kind.owned:
            for path in self._find(pattern):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            for folder in self._find(*map(str, Path(pattern).parents[:-1])):
                with contextlib.suppress(OSError):  # it is not empty, and what is in it stays
                    folder.rmdir()

    @property
    def _other(self) -> str | None:
        """What other command's it is, as far as it is one that trains or scores."""
        others = (kind for kind in _TRAINED if self._is(kind, kind.finished, *kind.begun, *kind.traces))
        return next((kind.name for kind in others), None)

    def _is(self, kind: Kind, *patterns: str) -> bool:
        return bool(self._find(kind.sign) and self._find(*patterns))

    def _find(self, *patterns: str) -> list[Path]:
        return [path for pattern in patterns for path in self.path.glob(pattern) if path.name != LOCK_FILE]


def nothing_to_resume(output: Path, what: str) -> RunError:
    """The error where a command would resume, nothing is there, and no text is given to begin with."""
    return RunError(
        f"--output {output} holds no {what} to resume; give the {what}'s whole command, text and settings too, or "
        "leave out --resume"
    )


def _check_usable(output: Path) -> None:
    """Check that a folder can be written to, or made, as far as the system tells beforehand.

    Raises:
        RunError: a file is in the way, or the permission is missing.
    """
    try:
        there = next(path for path in (output, *output.parents) if path.exists())
    except OSError as error:
        raise RunError(f"--output {output} cannot be used ({error.strerror}); give another folder") from error
    if not there.is_dir():
        raise RunError(f"--output {output}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"--output {output}: no permission to write in {there}; give another folder")
