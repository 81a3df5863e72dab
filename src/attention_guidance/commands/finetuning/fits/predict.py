"""What a fine-tuned model predicts: numbers in the unit of the file, labels from a threshold on."""

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
from attention_guidance.forward.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from attention_guidance.commands.finetuning.settings import FitSettings

#: What `fit` writes into a model's configuration for its predictions.
OF_THE_TASK = ("target_mean", "target_deviation", "threshold")


def collator(data: Data, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Pads a batch to its longest item."""
    return (DataCollatorForTokenClassification if data.task.kind == "tokens" else DataCollatorWithPadding)(tokenizer)


@torch.no_grad()
def predict(
    model: PreTrainedModel, encoded: Encoded, tokenizer: PreTrainedTokenizerBase, settings: FitSettings
) -> list[np.ndarray]:  # type: ignore[type-arg]
    """The logits of each item, [labels] or [its tokens, labels], in evaluation mode.

    In single precision, as whoever loads the model computes: labels that are nearly as probable would change places in
    half of it. Only within training a model computes as it is trained. Numbers are in the unit of the file, and logits
    of several labels positive where the label is predicted: both by what `fit` has written into the model's
    configuration. Like lengths share a batch.
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
    if model.config.problem_type == "multi_label_classification":
        return [logits - _logit(model.config) for logits in found]
    if model.config.problem_type == "regression":
        # Not by the last layer's weights: in half precision the years 1936 and 1940 are one number.
        mean, deviation = (
            getattr(model.config, name, one) for name, one in (("target_mean", 0), ("target_deviation", 1))
        )
        return [logits.astype(float) * deviation + mean for logits in found]
    return found


def _without_padding(logits: Any, item: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Any:
    """The logits of an item's own tokens, whichever side its tokenizer pads on."""
    n_tokens = len(item["input_ids"])
    return logits[-n_tokens:] if tokenizer.padding_side == "left" else logits[:n_tokens]


def target_scale(data: Data) -> tuple[float, float]:
    """Mean and standard deviation of the numbers to train on."""
    targets = [example.label for example in data.splits["train"]]
    # One number alone may be left where others are held out.
    return float(np.mean(targets)), float(np.std(targets)) or 1.0


def with_threshold(model: PreTrainedModel, data: Data, outputs: Sequence[Any]) -> list[Any]:
    """Outputs beside the threshold that is best for them, which the model keeps."""
    logits = np.array(outputs) + _logit(model.config)
    model.config.threshold = choose_threshold(data, data.splits["dev"], expit(logits))
    return [*(logits - _logit(model.config))]


def _logit(config: Any) -> float:
    return float(logit(getattr(config, "threshold", 0.5)))
