"""From a run's configuration to transformers' TrainingArguments."""

from __future__ import annotations

import dataclasses
import os
import typing
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from attention_guidance.commands.pretraining.distributed import processes
from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from attention_guidance.commands.pretraining.saving.folder import RunFolder

# What the run itself relies on; each has a setting of the run's own, or must stay as it is.
_RESERVED = {
    "output_dir": "--output",
    "max_steps": "--max-steps",
    "num_train_epochs": "--max-steps",
    "per_device_train_batch_size": "--batch-size",
    "gradient_accumulation_steps": "--accumulation",
    "learning_rate": "--learning-rate",
    "seed": "--seed",
    "data_seed": "--seed",
    "bf16": "--precision",
    "fp16": "--precision",
    "save_total_limit": "--keep-checkpoints",
    "eval_steps": "--eval-every",
    "save_steps": "--save-every",
    "report_to": "--report-to",
    "max_grad_norm": "--max-grad-norm",
    "weight_decay": "--weight-decay",
    "auto_find_batch_size": "--batch-size",
    "train_sampling_strategy": "the run's own order, which a resume relies on",
    "ignore_data_skip": "the run's own order, which a resume relies on",
    "fsdp": "--shard",
    "fsdp_config": "--shard",
    "remove_unused_columns": "the run's own batches",
    "label_smoothing_factor": "the masked-LM objective as it is",
    "save_only_model": "whole checkpoints, which a resume relies on",
    "resume_from_checkpoint": "--resume",
    "eval_strategy": "--eval-every",
    "save_strategy": "--save-every",
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
    given = {name: _checked(name, value) for name, value in config.arguments.items()}
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
        raise ConfigError("shard: one process has no other to share with; start several with torchrun, or leave it out")
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise ConfigError("accelerate launch --use_fsdp: give --shard here instead, and leave --use_fsdp out")
    per_device = config.batch_size // parts
    settings: dict[str, Any] = {
        "output_dir": str(folder.checkpoints),
        "max_steps": config.total_steps,
        "per_device_train_batch_size": per_device,
        "per_device_eval_batch_size": per_device,
        "gradient_accumulation_steps": config.accumulation,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": round(config.warmup_share * config.max_steps),
        "weight_decay": config.weight_decay,
        "adam_beta2": 0.98,  # as RoBERTa; steadier than 0.999 where runs are short
        "max_grad_norm": config.max_grad_norm,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "seed": config.seed,
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
        "save_total_limit": config.keep_checkpoints,
        "report_to": report_to,
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available() and not torch.backends.mps.is_available(),
    }
    try:
        arguments = TrainingArguments(**(settings | given))
    except (ValueError, TypeError, ImportError, AttributeError, OSError) as error:
        raise ConfigError(f"transformers' TrainingArguments: {' '.join(str(error).split())}") from error
    optimizer = given.get("optim", "")
    if unfit := next((why for part, why in _UNFIT.items() if part in optimizer), None):
        raise ConfigError(f"--set optim={optimizer}: {unfit}; take another, such as adamw_torch or adafactor")
    if arguments.per_device_eval_batch_size < 1:
        raise ConfigError(f"--set per_device_eval_batch_size={arguments.per_device_eval_batch_size} must be at least 1")
    use_one_device(arguments)
    return arguments


def use_one_device(arguments: TrainingArguments) -> None:
    """Let a process train on one GPU, also where it sees several.

    Trainer would put the model into `nn.DataParallel`, which multiplies the batch by their number and passes over
    autocast and guidance. Several GPUs are for several processes.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1


def _checked(name: str, value: Any) -> Any:
    """The value of an argument, of the kind that transformers declares where that is a number or a switch."""
    if name in _RESERVED:
        raise ConfigError(f"--set {name}: use {_RESERVED[name]}")
    if name not in {field.name for field in dataclasses.fields(TrainingArguments)}:
        raise ConfigError(f"--set {name}: transformers' TrainingArguments has no such field")
    hint = typing.get_type_hints(TrainingArguments)[name]
    kinds = set(typing.get_args(hint) or (hint,))
    if value is False and bool not in kinds:
        return "no"  # what YAML reads as a switch is a word where no switch is wanted
    if not kinds <= {int, float, bool, type(None)} or type(value) in kinds:
        return value
    if float in kinds and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-6 as text
        except ValueError:
            pass
    wanted = " or ".join(sorted(kind.__name__ for kind in kinds - {type(None)}))
    raise ConfigError(f"--set {name}={value!r} must be {wanted}")


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
