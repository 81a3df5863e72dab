"""Attempts to run code from data: each plants a file or a setting, and uses it as commands do.

An attempt is a function of a `World`. Code that runs makes `world.mark`. Errors of the project are expected.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import AutoModelForMaskedLM

from attention_guidance.commands.cli import _parser
from attention_guidance.commands.finetuning.prediction.predictor import Predictor
from attention_guidance.commands.pretraining.saving.checkpoints import SEAL, _seal
from attention_guidance.commands.pretraining.settings.architectures import longest_stated, stated_sizes, trained
from attention_guidance.commands.studies.models import subjects
from attention_guidance.errors import GuidanceError

ATTEMPTS: dict[str, Callable[[World], None]] = {}


class Evil:
    """Pickled, it runs code when it is loaded."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code,)


@dataclass(frozen=True)
class World:
    """What an attempt works with.

    Attributes:
        folder: an empty folder, which is also the current one.
        mark: the file that code would make.
        run: a copy of a finished run.
        arguments: those of a small run, without command and output.
        cli: runs the command line.
    """

    folder: Path
    mark: Path
    run: Path
    arguments: list[str]
    cli: Callable[..., int]

    @property
    def code(self) -> str:
        return f"open({str(self.mark)!r}, 'w').close()"

    @property
    def evil(self) -> Evil:
        return Evil(self.code)

    @property
    def pickled(self) -> bytes:
        return pickle.dumps(self.evil)

    def zipped(self, protocol: int = 2) -> bytes:
        """A file of torch.save with the pickle."""
        buffer = io.BytesIO()
        torch.save({"a": self.evil, "step": 1}, buffer, pickle_protocol=protocol)
        return buffer.getvalue()

    def legacy(self) -> bytes:
        buffer = io.BytesIO()
        torch.save({"a": self.evil}, buffer, _use_new_zipfile_serialization=False)
        return buffer.getvalue()

    def objects(self) -> bytes:
        """A .npy file of an array of objects."""
        buffer = io.BytesIO()
        np.save(buffer, np.array([self.evil], object), allow_pickle=True)
        return buffer.getvalue()

    def edit(self, file: Path, **values: Any) -> None:
        """Set values of a JSON file."""
        content = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(content | values))

    def load(self) -> None:
        """Load the model and its tokenizer in every way that commands do."""
        model = str(self.run / "model")
        for load in (
            lambda: subjects(model)[0].load(),
            lambda: subjects(model)[0].tokenizer(),
            lambda: trained(model, lambda name: AutoModelForMaskedLM.from_pretrained(name, trust_remote_code=False)),
            lambda: stated_sizes(None, model),
            lambda: longest_stated(None, model),
            lambda: stated_sizes(f"{model}/config.json", None),
            lambda: longest_stated(f"{model}/config.json", None),
            lambda: Predictor.load(model),
        ):
            with suppress(GuidanceError):
                load()

    def resume(self) -> None:
        """Make the run unfinished, seal its newest checkpoint as its sender would, and resume it."""
        for path in (self.run / "results.json", self.run / "model"):
            (shutil.rmtree if path.is_dir() else Path.unlink)(path)
        for folder in (self.checkpoint, self.run / "tokenizer"):
            (folder / SEAL).unlink()
            _seal(folder)
        self.command("pretrain", "-o", self.run, "--resume")

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint, before the last step."""
        return max((self.run / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))

    def command(self, *words: object) -> None:
        """Run a command, which may fail, but only by an error of the project, and not because there is no such flag."""
        with redirect_stderr(io.StringIO()) as said, suppress(SystemExit):
            _parser().parse_args([*map(str, words), "-q"])
        assert said.getvalue() == "" or said.getvalue().startswith("error: argument --"), said.getvalue()
        assert self.cli(*words, "-q") in (0, 1, 2)

    def settings(self, **values: Any) -> None:
        """Train with a received run.yaml."""
        content = yaml.safe_load((self.run / "run.yaml").read_text()) | {"max_steps": 1, "save_every": None} | values
        (self.folder / "run.yaml").write_text(yaml.safe_dump(content))
        self.command("pretrain", "--config", self.folder / "run.yaml", "-o", self.folder / "out")

    def argument(self, **values: Any) -> None:
        self.settings(arguments=values)


def attempt(*names: str) -> Callable[[Callable[..., None]], None]:
    """Register a function as an attempt, or, with several names, as one for each, called with the name."""

    def register(function: Callable[..., None]) -> None:
        for name in names:
            ATTEMPTS[name] = (lambda world, name=name: function(world, name)) if len(names) > 1 else function

    return register


# What several attempts plant.

THEIRS = """
{code}
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast
class Config(BertConfig):
    model_type = "theirs"
class Model(BertForMaskedLM):
    config_class = Config
class Tokenizer(BertTokenizerFast):
    pass
"""
MAPS = {
    "AutoConfig": "Config",
    "AutoModel": "Model",
    "AutoModelForMaskedLM": "Model",
    "AutoModelForTokenClassification": "Model",
}


def code_in(world: World) -> None:
    (world.run / "model" / "theirs.py").write_text(THEIRS.format(code=world.code))
    # Where the transformers library, or Python, might look.
    shutil.copy(world.run / "model" / "theirs.py", world.folder)


JINJA = "{{{{ cycler.__init__.__globals__.os.system('touch {mark}') }}}}"
