"""The defaults of `pretrain` and `guide`, and the studies that speak for them: a run counts as long as its defaults do.

Most runs leave most settings at their defaults. The result of a run has what these were, so that a run made with other
defaults than today's is not used, and is made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config
from attention_guidance.commands.setting import settings_of

# Defaults of the runs that were kept before their defaults were.
_AT_FIRST: dict[str, Any] = {
    "heads": "next:1 previous:1 first:0.25", "weight": 0.1, "relative_weight": None, "loss": "squared_error",
    "normalization": "query", "schedule": "hold-then-linear", "hold": 0.2, "end": 1.0,
    "masking_rate": 0.15, "final_masking_rate": None, "generator_share": 0.5, "guided_part": "discriminator",
    "warmup_share": 0.06, "weight_decay": 0.01, "max_grad_norm": 1.0, "dropout": 0.0,
    "initializer_range": None,
}  # fmt: skip
_OF_OBJECTIVE: dict[str, dict[str, Any]] = {
    "rtd": {"weight": 5.0},
    "mim": {"heads": "left:1 right:1", "masking_rate": 0.6},
}
_OF_PRESET: dict[str, dict[str, Any]] = {
    "mini": {
        "layers": 4, "hidden": 256, "attention_heads": 8, "feed_forward": 1024, "block_size": 128, "batch_size": 32,
        "learning_rate": 1e-3,
    }
}  # fmt: skip
_SIZES = (*_OF_PRESET["mini"], "max_validation_tokens", "vocab_size", "validation_share")

#: The study whose default arm has the default of a setting, and with which other settings.
STUDIED: tuple[tuple[str, Mapping[str, Any], str], ...] = (
    ("heads", {}, "which-guidance"),
    ("weight", {}, "which-guidance"),
    ("loss", {}, "which-guidance"),
    ("schedule", {}, "which-guidance"),
    ("end", {}, "which-guidance"),
    ("hold", {}, "why"),
    ("weight", {"objective": "rtd"}, "objectives"),
    ("heads", {"objective": "mim"}, "images"),
    ("learning_rate", {"preset": "mini"}, "confirmation"),
)


def defaults_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Today's defaults of the settings that decide the result of a run and that it does not give."""
    config, declared = make_config(settings), settings_of(RunConfig)
    left = [name for name in (*_AT_FIRST, *_SIZES) if name not in settings]
    return {
        name: getattr(config, name)
        for name in left
        if (config.heads or declared[name].group != "guidance")
        and all(need.holds(config) for need in declared[name].needs)
    }


def outdated(record: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults with which a run was made that are others today; empty if there are none."""
    settings = record["settings"]
    of_objective = _OF_OBJECTIVE.get(settings.get("objective", "mlm"), {})
    at_first = _AT_FIRST | of_objective | _OF_PRESET.get(settings["preset"], {})
    was: Mapping[str, Any] = at_first | record.get("defaults", {})
    today = defaults_of(settings)
    return {name: was[name] for name in today if was.get(name, today[name]) != today[name]}
