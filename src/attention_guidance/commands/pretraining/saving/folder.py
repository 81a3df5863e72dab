"""The folder of a run: what lies where, and how it is begun.

A run that has not made a step leaves nothing to resume, and no folder is held: the next command takes its place.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.commands import results
from attention_guidance.commands.pretraining.distributed import processes
from attention_guidance.commands.pretraining.preparation.prepared import PreparedData, check_unchanged
from attention_guidance.commands.pretraining.saving import checkpoints
from attention_guidance.commands.pretraining.saving.resuming import other_run
from attention_guidance.commands.pretraining.settings.config import CONFIG_FILE, RunConfig, write_yaml
from attention_guidance.commands.workspace import RUN, Kind, State, Workspace
from attention_guidance.errors import RunError

RESULTS_FILE = RUN.finished


class RunFolder:
    """The folder of a run and the parts in it.

    Args:
        path: the folder.
        kind: whether it is a run's or a comparison's.
    """

    def __init__(self, path: Path, kind: Kind = RUN) -> None:
        self.path = path
        self.config = path / CONFIG_FILE
        self.tokenizer = path / "tokenizer"
        self.data = path / "data.json"
        self.checkpoints = path / "checkpoints"
        self.logs = path / "logs"
        self.results = path / RESULTS_FILE
        self._workspace = Workspace(path, kind)
        self._replaced = False

    def claim(self, config: RunConfig, *, resume: bool, overwrite: bool) -> State:
        """See `Workspace.claim`: what is replaced, `begin` removes.

        Raises:
            RunError: it holds another run, or files of another kind, or cannot be written to.
        """
        different = functools.partial(other_run, config, self.config)
        uses = (*config.corpus, *config.validation, config.tokenizer, config.init_from, config.arch_config)
        state = self._workspace.claim(resume=resume, overwrite=overwrite, other=different, uses=uses)
        self._replaced = state is State.NOTHING
        return state

    @property
    def known_tokenizer(self) -> Path | None:
        """The tokenizer that a run takes up, if it is there; None before that of another run is replaced."""
        return None if self._replaced else self.tokenizer

    def check_text(self, data: PreparedData) -> None:
        """Make sure that the run, if it has begun, began with this text.

        Raises:
            CorpusError: it began with another.
        """
        if self.data.exists() and not self._replaced:
            check_unchanged(data, _read(self.data)["fingerprint"], self.path)

    def begin(self, config: RunConfig, processor: Any, data: PreparedData | None = None) -> None:
        """Write down what the run is, as far as that has not been done, in place of what is replaced.

        Args:
            config: its settings, of which some may have changed with a resume.
            processor: its tokenizer, or what makes inputs of images or sound.
            data: what it trains on; a comparison has none of its own.

        Raises:
            RunError: the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"--output {self.path} cannot be made ({error.strerror}); give another folder") from error
        if self._replaced:
            self._workspace.clear()
            self._replaced = False
        write_yaml(config, self.config)
        if not self.tokenizer.exists():
            checkpoints.write_whole(self.tokenizer, lambda folder: processor.save_pretrained(folder))
        if data is not None and not self.data.exists():
            results.write_json(self.data, {"fingerprint": data.fingerprint})

    def note_step(self) -> None:
        """Write down that a step has been made: from here on the folder is the run's."""
        results.write_text(self.path / "stepped", "")

    @property
    def finished(self) -> dict[str, Any] | None:
        """The results, if the run has ended."""
        return _read(self.results) if self.results.exists() else None


class NotesFirstStep(TrainerCallback):  # type: ignore[misc]
    """Has a run's folder note its first step.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._noted = not processes.is_first()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Before the checkpoint of the step, if there is one."""
        if not self._noted:
            self.folder.note_step()
            self._noted = True


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is damaged ({error}); restore it, or begin again in another --output") from error
    return content
