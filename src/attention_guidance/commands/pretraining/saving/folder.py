"""The folder of a run: what lies where, whose it is, and how it is begun.

A run that has not made a step holds nothing that could go on, and no folder: the next command takes its place.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.commands import results
from attention_guidance.commands.pretraining.distributed import processes
from attention_guidance.commands.pretraining.preparation.prepared import PreparedData, check_unchanged
from attention_guidance.commands.pretraining.saving import checkpoints
from attention_guidance.commands.pretraining.saving.resuming import check_same_run
from attention_guidance.commands.pretraining.settings.checks import check_writable
from attention_guidance.commands.pretraining.settings.config import CONFIG_FILE, RunConfig, write_yaml
from attention_guidance.errors import RunError

RESULTS_FILE = "results.json"
_DATA_FILE = "data.json"
# What a run writes before its first step, and snapshots of attention before it.
_BEFORE_A_STEP = ("tokenizer", "checkpoints", "logs", "attention", _DATA_FILE)
_STEPPED = "stepped"


class RunFolder:
    """The folder of a run and the parts in it.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG_FILE
        self.tokenizer = path / "tokenizer"
        self.data = path / _DATA_FILE
        self.checkpoints = path / "checkpoints"
        self.logs = path / "logs"
        self.results = path / RESULTS_FILE

    @property
    def stepped(self) -> bool:
        """Whether the run, or one of the comparison's, has made a step."""
        return self._stepped or any(RunFolder(path)._stepped for path in self.path.glob("seed-*/*"))

    @property
    def _stepped(self) -> bool:
        if self.results.exists() or checkpoints.checkpoints(self.checkpoints):
            return True
        return self.data.exists() and bool(_read(self.data).get(_STEPPED, True))

    def claim(self, config: RunConfig, resume: bool) -> None:
        """Make sure that the folder is free, or holds this very run to be resumed.

        Writes nothing; what a run has left that never made a step is removed.

        Raises:
            RunError: it holds another run, or files of another kind, or cannot be written to.
        """
        check_writable(self.path)
        if self.config.exists():
            if not self.stepped:
                self._clear()
            elif not resume:
                raise RunError(f"--output {self.path} holds a run already: go on with --resume, or give another folder")
            else:
                check_same_run(config, self.config)
        # A run that died while it wrote its first file leaves only that file's beginning.
        elif self.path.exists() and any(not path.name.endswith(".partial") for path in self.path.iterdir()):
            raise RunError(f"--output {self.path} is not empty and holds no run; give another folder")

    def _clear(self) -> None:
        # All but the configuration, by which the folder is known for a run's until the next is written.
        for path in (*(self.path / name for name in _BEFORE_A_STEP), *self.path.glob("seed-*")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def check_text(self, data: PreparedData) -> None:
        """Make sure that the run, if it has begun, began with this text.

        Raises:
            CorpusError: it began with another.
        """
        if self.data.exists():
            check_unchanged(data, _read(self.data)["fingerprint"], self.path)

    def begin(self, config: RunConfig, processor: Any, data: PreparedData | None = None) -> None:
        """Write down what the run is, as far as that has not been done.

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
        write_yaml(config, self.config)
        if not self.tokenizer.exists():
            checkpoints.write_whole(self.tokenizer, lambda folder: processor.save_pretrained(folder))
        if data is not None and not self.data.exists():
            results.write_json(self.data, {"fingerprint": data.fingerprint, _STEPPED: False})

    def note_step(self) -> None:
        """Write down that a step has been made: from here on the folder is the run's."""
        if not self.stepped:
            results.write_json(self.data, _read(self.data) | {_STEPPED: True})

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
