"""From a run's configuration to transformers' TrainingArguments."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from attention_guidance.commands.pretraining.distributed import processes
from attention_guidance.commands.pretraining.settings.run_config import RunConfig
from attention_guidance.commands.setting import coerced, kinds_of, settings_of
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from attention_guidance.commands.pretraining.saving.folder import RunFolder

# What must stay as it is, and what to use instead, beside what settings decide.
_RESERVED = {
    "output_dir": "`output`",
    "train_sampling_strategy": "the run's own order, which a resume relies on",
    "ignore_data_skip": "the run's own order, which a resume relies on",
    "remove_unused_columns": "the run's own batches",
    "label_smoothing_factor": "the masked-LM objective as it is",
    "save_only_model": "whole checkpoints, which a resume relies on",
    "resume_from_checkpoint": "`resume`",
    "load_best_model_at_end": "the last weights, or a checkpoint",
    "metric_for_best_model": "the validation loss",
    "greater_is_better": "the validation loss",
    "use_liger_kernel": "the run's own head, which predicts at masked positions only",
    "liger_kernel_config": "the run's own head, which predicts at masked positions only",
    "push_to_hub": "hf upload, once the run has ended",
}
# Optimizers, by a part of their names, with which a run would not be what it promises.
_UNFIT = {
    "layerwise": "its state is in no checkpoint, so that a run could not be resumed",
    "lomo": "its state is in no checkpoint, so that a run could not be resumed",
    "schedule_free": "it trains other weights than are to be validated and kept",
}


def training_arguments(config: RunConfig, folder: RunFolder) -> TrainingArguments:
    """The Trainer's arguments for a run.

    Raises:
        ConfigError: `config.arguments` names an argument that does not exist or that a setting of the run decides.
    """
    declared = settings_of(config)
    filled = {setting.fills: name for name, setting in declared.items() if setting.fills}
    decided = filled | {argument: name for name, setting in declared.items() for argument in setting.decides.split()}
    given = {name: _checked(name, value, decided) for name, value in config.arguments.items()}
    report_to = _reporters(config.report_to)
    if "tensorboard" in report_to or "all" in report_to:
        # The Trainer's own place for event files is this variable.
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder.logs)
    precision = choose_precision(config.precision)
    parts = config.accumulation * processes.count()
    if config.batch_size % parts:
        raise ConfigError(
            f"batch_size={config.batch_size} must be a multiple of accumulation={config.accumulation} times "
            f"{processes.count()} processes"
        )
    if config.shard and processes.count() == 1:
        raise ConfigError(
            "`shard`: one process has no other to share with; start several with torchrun, or leave it out"
        )
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise ConfigError("accelerate launch --use_fsdp: give `shard` here instead, and leave --use_fsdp out")
    per_device = config.batch_size // parts
    settings: dict[str, Any] = {
        "output_dir": str(folder.checkpoints),
        "max_steps": config.total_steps,
        "per_device_train_batch_size": per_device,
        "per_device_eval_batch_size": per_device,
        "lr_scheduler_type": "linear",
        "warmup_steps": round(config.warmup_share * config.max_steps),
        "adam_beta2": 0.98,  # as RoBERTa; steadier than 0.999 where runs are short
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        # The draws are in order already, see Draws.
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "logging_steps": min(10, config.eval_steps),
        "logging_nan_inf_filter": False,  # it would show a diverged run with a loss of 0
        "eval_strategy": "steps",
        "eval_steps": config.eval_steps,
        "eval_on_start": True,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "report_to": report_to,
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available() and not torch.backends.mps.is_available(),
    }
    settings |= {argument: getattr(config, name) for argument, name in filled.items()}
    try:
        arguments = TrainingArguments(**(settings | given))
    except (ValueError, TypeError, ImportError, AttributeError, OSError) as error:
        raise ConfigError(f"transformers' TrainingArguments: {' '.join(str(error).split())}") from error
    optimizer = given.get("optim", "")
    if unfit := next((why for part, why in _UNFIT.items() if part in optimizer), None):
        raise ConfigError(f"arguments['optim']={optimizer}: {unfit}; take another, such as adamw_torch or adafactor")
    if arguments.per_device_eval_batch_size < 1:
        size = arguments.per_device_eval_batch_size
        raise ConfigError(f"arguments['per_device_eval_batch_size']={size} must be at least 1")
    use_one_device(arguments)
    return arguments


def use_one_device(arguments: TrainingArguments) -> None:
    """Let a process train on one GPU, also where it sees several.

    Trainer would put the model into `nn.DataParallel`, which multiplies the batch by their number and passes over
    autocast and guidance. Several GPUs are for several processes.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1


def _checked(name: str, value: Any, decided: Mapping[str, str]) -> Any:
    """The value of an argument, of the kind that transformers declares where that is a number or a switch."""
    if instead := f"`{decided[name]}`" if name in decided else _RESERVED.get(name):
        raise ConfigError(f"arguments['{name}']: use {instead}")
    if name not in {field.name for field in dataclasses.fields(TrainingArguments)}:
        raise ConfigError(f"arguments['{name}']: transformers' TrainingArguments has no such field")
    kinds = set(kinds_of(TrainingArguments, name))
    if value is False and bool not in kinds:
        return "no"  # what YAML reads as a switch is a word where no switch is wanted
    numeric = kinds <= {int, float, bool, type(None)}
    return coerced(TrainingArguments, name, value, called=f"arguments['{name}']") if numeric else value


def _reporters(names: str) -> list[str]:
    """Where the Trainer reports to, each known and installed."""
    wanted = [name.strip() for name in names.split(",")]
    known = ["none", "all", *get_available_reporting_integrations()]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"report_to={name!r} is unknown or not installed; expected one of {', '.join(known)}")
    return wanted


def choose_precision(precision: str) -> str:
    """`bf16`, `fp16` or `fp32`; `auto` is bf16 where the machine computes in it natively.

    Emulated bf16 is many times slower than fp32, so a CPU counts only with bf16 instructions.

    Raises:
        ConfigError: fp16 without a GPU.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("precision='fp16' needs a GPU; use auto, bf16 or fp32")
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    native = any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    return "bf16" if native else "fp32"
