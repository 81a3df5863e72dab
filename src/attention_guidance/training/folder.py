"""The folder of a run: what lies where, whose it is, and how it is begun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attention_guidance import results
from attention_guidance.errors import RunError
from attention_guidance.training import checkpoints
from attention_guidance.training.checks import check_writable
from attention_guidance.training.config import CONFIG_FILE, RunConfig, check_same_run, write_yaml
from attention_guidance.training.prepared import PreparedData, check_unchanged

RESULTS_FILE = "results.json"
_DATA_FILE = "data.json"


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

    def claim(self, config: RunConfig, resume: bool) -> None:
        """Make sure that the folder is free, or holds this very run to be resumed. Writes nothing.

        Raises:
            RunError: it holds another run, or files of another kind, or cannot be written to.
        """
        check_writable(self.path)
        if self.config.exists():
            if not resume:
                raise RunError(f"--output {self.path} holds a run already: go on with --resume, or give another folder")
            check_same_run(config, self.config)
        # A run that died while it wrote its first file leaves only that file's beginning.
        elif self.path.exists() and any(not path.name.endswith(".partial") for path in self.path.iterdir()):
            raise RunError(f"--output {self.path} is not empty and holds no run; give another folder")

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
            config: its settings.
            processor: its tokenizer, or what makes inputs of images or sound.
            data: what it trains on; a comparison has none of its own.

        Raises:
            RunError: the folder cannot be made.
        """
        if self.data.exists():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"--output {self.path} cannot be made ({error.strerror}); give another folder") from error
        write_yaml(config, self.config)
        if not self.tokenizer.exists():
            checkpoints.write_whole(self.tokenizer, lambda folder: processor.save_pretrained(folder))
        if data is not None:
            results.write_json(self.data, {"fingerprint": data.fingerprint})

    @property
    def finished(self) -> dict[str, Any] | None:
        """The results, if the run has ended."""
        return _read(self.results) if self.results.exists() else None


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is damaged ({error}); restore it, or begin again in another --output") from error
    return content
