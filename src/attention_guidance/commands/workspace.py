"""The output folder of a command: what it contains, and how `resume` and `overwrite` treat that.

Files are overwritten only on request, and only files that the command itself wrote are ever removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from attention_guidance.commands.output_lock import LOCK_FILE, holds_nothing, lock, unlock
from attention_guidance.errors import RunError
from attention_guidance.files import remove


class State(enum.Enum):
    """The content of a folder, from the point of view of a command."""

    NOTHING = "no folder, an empty one, or files of the command from before there was anything to resume"
    BEGUN = "unfinished output of the command, which it can resume"
    FINISHED = "finished output of the command"
    OTHER = "models or scores of another command"
    FOREIGN = "files that no command wrote"


@dataclass(frozen=True)
class Kind:
    """The files that a command writes to its folder; all attributes but the first are patterns of `Path.glob`.

    Attributes:
        name: Name of the output in messages.
        finished: Exists once the command has finished.
        begun: Any of these can be resumed; empty for a command that cannot resume.
        traces: Any of these was written by the command, but leaves nothing to resume.
        sign: Without this file, none of the above was written by the command.
        first: The files written first; a folder with no others counts as empty.
        owned: The files to remove before the output is replaced, `sign` last, so that an interrupted removal can be
            repeated.
    """

    name: str
    finished: str
    begun: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    sign: str = "*"
    first: tuple[str, ...] = ()
    owned: tuple[str, ...] = ()


def within(folder: str, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Prefix patterns with a folder, which may be a pattern itself."""
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
    first=("time.json",),
    owned=(
        "recipe.json",
        "recipe.html",
        *within("guided", RUN.owned),
        *within("unguided", RUN.owned),
        *(f"classify-{split}.jsonl" for split in ("train", "dev", "test")),
        "text.jsonl",
        "time.json",
    ),
)
# Output that took hours: no other command writes to its folder. A text.jsonl alone may come from anywhere.
_TRAINED = (RUN, COMPARISON, FINE_TUNING, DOWNSTREAM, dataclasses.replace(RECIPE, begun=()))


class Workspace:
    """The output folder of a command.

    Args:
        path: The folder.
        kind: The files that the command writes to it.
    """

    def __init__(self, path: Path, kind: Kind) -> None:
        self.path = path
        self.kind = kind

    @property
    def state(self) -> State:
        """The content of the folder."""
        if self._is(self.kind, self.kind.finished):
            return State.FINISHED
        if self._is(self.kind, *self.kind.begun):
            return State.BEGUN
        if self._is(self.kind, *self.kind.traces):
            return State.NOTHING
        if self._other is not None:
            return State.OTHER
        # A command that was killed while writing its first file leaves only a part of that file.
        begun = self._find("*.partial", "partial", *self.kind.first)
        existing = {path.name for path in self._find("*") if not holds_nothing(path)}
        foreign = existing - {path.relative_to(self.path).parts[0] for path in begun}
        return State.FOREIGN if foreign else State.NOTHING

    def claim(
        self,
        *,
        resume: bool = False,
        overwrite: bool = False,
        other: Callable[[], str | None] = lambda: None,
        uses: Iterable[str | Path | None] = (),
    ) -> State:
        """Lock the folder, and decide whether to resume or replace its content. Writes only the lock.

        The lock belongs to the process, so a command can claim a folder again, or a folder inside it; see
        `output_lock`.

        Args:
            resume: Continue with the existing output.
            overwrite: Replace the existing output; with `resume`, only if it is from a different request.
            other: Describes existing output of a different request, None if there is none; called only to resume.
            uses: The files that the command reads.

        Returns:
            `BEGUN` or `FINISHED` if the command continues with existing output, `NOTHING` if it starts afresh.

        Raises:
            RunError: Another process writes to the folder, its content can be neither replaced nor resumed, or it
                cannot be written to.
        """
        check_usable(self.path)
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
            raise RunError(f"output={self.path} holds {self._other}; {give}")
        if state in (State.BEGUN, State.FINISHED):
            different = other() if resume else f"{self.kind.name} already"
            if different is None:
                self._check_links(state, ())
                return state
            if not overwrite:
                ways = "continue it with `resume`, " if self.kind.begun and not resume else ""
                raise RunError(f"output={self.path} holds {different}; {ways}replace it with `overwrite`, or {give}")
        owned = self._find(*self.kind.owned)
        for path in [Path(used) for used in uses if used]:
            if any(path.resolve().is_relative_to(ours.resolve()) for ours in owned):
                raise RunError(f"output={self.path}: this would replace {path}, which the command reads; {give}")
        self._check_links(state, owned)
        if state is State.FOREIGN and (owned or not overwrite):
            names = ", ".join(str(path.relative_to(self.path)) for path in owned)
            way = f"move {names} away" if overwrite else "`overwrite` to keep its files and write beside them"
            what = self.kind.name.removeprefix("a ")
            raise RunError(f"output={self.path} is not empty and holds no {what}; {give}, or {way}")
        return State.NOTHING

    def clear(self) -> None:
        """Remove the files that the command wrote, and the subfolders that this leaves empty."""
        for pattern in self.kind.owned:
            for path in self._find(pattern):
                remove(path)
            for folder in self._find(*map(str, Path(pattern).parents[:-1])):
                with contextlib.suppress(OSError):  # not empty: its files stay
                    folder.rmdir()

    def _check_links(self, state: State, removed: Iterable[Path]) -> None:
        """Check that no link leads out of the folder, such as `checkpoints` in a folder received from someone.

        Args:
            state: The content of the folder. Beside files of others, only names that the command writes matter.
            removed: What is removed before anything is written.

        Raises:
            RunError: There is such a link.
        """
        if state is State.FOREIGN:
            kind = self.kind
            patterns = (kind.finished, *kind.begun, *kind.traces, *kind.owned)
            paths = iter(self._find(*{Path(pattern).parts[0] for pattern in patterns}))
        else:
            paths = (Path(at, name) for at, folders, files in os.walk(self.path) for name in (*folders, *files))
        inside, removed = self.path.resolve(), {*removed}
        for path in paths:
            leads_out = path.is_symlink() and not path.resolve().is_relative_to(inside)
            if leads_out and removed.isdisjoint((path, *path.parents)):
                raise RunError(
                    f"output={self.path}: {path.relative_to(self.path)} is a link to {path.resolve()}, and nothing is "
                    "written outside the folder; remove the link, or give another folder"
                )

    @property
    def _other(self) -> str | None:
        """The name of another command's models or scores in the folder, if any."""
        others = (kind for kind in _TRAINED if self._is(kind, kind.finished, *kind.begun, *kind.traces))
        return next((kind.name for kind in others), None)

    def _is(self, kind: Kind, *patterns: str) -> bool:
        return bool(self._find(kind.sign) and self._find(*patterns))

    def _find(self, *patterns: str) -> list[Path]:
        return [path for pattern in patterns for path in self.path.glob(pattern) if path.name != LOCK_FILE]


def nothing_to_resume(output: Path, what: str) -> RunError:
    """The error for a command that is to resume, but finds nothing to resume and is given no text to start with."""
    return RunError(
        f"output={output} holds no {what} to resume; give the {what}'s text and settings too, or leave out `resume`"
    )


def check_usable(output: Path) -> None:
    """Check that a folder can probably be created or written to.

    Raises:
        RunError: A file is in the way, or the permission is missing.
    """
    try:
        nearest = next(path for path in (output, *output.parents) if path.exists())
    except OSError as error:
        raise RunError(f"output={output} cannot be used ({error.strerror}); give another folder") from error
    if not nearest.is_dir():
        raise RunError(f"output={output}: {nearest} is a file; give a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise RunError(f"output={output}: no permission to write in {nearest}; give another folder")
