"""Predict with a fine-tuned model: numbers in the unit of the file, several labels above a threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import expit, logit
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.examples.encoding import Encoded
from attention_guidance.commands.finetuning.scoring.scores import choose_threshold
from attention_guidance.errors import DivergedError
from attention_guidance.forward.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from attention_guidance.commands.finetuning.settings import FitSettings

#: Values for prediction that `fit` stores in a model's configuration.
OF_THE_TASK = ("target_mean", "target_deviation", "threshold")


def collator(data: Data, tokenizer: PreTrainedTokenizerBase) -> Any:
    """A collator that pads a batch to its longest item."""
    return (DataCollatorForTokenClassification if data.task.kind == "tokens" else DataCollatorWithPadding)(tokenizer)


@torch.no_grad()
def predict(
    model: PreTrainedModel, encoded: Encoded, tokenizer: PreTrainedTokenizerBase, settings: FitSettings
) -> list[np.ndarray]:  # type: ignore[type-arg]
    """The logits of each item, [labels] or [tokens, labels], in evaluation mode.

    They are computed in single precision, like those of anyone who loads the model: half precision could swap labels of
    nearly equal probability. Only during training does a model compute in the precision of training. Numbers are in the
    unit of the file, and for several labels, the logit of a predicted label is positive; both use values that `fit` has
    stored in the model's configuration. Items of similar length share a batch.

    Raises:
        DivergedError: a logit is NaN or infinite, of which any label could be made.
    """
    size = 2 * settings.batch_size
    device = next(model.parameters()).device
    order: Sequence[int] = sorted(range(len(encoded.inputs)), key=lambda n: len(encoded.inputs[n]["input_ids"]))
    outputs: dict[int, np.ndarray] = {}  # type: ignore[type-arg]
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        items = [{k: v for k, v in encoded.inputs[n].items() if k != "labels"} for n in numbers]
        batch = tokenizer.pad(items, return_tensors="pt").to(device)
        with evaluating(model):
            logits = model(**batch).logits.float().cpu().numpy()
        for number, item, of_item in zip(numbers, items, logits, strict=True):
            outputs[number] = of_item if of_item.ndim == 1 else _without_padding(of_item, item, tokenizer)
    found = [outputs[number] for number in range(len(order))]
    if not all(np.isfinite(of_item).all() for of_item in found):
        raise DivergedError("the model computes NaN or infinite scores, so its predictions would mean nothing")
    if model.config.problem_type == "multi_label_classification":
        return [logits - _logit(model.config) for logits in found]
    if model.config.problem_type == "regression":
        # Not folded into the last layer's weights: in half precision, the years 1936 and 1940 are equal.
        mean, deviation = (
            getattr(model.config, name, one) for name, one in (("target_mean", 0), ("target_deviation", 1))
        )
        return [logits.astype(float) * deviation + mean for logits in found]
    return found


def _without_padding(logits: Any, item: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Any:
    """The logits of an item without padding, whichever side the tokenizer pads on."""
    n_tokens = len(item["input_ids"])
    return logits[-n_tokens:] if tokenizer.padding_side == "left" else logits[:n_tokens]


def target_scale(data: Data) -> tuple[float, float]:
    """Mean and standard deviation of the training targets."""
    targets = [example.label for example in data.splits["train"]]
    # All targets may be equal once others are held out.
    return float(np.mean(targets)), float(np.std(targets)) or 1.0


def with_threshold(model: PreTrainedModel, data: Data, outputs: Sequence[Any]) -> list[Any]:
    """Choose the best threshold for outputs on dev, store it in the model, and shift the logits by it."""
    logits = np.array(outputs) + _logit(model.config)
    model.config.threshold = choose_threshold(data, data.splits["dev"], expit(logits))
    return [*(logits - _logit(model.config))]


def _logit(config: Any) -> float:
    return float(logit(getattr(config, "threshold", 0.5)))
