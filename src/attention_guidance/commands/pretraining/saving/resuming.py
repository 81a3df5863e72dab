"""Which settings of a run may change when it is resumed."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any

from attention_guidance.assignment import assign_heads
from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config
from attention_guidance.commands.secrets import all_masked
from attention_guidance.commands.setting import settings_of
from attention_guidance.patterns import TOKEN_CLASSES, TokenClasses, get_pattern

# Trainer arguments that do not affect the training curve, and so may change; for settings, see `Setting.free`.
_FREE = re.compile(
    r"arguments\['(dataloader_(num_workers|pin_memory|persistent_workers|prefetch_factor|multiprocessing_context)"
    r"|(activation|gradient)_checkpointing(_kwargs)?|torch_empty_cache_steps|per_device_eval_batch_size"
    r"|run_name|project|log_level(_replica)?|log_on_each_node|ddp_timeout)'\]"
)


def other_run(config: RunConfig, saved: Path) -> str | None:
    """Compare an existing run with the settings given to resume it; settings that may change are ignored.

    Args:
        config: The settings given.
        saved: The file of the existing run's settings.

    Returns:
        A message with the first setting that differs, both values, and what would work; None if none differs.
    """
    free = {name for name, declared in settings_of(config).items() if declared.free}
    existing = make_config({}, saved)
    before, now = (_by_name(of) for of in (existing, config))
    if config.match_heads and _counts(existing) == _counts(config):
        # The run has the numbers of the heads that it found.
        free.add("heads")
    for name in before | now:
        if before.get(name) == now.get(name) or name in free or _FREE.fullmatch(name):
            continue
        what = f"a run with {name}={before.get(name)!r}, not {now.get(name)!r}"
        if name not in ("max_steps", "max_time"):
            return f"{what}: resume it with the same settings"
        run = "one of its runs" if any(saved.parent.glob("seed-*")) else saved.parent
        return (
            f"{what}, and its schedules are computed for that length: let it finish, then continue training its model "
            f"in another `output` with `init_from` {run} and the additional steps"
        )
    return None


def _counts(config: RunConfig) -> Counter[tuple[int, str]]:
    """The number of guided heads by layer and pattern."""
    if not config.heads:
        return Counter()
    # Only the names of token classes matter here.
    classes: TokenClasses = {name: [0] for name in (*TOKEN_CLASSES, *config.token_classes)}
    heads = assign_heads(
        config.heads, config.layers, config.attention_heads, lambda name: get_pattern(name, None, classes)
    )
    return Counter((head.layer, head.pattern.name) for head in heads)


def _by_name(config: RunConfig) -> dict[str, Any]:
    """The settings of a run, including each of its Trainer arguments, by name; without secrets, as in run.yaml."""
    settings: dict[str, Any] = all_masked(dataclasses.asdict(config))
    arguments = settings.pop("arguments")
    return settings | {f"arguments['{name}']": value for name, value in arguments.items()}
