"""What a study looks at: a model by folder or name, a run of `pretrain`, or each checkpoint of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_guidance.commands.pretraining.saving import checkpoints
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.checks import guided_heads
from attention_guidance.commands.pretraining.settings.config import CONFIG_FILE, make_config
from attention_guidance.commands.pretraining.settings.positions import longest_input
from attention_guidance.commands.tokenization.byte_level import load_tokenizer, vocabulary_size
from attention_guidance.errors import ConfigError, RunError, reason_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Tokens of a sequence where nothing else is asked for; the limit where neither model nor tokenizer has one.
USUAL_LENGTH = 512
# What a tokenizer without a limit has for one is above this (transformers' VERY_LARGE_INTEGER is 1e30).
_NO_LIMIT = 10**9


@dataclass(frozen=True)
class Subject:
    """A model to look into.

    Attributes:
        name: what to call it.
        source: folder or name that transformers loads it from.
        step: the optimisation step it was saved at, None for a model that is no checkpoint of a run.
        run: the folder of the run it is of, or None.
    """

    name: str
    source: str
    step: int | None = None
    run: Path | None = None

    def load(self) -> PreTrainedModel:
        """The encoder, without the head of its training objective, in evaluation mode on the best device there is.

        Raises:
            ConfigError: it cannot be loaded.
        """
        import torch

        try:
            model = _model_class(self.source).from_pretrained(self.source)
        except Exception as error:  # transformers, safetensors and the hub raise all kinds
            raise ConfigError(
                f"model {self.source!r}: cannot be loaded ({reason_of(error)}); give a folder that save_pretrained has "
                "written, a run of pretrain, or a name on the Hugging Face hub"
            ) from error
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()  # type: ignore[no-any-return]

    def tokenizer(self, *needed: str) -> PreTrainedTokenizerBase:
        """The model's tokenizer.

        Args:
            needed: the special tokens that it must have, see `load_tokenizer`.

        Raises:
            ConfigError: there is none, or it is of no use here.
        """
        own = self.run / "tokenizer" if self.run is not None else None
        source = str(own) if own is not None and own.is_dir() else self.source
        return load_tokenizer(source, needed) if needed else load_tokenizer(source)

    def guided_heads(self) -> dict[tuple[int, int], str]:
        """The patterns that heads were trained toward, by layer and head; empty where none were or it is not known."""
        if self.run is None:
            return {}
        config = make_config({}, self.run / CONFIG_FILE)
        if not config.heads or config.guided_part == "generator":  # what is kept as the model is the discriminator
            return {}
        return {(guided.layer, guided.head): guided.pattern.name for guided in guided_heads(config)}

    def loss(self) -> float | None:
        """The validation loss that was measured last when the checkpoint was made, None where it is not known."""
        if self.run is None or self.step is None:
            return None
        try:
            state = json.loads((Path(self.source) / "trainer_state.json").read_text(encoding="utf-8"))
            losses = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
            loss = float(losses[-1]) if losses else math.nan
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return loss if math.isfinite(loss) else None


def subjects(given: str, *, with_checkpoints: bool = False) -> list[Subject]:
    """What to look into, oldest checkpoint first and the finished model last.

    Args:
        given: the folder of a run or of a model, or a name on the hub.
        with_checkpoints: all checkpoints of a run; without, its finished model (the newest checkpoint if it has none).

    Raises:
        ConfigError: it is no folder of these, or has no checkpoints.
        RunError: it is a comparison, or a run that has not saved anything yet.
    """
    path = Path(given)
    if not (path / CONFIG_FILE).is_file():
        if any(path.glob("seed-*/*/run.yaml")):
            raise RunError(f"{given} holds a comparison; name one of its runs, such as {path / 'seed-1' / 'guided'}")
        if path.is_dir() and not (path / "config.json").is_file():
            raise ConfigError(f"{given}: neither a model (config.json) nor a run of pretrain ({CONFIG_FILE})")
        if path.is_file() or (not path.exists() and _is_local(path)):
            raise ConfigError(f"{given}: no such folder; give that of a model or of a run, or a name on the hub")
        if with_checkpoints:
            raise ConfigError(f"{given} is a model and has no checkpoints; give the folder of a run")
        # A folder called `model` says little; the one around it, more.
        own = [part for part in path.resolve().parts[-2:] if part not in ("model", "/")]
        return [Subject(own[-1] if path.exists() and own else given, given)]
    folder = RunFolder(path)
    found = [
        Subject(f"{path.resolve().name} step {checkpoints.step_of(c)}", str(c), checkpoints.step_of(c), path)
        for c in checkpoints.checkpoints(folder.checkpoints)
    ]
    if with_checkpoints and found:
        return found
    if (path / "model").is_dir():
        return [Subject(path.resolve().name, str(path / "model"), None, path)]
    if not found:
        raise RunError(f"the run in {given} has saved nothing yet; wait for its first checkpoint")
    return found[-1:]


def names_of(models: Sequence[str]) -> list[str]:
    """What to call several models, fit for names of files: as much of the end of their paths as tells them apart.

    Raises:
        ConfigError: one is given twice.
    """
    parts = []
    for model in models:
        subject = subjects(model)[0]
        path = subject.run or (Path(model) if Path(model).exists() else None)
        own = (subject.name,) if path is None else tuple(part for part in path.resolve().parts[1:] if part != "model")
        parts.append(own or (subject.name,))
    for depth in range(1, 2 + max(map(len, parts))):
        names = ["-".join(part[-depth:]).replace("/", "-") for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"a model is given twice, or several cannot be told apart by name: {', '.join(models)}")


def _model_class(source: str) -> Any:
    """What loads a model: AutoModel, but the encoder alone where that is what was saved (T5EncoderModel)."""
    import transformers

    saved = transformers.AutoConfig.from_pretrained(source).architectures or ()
    encoders = [name for name in saved if name.endswith("EncoderModel") and hasattr(transformers, name)]
    return getattr(transformers, encoders[0]) if encoders else transformers.AutoModel


def _is_local(path: Path) -> bool:
    """Whether a path that does not exist was meant as one: a hub's name has at most one slash and no folder here."""
    return path.is_absolute() or len(path.parts) > 2 or (len(path.parts) == 2 and path.parent.is_dir())


def results_of(run: Path) -> dict[str, Any]:
    """What a run has written down of itself; empty where it has not ended."""
    try:
        return RunFolder(run).finished or {}
    except ValueError:
        return {}


def longest_sequence(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, without: int = USUAL_LENGTH) -> int:
    """The most tokens of a sequence, special ones included: what model and tokenizer can take.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        without: the length where neither of them has a limit.

    Raises:
        ConfigError: the model reads no text, or not that of this tokenizer.
    """
    try:
        embeddings = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:  # a model of letters (Canine) looks nothing up
        embeddings = None
    if embeddings is None or embeddings < vocabulary_size(tokenizer):
        knows = "reads no tokens" if embeddings is None else f"knows {embeddings:,} tokens"
        raise ConfigError(
            f"{type(model).__name__} {knows} and its tokenizer has {vocabulary_size(tokenizer):,}; give a model "
            "together with its own tokenizer"
        )
    limits = [longest_input(model), tokenizer.model_max_length]
    return min((limit for limit in limits if limit is not None and limit < _NO_LIMIT), default=without)
