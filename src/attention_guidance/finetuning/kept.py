"""What fine-tunings leave on the disk, by which a later one with --resume goes on: scores, and fits until then."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attention_guidance import results
from attention_guidance.errors import RunError
from attention_guidance.finetuning.fit import Fit, FitSettings, new_model
from attention_guidance.training.checkpoints import damage, write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from attention_guidance.finetuning.examples import Data
    from attention_guidance.finetuning.settings import FinetuneSettings

FINETUNE_FILE = "finetune.json"
# How many fits there are, which does not decide what each is.
_OF_SEVERAL = ("seeds", "seed", "learning_rates", "baseline")
_FITS = "fits"
_FACTS = "fit.json"
# What decides a model; a checkpoint has the optimizer's state beside it.
_OF_MODEL = ("*.safetensors", "*.bin", "config.json", "token*", "vocab*", "merges.txt", "spiece.model")


def request_of(source: str, settings: FinetuneSettings) -> str:
    """A digest of all that was asked for but the baseline, the content of the model and the files included."""
    return _digest_of(_asked(source, settings))


def fits_request_of(source: str, settings: FinetuneSettings) -> str:
    """A digest of what decides a single fit: learning rate and seed are in its name."""
    asked = _asked(source, settings)
    return _digest_of({name: value for name, value in asked.items() if name not in _OF_SEVERAL})


def _asked(source: str, settings: FinetuneSettings) -> dict[str, Any]:
    folder = Path(source)
    weights = {file.name: _digest(file) for pattern in _OF_MODEL for file in folder.glob(pattern) if file.is_file()}
    return dataclasses.asdict(settings) | {
        "model": weights or source,
        "baseline": None,
        "learning_rates": [*map(float, settings.learning_rates)],
        "columns": [*map(str, settings.columns or ())],
        "files": {split: _digest(file) for split, file in settings.files.items()},
    }


def _digest_of(asked: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=16).hexdigest()


def finished(output: Path, request: str, *, overwrite: bool) -> dict[str, Any] | None:
    """The scores that are there already, if they are what is asked for.

    Args:
        output: the folder of a fine-tuning.
        request: see `request_of`.
        overwrite: whether scores of another request may be replaced.

    Raises:
        RunError: they are of another request, and may not be replaced.
    """
    try:
        content = json.loads((output / FINETUNE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if isinstance(content, dict) and content.get("request") == request:
        return content
    if overwrite:
        return None
    raise RunError(
        f"--output {output} holds scores of another model, other files or settings; give another folder, or --overwrite"
    )


class KeptFits:
    """The fits of a fine-tuning that has not ended, and their models, of which no more than one need be in memory.

    Args:
        output: its folder.
        request: see `fits_request_of`; fits of another are not taken.
        resume: whether those that are there are taken.
    """

    def __init__(self, output: Path, request: str, *, resume: bool) -> None:
        self.all = output / _FITS
        self.folder = self.all / request
        if not resume:
            self.forget()

    def get(self, name: str) -> Fit | None:
        """One of them; None if it is not there, or not as it was written."""
        folder = self.folder / name
        if damage(folder) is not None:
            return None
        return Fit(**json.loads((folder / _FACTS).read_text(encoding="utf-8")))

    def load(self, name: str, data: Data, settings: FitSettings) -> PreTrainedModel:
        """The model of one that is there, on the best device there is."""
        device: Any = torch.accelerator.current_accelerator() or "cpu"
        model: PreTrainedModel = new_model(data, str(self.folder / name), settings).to(device)
        return model.eval()

    def put(self, name: str, fit: Fit, model: PreTrainedModel) -> None:
        """Keep one."""

        def write(folder: Path) -> None:
            model.save_pretrained(folder)
            results.write_json(folder / _FACTS, dataclasses.asdict(fit))

        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / name, write)

    def forget(self) -> None:
        """Remove them all."""
        shutil.rmtree(self.all, ignore_errors=True)


def is_begun(output: Path) -> bool:
    """Whether a fine-tuning has left fits there."""
    return (output / _FITS).is_dir()


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
