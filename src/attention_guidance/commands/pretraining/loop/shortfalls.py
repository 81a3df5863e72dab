"""What a finished run did not achieve, in sentences for the user, so that it does not look like a success."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.commands.plain import listed
from attention_guidance.handle import Guidance

_ERRORS = "guidance_errors"
# A head that follows its pattern has an error near 0. Of a trained model, it may start there.
_FOLLOWS, _SHARE = 0.05, 0.5


class KeepsErrors(TrainerCallback):  # type: ignore[misc]
    """Keep the error of each guided head at each validation in the log history, which checkpoints restore.

    Args:
        guidance: Handles on the guided heads, by part of the model.
    """

    def __init__(self, guidance: Mapping[str, Guidance]) -> None:
        self.guidance = guidance

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the errors to the entry of the validation, whose figures alone go to the reporters."""
        state.log_history[-1][_ERRORS] = [head.error for part in self.guidance.values() for head in part.per_head()]


def shortfalls(
    history: Sequence[Mapping[str, Any]], loss: float, heads: Sequence[Mapping[str, Any]], weight: object
) -> list[str]:
    """What a run with finite weights did not achieve; empty if all is well.

    Args:
        history: The Trainer's log history.
        loss: The final validation loss.
        heads: The guided heads, as in `results.json`.
        weight: The weight of guidance, as `guide` takes it.
    """
    validated = [entry for entry in history if "eval_loss" in entry]
    found = _not_learned(validated[0]["eval_loss"], loss) if validated else []
    if heads and not weight:
        return [*found, UNGUIDED]
    # A run begun before errors were kept lacks those from before training: its heads may have followed already.
    errors = [entry[_ERRORS] for entry in validated if _ERRORS in entry]
    return found + _not_followed(errors if len(errors) == len(validated) else [], heads)


#: For a run with a weight of 0.
UNGUIDED = "`weight` is 0, so no head is guided"


def _not_learned(before: float, after: float) -> list[str]:
    if after < before:
        return []
    return [
        f"the validation loss has not fallen: it is {after:.3f}, and was {before:.3f} before training; try "
        "another `learning_rate`, less `dropout` or more steps"
    ]


def _not_followed(errors: Sequence[Sequence[float]], heads: Sequence[Mapping[str, Any]]) -> list[str]:
    """The guided heads whose error has at no validation been half of what it was before training."""
    missed = [
        f"{head['pattern']} in layer {head['layer']}, head {head['head']}"
        for head, of_head in zip(heads, zip(*errors, strict=True), strict=bool(errors))
        if min(map(_or_infinite, of_head)) > max(_FOLLOWS, _SHARE * of_head[0])
    ]
    if not missed:
        return []
    return [
        f"{len(missed)} of {len(heads)} guided heads never followed their pattern ({listed(missed)}); try a larger "
        "`weight` or more steps"
    ]


def _or_infinite(error: float) -> float:
    return error if math.isfinite(error) else math.inf
