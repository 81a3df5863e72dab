"""`Predictor`: a fine-tuned model with everything needed to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, logit, softmax
from transformers import AutoConfig

from attention_guidance.commands.finetuning.baselines.combined import combine, transitions_of
from attention_guidance.commands.finetuning.decoding import decode, marginals
from attention_guidance.commands.finetuning.examples.data import Data, Example
from attention_guidance.commands.finetuning.examples.encoding import encode, scores_of
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.fits.new_model import new_model
from attention_guidance.commands.finetuning.fits.predict import predict
from attention_guidance.commands.finetuning.prediction.saved import TASK_FILE, Partner, load_task
from attention_guidance.commands.finetuning.settings import FitSettings
from attention_guidance.commands.pretraining.saving.checkpoints import SEAL, damage
from attention_guidance.commands.pretraining.settings.arguments import best_device
from attention_guidance.commands.studies.models import longest_sequence, subjects
from attention_guidance.commands.tokenization.byte_level import load_tokenizer
from attention_guidance.errors import ConfigError, reason_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_TOKENS, _TEXTS = "ForTokenClassification", "ForSequenceClassification"


@dataclass(frozen=True)
class Prediction:
    """The prediction of one example.

    Attributes:
        labels: the labels of the words, or of the text (one or several), or a number.
        scores: the probability of each label; empty for a number.
    """

    labels: tuple[str, ...] | float
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned model with everything needed to predict.

    Attributes:
        data: the task and its labels, without examples.
        model: the encoder with its head, in evaluation mode.
        tokenizer: the model's tokenizer.
        longest: maximum tokens of an item; longer sentences become windows, longer texts are truncated.
        partner: the baseline that the model is combined with, or None.
        batch_size: items per batch.
    """

    data: Data
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    longest: int
    partner: Partner | None = None
    batch_size: int = 32

    @classmethod
    def load(cls, source: str, *, batch_size: int = 32) -> Predictor:
        """Load a model written by `finetune`, or any other model with a head for texts or tokens.

        Args:
            source: the output folder of `finetune`, the `model` folder in it, the folder of another model, or a name on
                the hub.
            batch_size: items per batch.

        Raises:
            ConfigError: the model cannot be loaded, has no head, or has changed since `finetune` wrote it.
        """
        folder = Path(source)
        if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
            folder, source = folder / "model", str(folder / "model")
        data, partner = load_task(folder) or (_task_of(source), None)
        # Models of others have no seal.
        if (folder / SEAL).exists() and (problem := damage(folder)) is not None:
            raise ConfigError(f"model {source!r} is damaged ({problem}); restore it from a copy, or fine-tune again")
        _check_head(source, data)
        model = new_model(data, source, FitSettings(), fresh=False)
        tokenizer = load_tokenizer(source, ("pad",))
        longest = longest_sequence(model, tokenizer)
        if getattr(model.config, "pad_token_id", None) is None:
            model.config.pad_token_id = tokenizer.pad_token_id  # which heads that read the last token need in batches
        return cls(data, model.to(best_device()).eval(), tokenizer, longest, partner, batch_size)

    def __call__(self, texts: Sequence[Sequence[str]]) -> list[Prediction]:
        """Predict labels and scores.

        Args:
            texts: for each example, the words of a sentence, its text, or the two texts of a pair.

        Returns:
            A prediction for each example.
        """
        if not texts:
            return []
        words = self.data.task.kind == "tokens"
        examples = [Example(tuple(of_one), (0,) * len(of_one) if words else 0, "") for of_one in texts]
        encoded = encode(self.data, examples, self.tokenizer, self.longest)
        outputs = predict(self.model, encoded, self.tokenizer, FitSettings(batch_size=self.batch_size))
        scores = scores_of(self.data, encoded, examples, outputs)
        if self.partner is None:
            transitions = transitions_of(self.data, None, 1.0)
        else:
            transitions = transitions_of(self.data, self.partner.model, self.partner.weight)
            scores = combine(self.partner.model.scores(examples), scores, self.partner.weight)
        found = decode(self.data, scores, transitions)
        return [self._named(label, of_one, transitions) for label, of_one in zip(found, scores, strict=True)]

    def _named(self, label: Any, scores: Any, transitions: Any) -> Prediction:
        names, kind = self.data.labels, self.data.task.kind
        if kind == "regress":
            return Prediction(float(label), ())
        if kind == "tokens":
            shares = marginals(scores, transitions)
            return Prediction(
                tuple(names[n] for n in label), tuple(float(row[n]) for row, n in zip(shares, label, strict=True))
            )
        if kind == "multilabel":
            shares = expit(scores + logit(getattr(self.model.config, "threshold", 0.5)))
            on = [n for n, value in enumerate(label) if value]
            return Prediction(tuple(names[n] for n in on), tuple(float(shares[n]) for n in on))
        return Prediction((names[label],), (float(softmax(np.asarray(scores, float))[label]),))


def _task_of(source: str) -> Data:
    """The task of a model that `finetune` has not written, from its head.

    Raises:
        ConfigError: the model cannot be loaded, or has no head.
    """
    config, head = _head_of(source)
    if head is None:
        raise ConfigError(f"model {source!r} has no head for texts or words; fine-tune it first")
    labels = _labels_of(config)
    if head.endswith(_TOKENS):
        entities = "O" in labels and all(label == "O" or label[:2] in ("B-", "I-") for label in labels)
        # Well-formed sequences need the B- label of each type; models of IOB1 labels lack some.
        entities = entities and all(f"B-{label[2:]}" in labels for label in labels if label[0] == "I")
        return Data(get_task("ner"), labels, {}, {}, scheme="BIO" if entities else None)
    if config.num_labels == 1 or config.problem_type == "regression":
        return Data(get_task("regress"), (), {}, {})
    several = config.problem_type == "multi_label_classification"
    return Data(get_task("multilabel" if several else "classify"), labels, {}, {})


def _head_of(source: str) -> tuple[PreTrainedConfig, str | None]:
    """The configuration of a model, and the class of its head for texts or tokens, None without one."""
    source = subjects(source)[0].source
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers and the hub raise many types
        raise ConfigError(f"model {source!r}: cannot be loaded ({reason_of(error)})") from error
    return config, next((name for name in config.architectures or () if name.endswith((_TOKENS, _TEXTS))), None)


def _labels_of(config: PreTrainedConfig) -> tuple[str, ...]:
    return tuple(str(config.id2label[n]) for n in range(config.num_labels))


def _check_head(source: str, data: Data) -> None:
    """Check that a task is the model's: a head of another task would be replaced by one that was never trained.

    Raises:
        ConfigError: The head is for another task, or for other labels.
    """
    config, head = _head_of(source)
    wanted = _TOKENS if data.task.kind == "tokens" else _TEXTS
    if head is None or not head.endswith(wanted):
        raise ConfigError(
            f"model {source!r}: {TASK_FILE} is of the task {data.task.name}, but the model is a "
            f"{head or (config.architectures or ['model without a head'])[0]}; give the folder that finetune wrote"
        )
    if data.labels and _labels_of(config) != data.labels:
        shown = (" ".join(map(str, labels[:5])) for labels in (data.labels, _labels_of(config)))
        raise ConfigError(
            "model {!r}: {} has the labels {}, but the model has {}; give the folder that finetune wrote".format(
                source, TASK_FILE, *shown
            )
        )
