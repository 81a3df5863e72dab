"""Settings that would do nothing: given all the same, they are an error and not passed over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attention_guidance.commands.objectives import OTHER_THAN_TEXT
from attention_guidance.commands.objectives.own import is_own
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from attention_guidance.commands.pretraining.settings.config import RunConfig

_OF_TEXT = (
    "text_field", "documents", "tokenizer", "vocab_size", "pad_vocab", "line_by_line",
    "token_classes",
)  # fmt: skip


@dataclass(frozen=True)
class _Need:
    """What some settings need to do anything."""

    settings: Collection[str]
    what: str
    met: Callable[[RunConfig], bool]


_NEEDS = (
    _Need(("generator_share", "guided_part"), "objective rtd", lambda c: c.objective == "rtd"),
    _Need(("image_size", "patch_size"), "objective mim", lambda c: c.objective == "mim"),
    _Need(("dataset_config", "dataset_split"), "a dataset", lambda c: c.dataset is not None),
    _Need(("max_steps",), "a run without max_time", lambda c: c.max_time is None),
    _Need(_OF_TEXT, "objectives of text", lambda c: c.objective not in OTHER_THAN_TEXT),
    _Need(
        ("final_masking_rate",),
        "objectives that mask tokens",
        lambda c: c.objective not in OTHER_THAN_TEXT and not is_own(c.objective),
    ),
    _Need(("masking_rate",), "objectives other than a function", lambda c: not is_own(c.objective)),
    _Need(
        ("dropout", "generator_share"),
        "a new model; arch_config and init_from bring theirs",
        lambda c: c.arch_config is None and c.init_from is None,
    ),
    _Need(("warmup_share",), "a run without --set warmup_steps", lambda c: "warmup_steps" not in c.arguments),
    _Need(
        ("warmup_share",),
        "schedules of the learning rate that warm up",
        lambda c: "warmup_steps" not in _UNREAD["lr_scheduler_type"].get(_chosen(c, "lr_scheduler_type"), ()),
    ),
)
# Which other arguments Trainer passes over, by its argument and the value of that.
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


def _chosen(config: RunConfig, name: str) -> str:
    return str(config.arguments.get(name, _UNLESS_CHOSEN[name]))


def check_idle(config: RunConfig, given: Collection[str], defaults: Mapping[str, Any]) -> None:
    """Make sure that everything given does something.

    Args:
        config: the run.
        given: names of the settings that were given, flags and not those of a file, which may be a run's whole.
        defaults: what they would be otherwise.

    Raises:
        ConfigError: one does nothing; says what it is for.
    """
    for need in _NEEDS:
        for name in need.settings:
            value = getattr(config, name)
            if name in given and value != defaults[name] and not need.met(config):
                raise ConfigError(f"{name}={value!r} is for {need.what}; leave it out")
    if "arguments" in given:
        for choice, unread in _UNREAD.items():
            chosen = _chosen(config, choice)
            for name in unread.get(chosen, ()):
                if name in config.arguments:
                    raise ConfigError(
                        f"--set {name}={config.arguments[name]} does nothing with {choice}={chosen}; leave it out"
                    )
