"""Convert the settings of a run to transformers' TrainingArguments."""

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
from attention_guidance.commands.secrets import all_masked
from attention_guidance.commands.setting import coerced, kinds_of, settings_of
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from attention_guidance.commands.pretraining.saving.folder import RunFolder

# Arguments that cannot be set, and what to use instead; arguments that a setting decides are refused as well.
_RESERVED = {
    "output_dir": "`output`",
    "train_sampling_strategy": "the run's own order, which resuming relies on",
    "ignore_data_skip": "the run's own order, which resuming relies on",
    "remove_unused_columns": "the run's own batches",
    "label_smoothing_factor": "the masked-LM objective without smoothing",
    "save_only_model": "complete checkpoints, which resuming relies on",
    "resume_from_checkpoint": "`resume`",
    "load_best_model_at_end": "the last weights, or a checkpoint",
    "metric_for_best_model": "the validation loss",
    "greater_is_better": "the validation loss",
    "use_liger_kernel": "the run's own head, which predicts at masked positions only",
    "liger_kernel_config": "the run's own head, which predicts at masked positions only",
    # The token would be in every checkpoint.
    **dict.fromkeys(
        ("push_to_hub", *(field.name for field in dataclasses.fields(TrainingArguments) if field.name[:4] == "hub_")),
        "hf upload, once the run is finished, or pretrain's own `push_to_hub`",
    ),
}
# Optimizers, by a part of their name, that do not work with resuming or validation.
_UNSUPPORTED = {
    "layerwise": "its state is not in the checkpoints, so the run could not be resumed",
    "lomo": "its state is not in the checkpoints, so the run could not be resumed",
    "schedule_free": "the weights that it trains are not those to validate and save",
}


class _Arguments(TrainingArguments):  # type: ignore[misc]
    """Arguments that reporters, such as TensorBoard, get without secrets."""

    def to_dict(self) -> dict[str, Any]:
        """See `TrainingArguments`."""
        found: dict[str, Any] = all_masked(super().to_dict())
        return found


def training_arguments(config: RunConfig, folder: RunFolder) -> TrainingArguments:
    """Create the TrainingArguments of a run.

    Raises:
        ConfigError: `config.arguments` has an argument that does not exist, cannot be set, or is decided by a setting,
            or the settings do not fit the processes or the machine.
    """
    declared = settings_of(config)
    filled = {setting.fills: name for name, setting in declared.items() if setting.fills}
    decided = filled | {argument: name for name, setting in declared.items() for argument in setting.decides.split()}
    given = {name: _checked(name, value, decided) for name, value in config.arguments.items()}
    report_to = _reporters(config.report_to)
    if "tensorboard" in report_to or "all" in report_to:
        # The Trainer reads the folder of event files from this variable.
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
            "`shard`: there is only one process to shard over; start several with torchrun, or leave it out"
        )
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise ConfigError("accelerate was launched with FSDP; launch it without, and use `shard` instead")
    per_device = config.batch_size // parts
    settings: dict[str, Any] = {
        "output_dir": str(folder.checkpoints),
        "max_steps": config.total_steps,
        "per_device_train_batch_size": per_device,
        "per_device_eval_batch_size": per_device,
        "lr_scheduler_type": "linear",
        "warmup_steps": round(config.warmup_share * config.max_steps),
        "adam_beta2": 0.98,  # as in RoBERTa; more stable than 0.999 in short runs
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        # `Draws` has shuffled the examples already.
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "logging_steps": min(_logging_steps(config), config.eval_steps),
        "logging_nan_inf_filter": False,  # it would log a loss of 0 for a diverged run
        "eval_strategy": "steps",
        "eval_steps": config.eval_steps,
        "eval_on_start": True,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "report_to": report_to,
        "disable_tqdm": True,
        "use_cpu": best_device().type == "cpu",
    }
    settings |= {argument: getattr(config, name) for argument, name in filled.items()}
    try:
        arguments = _Arguments(**(settings | given))
    except (ValueError, TypeError, ImportError, AttributeError, OSError) as error:
        raise ConfigError(f"transformers' TrainingArguments: {' '.join(str(error).split())}") from error
    optimizer = given.get("optim", "")
    if reason := next((why for part, why in _UNSUPPORTED.items() if part in optimizer), None):
        raise ConfigError(f"arguments['optim']={optimizer}: {reason}; use another, such as adamw_torch or adafactor")
    if arguments.per_device_eval_batch_size < 1:
        size = arguments.per_device_eval_batch_size
        raise ConfigError(f"arguments['per_device_eval_batch_size']={size} must be at least 1")
    use_one_device(arguments)
    return arguments


def _logging_steps(config: RunConfig) -> int:
    """Every 10 steps, but at most some 2,000 times in a run: every checkpoint holds the whole log."""
    return 10 if config.max_time is not None else max(10, config.max_steps // 2000)


def use_one_device(arguments: TrainingArguments) -> None:
    """Let a process train on one GPU, even if it sees several.

    Trainer would wrap the model in `nn.DataParallel`, which multiplies the batch size by the number of GPUs, and skips
    autocast and guidance. To use several GPUs, start several processes.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1


def _checked(name: str, value: Any, decided: Mapping[str, str]) -> Any:
    """Check an argument, and convert its value to the type that transformers declares if that is numeric or boolean."""
    if instead := f"`{decided[name]}`" if name in decided else _RESERVED.get(name):
        raise ConfigError(f"arguments['{name}']: use {instead}")
    if name not in {field.name for field in dataclasses.fields(TrainingArguments)}:
        raise ConfigError(f"arguments['{name}']: transformers' TrainingArguments has no such field")
    kinds = set(kinds_of(TrainingArguments, name))
    if value is False and bool not in kinds:
        return "no"  # YAML reads `no` as false, also for arguments that take the word
    numeric = kinds <= {int, float, bool, type(None)}
    return coerced(TrainingArguments, name, value, called=f"arguments['{name}']") if numeric else value


def _reporters(names: str) -> list[str]:
    """Check the names of the integrations that the Trainer reports to."""
    wanted = [name.strip() for name in names.split(",")]
    known = ["none", "all", *get_available_reporting_integrations()]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"report_to={name!r} is unknown or not installed; expected one of {', '.join(known)}")
    return wanted


def best_device() -> torch.device:
    """The device to train and predict on: a GPU if there is one, else the CPU.

    What torch was built for does not say: a build for CUDA also runs where there is no GPU.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(precision: str) -> str:
    """Choose `bf16`, `fp16` or `fp32`; `auto` is bf16 if the hardware supports it natively, else fp32.

    Emulated bf16 is many times slower than fp32, so a CPU must have bf16 instructions.

    Raises:
        ConfigError: fp16 was requested without a GPU.
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
