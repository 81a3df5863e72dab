"""Which settings of a run may change when it is resumed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config

# What leaves the curve of a run as it is may change when it resumes. Checkpoints hold whole tensors however
# the model was laid out; how text is read may change as long as the same blocks come out, which is checked then.
_MAY_CHANGE = {
    "shard", "report_to", "keep_checkpoints", "accumulation",
    "corpus", "dataset", "dataset_config", "dataset_split", "validation", "text_field", "documents", "errors",
} | {
    f"--set {name}"
    for name in (
        "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
        "dataloader_prefetch_factor", "dataloader_multiprocessing_context",
        "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing",
        "gradient_checkpointing_kwargs", "torch_empty_cache_steps", "per_device_eval_batch_size",
        "run_name", "project", "log_level", "log_level_replica", "log_on_each_node", "ddp_timeout",
    )
}  # fmt: skip


def other_run(config: RunConfig, saved: Path) -> str | None:
    """What tells a run that was begun from one to be resumed, but for what leaves its curve as it is.

    Returns:
        The setting that differs with both values, and what would work; None if they are the same run.
    """
    before, now = (_by_name(of) for of in (make_config({}, saved), config))
    for name in before | now:
        if before.get(name) == now.get(name) or name in _MAY_CHANGE:
            continue
        what = f"a run with {name}={before.get(name)!r}, not {now.get(name)!r}"
        if name not in ("max_steps", "max_time"):
            return f"{what}: resume it with the same settings"
        run = "one of its runs" if any(saved.parent.glob("seed-*")) else saved.parent
        return (
            f"{what}, and its schedules are made for that length: let it end, then train its model on in another "
            f"--output with --init-from {run} and the steps to add"
        )
    return None


def _by_name(config: RunConfig) -> dict[str, Any]:
    """The settings of a run, its arguments for Trainer among them."""
    settings = dataclasses.asdict(config)
    arguments = settings.pop("arguments")
    return settings | {f"--set {name}": value for name, value in arguments.items()}
