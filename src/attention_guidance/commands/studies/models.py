"""Load the models of a study: a model, a run, or each checkpoint of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_guidance.adapters.positions import longest_input
from attention_guidance.commands.pretraining.saving import checkpoints
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.arguments import best_device
from attention_guidance.commands.pretraining.settings.checks import guided_heads
from attention_guidance.commands.pretraining.settings.config import CONFIG_FILE, make_config
from attention_guidance.commands.reading.json_files import read_json
from attention_guidance.commands.report.schemas import LogEntry, RunResults, TrainerLog
from attention_guidance.commands.secrets import masked
from attention_guidance.commands.text.folders import warn_once
from attention_guidance.commands.tokenization.byte_level import load_tokenizer, vocabulary_size
from attention_guidance.errors import ConfigError, RunError, reason_of
from attention_guidance.patterns import Pattern

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Default sequence length in tokens, and the limit if neither model nor tokenizer has one.
USUAL_LENGTH = 512
# A larger model_max_length means that the tokenizer has no limit (transformers' VERY_LARGE_INTEGER is 1e30).
_NO_LIMIT = 10**9


@dataclass(frozen=True)
class Subject:
    """A model to analyse.

    Attributes:
        name: name of the model in results.
        source: folder or hub name that transformers loads it from.
        step: optimisation step of the checkpoint, None for a model that is not a checkpoint of a run.
        run: folder of the run that the model belongs to, or None.
    """

    name: str
    source: str
    step: int | None = None
    run: Path | None = None

    def load(self) -> PreTrainedModel:
        """Load the encoder without its pre-training head, in evaluation mode, on the GPU if there is one.

        Raises:
            ConfigError: the model cannot be loaded.
        """
        try:
            model = _model_class(self.source).from_pretrained(self.source, trust_remote_code=False)
        except Exception as error:  # transformers, safetensors and the hub raise all kinds
            raise ConfigError(
                f"model {self.source!r}: cannot be loaded ({reason_of(error)}); give a folder written by "
                "save_pretrained, a run of pretrain, or a name on the Hugging Face hub"
            ) from error
        return model.to(best_device()).eval()  # type: ignore[no-any-return]

    def load_masked_lm(self, purpose: str) -> PreTrainedModel:
        """Load the model with its masked language model head, in single precision, as `load` does.

        Args:
            purpose: what it is for, in words for error messages, as in `pairs are scored by`.

        Raises:
            ConfigError: it cannot be loaded, has a decoder, or its head was not saved.
        """
        import torch
        from transformers import AutoModelForMaskedLM

        try:
            model, found = AutoModelForMaskedLM.from_pretrained(
                self.source, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
            )
        except Exception as error:  # transformers, safetensors and the hub raise all kinds
            raise ConfigError(
                f"model {self.source!r}: cannot be loaded as a masked language model ({reason_of(error)})"
            ) from error
        if model.config.is_encoder_decoder:
            raise ConfigError(f"model {self.source!r} has a decoder; {purpose} a masked language model")
        if found["missing_keys"]:
            raise ConfigError(
                f"model {self.source!r} has no masked language model head ({min(found['missing_keys'])} is missing); "
                f"{purpose} one, such as a run of pretrain with a masked objective has"
            )
        return model.to(best_device()).eval()  # type: ignore[no-any-return]

    def tokenizer(self, *needed: str) -> PreTrainedTokenizerBase:
        """Load the model's tokenizer.

        Args:
            needed: special tokens that it must have (default: none); see `load_tokenizer`.

        Raises:
            ConfigError: there is no tokenizer, or it cannot be used.
        """
        own = self.run / "tokenizer" if self.run is not None else None
        source = str(own) if own is not None and own.is_dir() else self.source
        return load_tokenizer(source, needed)

    def guided_heads(self) -> dict[tuple[int, int], str]:
        """The names of `guided_patterns`."""
        return {place: pattern.name for place, pattern in self.guided_patterns().items()}

    def guided_patterns(self, tokenizer: PreTrainedTokenizerBase | None = None) -> dict[tuple[int, int], Pattern]:
        """The patterns that heads were guided toward, by (layer, head); empty if there were none or it is unknown.

        Args:
            tokenizer: the tokenizer of the run; without it, token classes have no tokens.
        """
        if self.run is None:
            return {}
        config = make_config({}, self.run / CONFIG_FILE)
        if not config.heads or config.guided_part == "generator":  # the saved model is the discriminator
            return {}
        return {(guided.layer, guided.head): guided.pattern for guided in guided_heads(config, tokenizer)}

    def loss(self) -> float | None:
        """The last validation loss before the checkpoint was saved, None if unknown."""
        if self.run is None or self.step is None:
            return None
        losses = [entry["eval_loss"] for entry in trainer_log(Path(self.source)) if "eval_loss" in entry]
        return losses[-1] if losses else None


def subjects(given: str, *, with_checkpoints: bool = False) -> list[Subject]:
    """The models to analyse: the checkpoints of a run from oldest to newest, or a single model.

    Args:
        given: folder of a run or model, or a name on the Hugging Face hub.
        with_checkpoints: whether to return all checkpoints of a run (default: its final model, or its newest
            checkpoint if it has none).

    Raises:
        ConfigError: `given` is neither a run nor a model, or is a model but checkpoints are requested.
        RunError: `given` is a comparison, or a run that has not saved anything yet.
    """
    path = Path(given)
    if not (path / CONFIG_FILE).is_file():
        if any(path.glob("seed-*/*/run.yaml")):
            raise RunError(f"{given} holds a comparison; give one of its runs, such as {path / 'seed-1' / 'guided'}")
        if path.is_dir() and not (path / "config.json").is_file():
            raise ConfigError(f"{given}: neither a model (config.json) nor a run of pretrain ({CONFIG_FILE})")
        if path.is_file() or (not path.exists() and _is_local(path)):
            raise ConfigError(f"{given}: no such folder; give the folder of a model or run, or a name on the hub")
        if with_checkpoints:
            raise ConfigError(f"{given} is a model and has no checkpoints; give the folder of a run")
        # `model` is not a telling name; use the parent folder's.
        own = [part for part in path.resolve().parts[-2:] if part not in ("model", "/")]
        return [Subject(masked(own[-1] if path.exists() and own else given), given)]
    folder = RunFolder(path)
    found = [
        Subject(f"{masked(path.resolve().name)} step {checkpoints.step_of(c)}", str(c), checkpoints.step_of(c), path)
        for c in checkpoints.checkpoints(folder.checkpoints)
    ]
    if with_checkpoints and found:
        return found
    if (path / "model").is_dir():
        return [Subject(masked(path.resolve().name), str(path / "model"), None, path)]
    if not found:
        raise RunError(f"the run in {given} has not saved anything yet; wait for its first checkpoint")
    return found[-1:]


def names_of(models: Sequence[str]) -> list[str]:
    """Names for several models, usable as file names: the shortest ends of their paths that are unique.

    Raises:
        ConfigError: a model is given twice.
    """
    parts = []
    for model in models:
        subject = subjects(model)[0]
        path = subject.run or (Path(model) if Path(model).exists() else None)
        own = (subject.name,) if path is None else tuple(part for part in path.resolve().parts[1:] if part != "model")
        parts.append(own or (subject.name,))
    for depth in range(1, 2 + max(map(len, parts))):
        names = [masked("-".join(part[-depth:]).replace("/", "-")) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"a model is given twice, or two models have the same name: {', '.join(models)}")


def _model_class(source: str) -> Any:
    """The class to load a model with: AutoModel, or the encoder class that was saved (such as T5EncoderModel)."""
    import transformers

    saved = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False).architectures or ()
    encoders = [name for name in saved if name.endswith("EncoderModel") and hasattr(transformers, name)]
    return getattr(transformers, encoders[0]) if encoders else transformers.AutoModel


def _is_local(path: Path) -> bool:
    """Whether a missing path is meant as a local path: hub names have at most one slash, and no local parent folder."""
    return path.is_absolute() or len(path.parts) > 2 or (len(path.parts) == 2 and path.parent.is_dir())


def results_of(run: Path) -> RunResults:
    """The results of a finished run; empty if it has not finished.

    Raises:
        RunError: they are damaged.
    """
    file = RunFolder(run).results
    return read_json(file, RunResults) if file.exists() else {}


def trainer_log(checkpoint: Path) -> list[LogEntry]:
    """The Trainer's log up to a checkpoint; empty if there is none, or, with a logged warning, if it is damaged."""
    file = checkpoint / "trainer_state.json"
    try:
        return read_json(file, TrainerLog)["log_history"] if file.exists() else []
    except RunError as error:
        warn_once(f"{error}; until then its losses are unknown")
        return []


def longest_sequence(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, without: int = USUAL_LENGTH) -> int:
    """The maximum sequence length in tokens, special tokens included, of both model and tokenizer.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        without: the result if neither of them has a limit.

    Raises:
        ConfigError: the model does not read token ids, or the tokenizer does not match the model.
    """
    try:
        embeddings = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:  # a character model (Canine) has no embedding table
        embeddings = None
    if embeddings is None or embeddings < vocabulary_size(tokenizer):
        knows = "reads no tokens" if embeddings is None else f"knows {embeddings:,} tokens"
        raise ConfigError(
            f"{type(model).__name__} {knows} and its tokenizer has {vocabulary_size(tokenizer):,}; give a model "
            "with its own tokenizer"
        )
    limits = [longest_input(model), tokenizer.model_max_length]
    return min((limit for limit in limits if limit is not None and limit < _NO_LIMIT), default=without)
