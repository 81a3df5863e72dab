"""Reject arguments that transformers' Trainer would ignore."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention_guidance.errors import ConfigError

# The arguments that Trainer ignores, by another argument and its value.
_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")
_UNREAD: dict[str, dict[str, tuple[str, ...]]] = {
    "lr_scheduler_type": {
        "constant": ("warmup_steps", "lr_scheduler_kwargs"),
        "constant_with_warmup": ("lr_scheduler_kwargs",),
        "reduce_lr_on_plateau": ("warmup_steps",),
        "greedy": ("warmup_steps",),
    },
    "optim": {
        "adamw_torch": ("optim_args", "optim_target_modules"),
        "adamw_torch_fused": ("optim_args", "optim_target_modules"),
        "adafactor": ("optim_args", "optim_target_modules", *_ADAM),
        "sgd": ("optim_target_modules", *_ADAM),
        "adagrad": ("optim_target_modules", *_ADAM),
        "rmsprop": ("optim_target_modules", *_ADAM),
    },
}
_UNLESS_CHOSEN = {"lr_scheduler_type": "linear", "optim": "adamw_torch"}


def warms_up(arguments: Mapping[str, Any]) -> bool:
    """Whether the chosen learning rate schedule has warmup."""
    return "warmup_steps" not in _unread(arguments, "lr_scheduler_type")


def check_read(arguments: Mapping[str, Any]) -> None:
    """Check that Trainer uses every argument.

    Raises:
        ConfigError: An argument has no effect; the message names the argument and value that cause this.
    """
    for choice, default in _UNLESS_CHOSEN.items():
        for name in _unread(arguments, choice):
            if name in arguments:
                chosen = arguments.get(choice, default)
                raise ConfigError(
                    f"arguments['{name}']={arguments[name]} has no effect with {choice}={chosen}; leave it out"
                )


def _unread(arguments: Mapping[str, Any], choice: str) -> tuple[str, ...]:
    return _UNREAD[choice].get(str(arguments.get(choice, _UNLESS_CHOSEN[choice])), ())
