"""The folder of a run: its files, and how it is started, resumed or replaced.

A run that has not completed a step leaves nothing to resume, and the next command may replace it.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any, TypedDict

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.commands import results
from attention_guidance.commands.pretraining.distributed import processes
from attention_guidance.commands.pretraining.preparation.prepared import PreparedData, check_unchanged
from attention_guidance.commands.pretraining.saving import checkpoints
from attention_guidance.commands.pretraining.saving.resuming import other_run
from attention_guidance.commands.pretraining.settings.config import CONFIG_FILE, RunConfig, write_yaml
from attention_guidance.commands.reading.json_files import read_json
from attention_guidance.commands.workspace import RUN, Kind, State, Workspace
from attention_guidance.errors import RunError

logger = logging.getLogger(__name__)

RESULTS_FILE = RUN.finished


class _Data(TypedDict):
    """The content of `data.json`."""

    fingerprint: str


class RunFolder:
    """The folder of a run, with the paths of its parts.

    Args:
        path: The folder.
        kind: Whether it is for a run or a comparison.
    """

    def __init__(self, path: Path, kind: Kind = RUN) -> None:
        self.path = path
        self.config = path / CONFIG_FILE
        self.tokenizer = path / "tokenizer"
        self.data = path / "data.json"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.logs = path / "logs"
        self.results = path / RESULTS_FILE
        self._workspace = Workspace(path, kind)
        self._is_run = kind is RUN
        self._replaced = False

    def claim(self, config: RunConfig, *, resume: bool, overwrite: bool) -> State:
        """See `Workspace.claim`. A run that is to be replaced is removed by `begin`.

        A finished run whose model is missing or damaged counts as begun: its last checkpoint gives the same model.

        Raises:
            RunError: The folder contains another run or other files, cannot be written to, or holds a finished run
                without its model and without a checkpoint.
        """
        different = functools.partial(other_run, config, self.config)
        uses = (*config.corpus, *config.validation, config.tokenizer, config.init_from, config.arch_config)
        state = self._workspace.claim(resume=resume, overwrite=overwrite, other=different, uses=uses)
        self._replaced = state is State.NOTHING
        if state is State.FINISHED and self._is_run and (problem := checkpoints.damage(self.model)) is not None:
            self._take_up_unfinished(problem)
            return State.BEGUN
        return state

    def _take_up_unfinished(self, problem: str) -> None:
        if not checkpoints.checkpoints(self.checkpoints):
            raise RunError(
                f"the run in {self.path} is finished, but its model is damaged ({self.model}: {problem}) and no "
                "checkpoint is left; restore the model from a copy, or train again with `overwrite`"
            )
        logger.warning("%s is damaged (%s); it is made again from the last checkpoint", self.model, problem)

    @property
    def known_tokenizer(self) -> Path | None:
        """The folder of the run's tokenizer, which may not exist yet; None if it is from a run to be replaced."""
        return None if self._replaced else self.tokenizer

    @property
    def kept_config(self) -> Path | None:
        """The file of the run's settings if it is not to be replaced, else None."""
        return None if self._replaced or not self.config.exists() else self.config

    def check_text(self, data: PreparedData) -> None:
        """Check that a run to be resumed has the same data as before.

        Raises:
            CorpusError: The data differ.
        """
        if self.data.exists() and not self._replaced:
            check_unchanged(data, self.fingerprint, self.path)

    def begin(self, config: RunConfig, processor: Any, data: PreparedData | None = None) -> None:
        """Write the settings, the tokenizer and the digest of the data; first remove a run that is to be replaced.

        Args:
            config: Settings; a resume may have changed some.
            processor: The tokenizer, or the processor of images or audio.
            data: The training data; None for a comparison, whose runs record them.

        Raises:
            RunError: The folder cannot be created.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"output={self.path} cannot be created ({error.strerror}); give another folder") from error
        if self._replaced:
            self._workspace.clear()
            self._replaced = False
        write_yaml(config, self.config)
        if not self.tokenizer.exists():
            checkpoints.write_whole(self.tokenizer, lambda folder: processor.save_pretrained(folder))
        if data is not None and not self.data.exists():
            results.write_json(self.data, {"fingerprint": data.fingerprint})

    def note_step(self) -> None:
        """Record that the run has completed a step, so that it can be resumed and is not replaced."""
        results.write_text(self.path / "stepped", "")

    @property
    def fingerprint(self) -> str:
        """The digest of the run's data, see `begin`."""
        data: _Data = read_json(self.data, _Data)
        return data["fingerprint"]

    @property
    def finished(self) -> dict[str, Any] | None:
        """The results if the run is finished and its model undamaged, else None."""
        if not self.results.exists() or checkpoints.damage(self.model) is not None:
            return None
        found: dict[str, Any] = read_json(self.results, dict[str, Any])
        return found


class NotesFirstStep(TrainerCallback):  # type: ignore[misc]
    """Record the first completed step in the folder of a run.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._noted = not processes.is_first()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record the step, before a checkpoint is saved."""
        if not self._noted:
            self.folder.note_step()
            self._noted = True
