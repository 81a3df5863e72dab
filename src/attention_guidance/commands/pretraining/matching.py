"""Number the heads to guide in a trained model: those that are closest to their patterns already."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

from transformers import set_seed

from attention_guidance.commands.objectives.base import validation_batches
from attention_guidance.commands.pretraining.model import new_model, told_by
from attention_guidance.commands.pretraining.preparation.objective import objective_of
from attention_guidance.commands.pretraining.preparation.prepared import PreparedData
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config
from attention_guidance.matching import HeadMatching, match_heads

# Sequences of the training data to measure heads on: 64 in all.
_BATCHES, _BATCH_SIZE = 4, 16


def with_matched_heads(
    config: RunConfig, data: PreparedData, folder: RunFolder, say: Callable[[str], None]
) -> RunConfig:
    """Replace the heads of a run with `match_heads` by numbered ones.

    A resumed run keeps those that it found when it started, which rounding on another machine might change.

    Args:
        config: Settings of the run.
        data: Its training data.
        folder: Its folder, claimed.
        say: Called with a message.

    Raises:
        GuidanceError: The model cannot be loaded, or the heads do not fit it.
    """
    if not config.match_heads or not config.heads:
        return config
    if (kept := folder.kept_config) is not None:
        return dataclasses.replace(config, heads=make_config({}, kept).heads)
    assert data.tokenizer is not None
    set_seed(config.seed)
    objective = objective_of(config, data.tokenizer)
    model = new_model(config, objective, told_by(data.tokenizer), data.inherited)
    batches = itertools.islice(validation_batches(data.train, objective, _BATCH_SIZE), _BATCHES)
    classes = config.token_classes
    found = match_heads(model, config.heads, batches, tokenizer=data.tokenizer, token_classes=classes)
    say(
        f"guiding the heads that are closest to their patterns: their mean error is {found.error:.3f}, that of the "
        f"first heads {found.default_error:.3f}"
    )
    return dataclasses.replace(config, heads=_spec(found))


def _spec(found: HeadMatching) -> str:
    """Matched heads in the syntax of `heads`."""
    layers = {
        layer: " ".join(f"{pattern}@{','.join(map(str, numbers))}" for pattern, numbers in of_layer.items())
        for layer, of_layer in found.heads.items()
    }
    return "; ".join(f"{layer}: {of_layer}" for layer, of_layer in layers.items())
