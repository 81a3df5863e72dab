"""The settings of a run, each declared once: type, default, help, rules, and the Trainer arguments that it decides.

This module does not import torch, so that the command line's help is instant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from attention_guidance.commands.objectives import GUIDED_PARTS, OBJECTIVES, OTHER_THAN_TEXT, is_own
from attention_guidance.commands.pretraining.settings.idle import warms_up
from attention_guidance.commands.pretraining.settings.presets import PRESETS
from attention_guidance.commands.setting import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    SHARE_OR_0,
    Rule,
    check,
    setting,
)
from attention_guidance.errors import ConfigError
from attention_guidance.schedules import SHAPES, RelativeWeight, Schedule, Shape

# More steps than any run has: the number given to Trainer and `Draws` if a run has a time limit instead.
ENDLESS = 10**9
PRECISIONS = ("auto", "bf16", "fp16", "fp32")
_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}

# Rules for values.
_ENDS = Rule(f"is too large; the maximum is {ENDLESS:,}", lambda steps: steps <= ENDLESS)
_LONG = Rule("is too short; the minimum is 8 tokens, 128 is a good start", lambda tokens: tokens >= 8)
_KNOWN = Rule(
    f"is unknown; expected one of {', '.join(OBJECTIVES)}, or file.py:function",
    lambda objective: objective in OBJECTIVES or is_own(objective),
)
_MEMBERS = Rule("has a class without tokens; give some, such as ', ;'", lambda classes: all(classes.values()))
# Conditions for settings to have an effect.
_DATASET = Rule("a dataset", lambda run: run.dataset is not None)
_TEXT = Rule("objectives of text", lambda run: run.objective not in OTHER_THAN_TEXT)
_RTD = Rule("objective rtd", lambda run: run.objective == "rtd")
_ONE_ENCODER = Rule("objectives of text with one encoder", lambda run: _TEXT.holds(run) and not _RTD.holds(run))
_MIM = Rule("objective mim", lambda run: run.objective == "mim")
_OURS = Rule("objectives other than a function", lambda run: not is_own(run.objective))
_MASKS = Rule("objectives that mask tokens", lambda run: _TEXT.holds(run) and _OURS.holds(run))
_NEW = Rule(
    "a new model, not with `arch_config` or `init_from`",
    lambda run: run.arch_config is None and run.init_from is None,
)
_CONTINUES = Rule("a run with `init_from`", lambda run: run.init_from is not None)
_STEPS = Rule("a run without `max_time`", lambda run: run.max_time is None)
_SHARED = Rule("a run without arguments['warmup_steps']", lambda run: "warmup_steps" not in run.arguments)
_ABSOLUTE = Rule("a run without `relative_weight`", lambda run: run.relative_weight is None)
_WARMS_UP = Rule("schedules of the learning rate that warm up", lambda run: warms_up(run.arguments))

_data = partial(setting, group="text", free=True)
_text = partial(setting, group="text")
_tokens = partial(setting, group="text", needs=(_TEXT,))
_objective = partial(setting, group="objective")
_model = partial(setting, group="model")
_size = partial(setting, group="model", unset="the preset's")
_training = partial(setting, group="training")
_paced = partial(setting, group="training", unset="the preset's")
_guidance = partial(setting, group="guidance")


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines the results of a pre-training run. The defaults are those of the preset `mini`.

    All settings are declared here, and docs/settings.md lists them. Settings that may change when a run is resumed do
    not affect its training curve: checkpoints have unsharded tensors even if the model was sharded, and the way in
    which text is read may change if the blocks stay the same, which is checked.
    """

    corpus: list[str] = setting(
        [],
        "text files (plain, .jsonl, .csv, .tsv, .parquet; .gz, .bz2, .xz, .zst), folders, - (standard input); images "
        "or recordings for the objectives mim and speech",
        flag="CORPUS",
        unset="the World English Bible",
        free=True,
    )
    seed: int = setting(1, "seed of initial weights, order, masks and dropout", SEED, fills="seed", decides="data_seed")
    preset: str = setting("mini", f"model size, and the training settings that suit it: {', '.join(PRESETS)}")

    dataset: str | None = _data(None, "train on a data set of the Hugging Face hub, or in a folder, not on files")
    dataset_config: str | None = _data(
        None, "configuration of the data set, such as 20231101.sw of wikimedia/wikipedia", needs=(_DATASET,)
    )
    dataset_split: str = _data("train", "split of the data set", needs=(_DATASET,))
    validation: list[str] = _data([], "files to validate on", metavar="FILE", unset="a part of the corpus, held out")
    validation_share: float = _text(0.02, "share of the text to hold out for validation", SHARE)
    max_validation_tokens: int = _text(32_768, "validate on, and hold out, at most this many tokens", POSITIVE)
    text_field: str = _data("text", "field of .jsonl, or column of a table, that holds the text", needs=(_TEXT,))
    documents: str = _data(
        "auto",
        "what one document of a plain text file is: a line, the text between blank lines, or the whole file",
        choices=("auto", "line", "blank", "file"),
        needs=(_TEXT,),
    )
    errors: str = _data("strict", "on invalid UTF-8: stop, or replace it and continue", choices=("strict", "replace"))
    tokenizer: str | None = _tokens(
        None,
        "tokenizer: its folder, the folder of a run, or a name on the hub",
        metavar="PATH",
        unset="that of `init_from` unless `new_tokenizer` replaces it, else one is trained on the corpus",
    )
    new_tokenizer: bool = setting(
        False,
        "replace the vocabulary of `init_from`, by that of `tokenizer` or of one trained on the corpus; tokens in both "
        "keep their weights, others begin as the mean of the old tokens of their text",
        group="text",
        needs=(_TEXT, _CONTINUES),
    )
    vocab_size: int | None = _tokens(
        None, "vocabulary size of the tokenizer to train", POSITIVE, unset="by the size of the text"
    )
    pad_vocab: int | None = _tokens(
        None, "round the model's vocabulary up to a multiple of this, such as 64; extra rows are unused", POSITIVE
    )
    line_by_line: bool = _tokens(False, "make each document one padded sequence, instead of packing text into blocks")
    block_size: int = _text(128, "tokens in a sequence", _LONG, unset="the preset's, or the most the model takes")

    objective: str = _objective(
        "mlm",
        "what the model is trained to predict: mlm (single masked tokens), whole-word (masked words), span (masked "
        "spans of words), rtd (which tokens a generator replaced), mlm+nsp, mlm+sop (also whether two segments follow "
        "each other, or are in order), mim (masked patches of images), speech (masked frames); or a custom function, "
        "FILE.py:NAME",
        _KNOWN,
    )
    masking_rate: float = _objective(
        0.15,
        "share of the tokens, patches or frames to mask",
        SHARE,
        by_objective={"mim": 0.6, "speech": 0.5},
        needs=(_OURS,),
    )
    final_masking_rate: float | None = _objective(
        None, "masking rate at the end, reached linearly", SHARE, unset="the same", needs=(_MASKS,)
    )
    generator_share: float = _objective(
        0.5, "rtd: width of the generator, as a share of the discriminator's", SHARE, needs=(_RTD, _NEW)
    )
    guided_part: str = _objective("discriminator", "rtd: which encoder is guided", choices=GUIDED_PARTS, needs=(_RTD,))
    image_size: int = _objective(64, "mim: side of the images in pixels", needs=(_MIM,))
    patch_size: int = _objective(8, "mim: side of the patches in pixels", AT_LEAST_1, needs=(_MIM,))

    arch: str | None = _model(
        None,
        "architecture, as transformers calls it: bert, modernbert, ..., or attention-only",
        unset="roberta, or what suits the objective",
    )
    arch_config: str | None = _model(
        None,
        "config.json of transformers that defines the model, except what the tokenizer decides",
        metavar="FILE",
    )
    init_from: str | None = _model(
        None,
        "continue training this model: its folder, the folder of a run, or a name on the hub; its tokenizer is used "
        "unless `tokenizer` gives another, which must keep its tokens and may add to them, or `new_tokenizer` replaces "
        "it",
        metavar="MODEL",
    )
    layers: int = _size(4, "encoder layers", AT_LEAST_1)
    hidden: int = _size(256, "width of the hidden states", AT_LEAST_1)
    attention_heads: int = _size(8, "attention heads in each layer", AT_LEAST_1)
    feed_forward: int = _size(1024, "width of the feed-forward blocks", AT_LEAST_1)
    dropout: float = _size(0.0, "dropout of hidden states and attention", SHARE_OR_0, needs=(_NEW,))
    initializer_range: float | None = _model(
        None,
        "standard deviation of a new model's weights",
        POSITIVE,
        unset="the architecture's, mostly 0.02, which is small for narrow models",
        needs=(_NEW,),
    )

    max_steps: int = _paced(
        1500, "optimization steps", AT_LEAST_1, _ENDS, needs=(_STEPS,), decides="max_steps num_train_epochs"
    )
    max_time: str | None = _training(
        None, "train for this long instead, such as 3h or 90m; all schedules follow the clock", metavar="TIME"
    )
    batch_size: int = _paced(
        32,
        "sequences in an optimization step, over all accumulation steps and processes",
        AT_LEAST_1,
        decides="per_device_train_batch_size auto_find_batch_size",
    )
    accumulation: int = _training(
        1,
        "forward and backward passes that make up an optimization step; more need less memory",
        AT_LEAST_1,
        fills="gradient_accumulation_steps",
        free=True,
    )
    learning_rate: float = _paced(
        1e-3, "peak learning rate; it warms up, then falls linearly to 0", POSITIVE, fills="learning_rate"
    )
    warmup_share: float = _training(
        0.06, "share of the steps in which the learning rate warms up", SHARE_OR_0, needs=(_SHARED, _WARMS_UP)
    )
    weight_decay: float = _training(0.01, "weight decay of AdamW", NOT_NEGATIVE, fills="weight_decay")
    max_grad_norm: float = _training(
        1.0, "clip gradients to this norm; 0 does not clip", NOT_NEGATIVE, fills="max_grad_norm"
    )
    max_skipped_steps: int = _training(
        10, "stop as diverged when the loss or gradient was not finite in N consecutive steps", POSITIVE, free=True
    )
    precision: str = _training(
        "auto", "precision; auto: bf16 where the hardware has it, else fp32", choices=PRECISIONS, decides="bf16 fp16"
    )
    shard: bool = _training(
        False, "shard model, gradients and optimizer over processes (FSDP2)", decides="fsdp fsdp_config", free=True
    )
    eval_every: int | None = _training(
        None, "steps between validations", POSITIVE, unset="a thirtieth of the run", decides="eval_steps eval_strategy"
    )
    save_every: int | None = _training(
        None,
        "steps between checkpoints",
        POSITIVE,
        unset="a tenth of the run, at most 1000",
        decides="save_steps save_strategy",
    )
    keep_checkpoints: int = _training(
        2, "how many of the newest checkpoints to keep", POSITIVE, fills="save_total_limit", free=True
    )
    report_to: str = _training(
        "tensorboard",
        "where Trainer reports to, separated by commas: tensorboard, wandb, ..., or none",
        metavar="NAMES",
        decides="report_to",
        free=True,
    )
    arguments: dict[str, Any] = _training(
        {}, "set another field of transformers' TrainingArguments; may be repeated", flag="--set", metavar="NAME=VALUE"
    )

    heads: str = _guidance(
        "next:1 previous:1 first:0.25",
        "which heads follow which pattern, by count or share in every layer (next:1 first:0.25), or by layer and "
        "number ('0-3: next:1; 4-: first@2,3'); '' for no guidance. Patterns: next, previous, first, same, delimiter, "
        "period, offset:K, left, right, up, down, class_token (of images), a class of `token_classes`, unions a|b",
        metavar="SPEC",
        by_objective={"mim": "left:1 right:1", "speech": "next:1 previous:1"},
    )
    match_heads: bool = _guidance(
        False,
        "guide the heads of `init_from` that are closest to their patterns already, as many as `heads` says, not the "
        "first ones; heads that it gives by number stay",
        needs=(_CONTINUES, _ONE_ENCODER),
    )
    # The loss of the discriminator has a weight of 50.
    weight: float = _guidance(
        0.1, "weight of each head's guidance loss", NOT_NEGATIVE, needs=(_ABSOLUTE,), by_objective={"rtd": 5.0}
    )
    relative_weight: float | None = _guidance(
        None,
        "set the weight to so many times the objective's loss in the first step",
        POSITIVE,
        unset="the weight is `weight`",
    )
    loss: str = _guidance("squared_error", "guidance loss: squared_error, log_mass or cross_entropy")
    normalization: str = _guidance(
        "query", "mean over queries (query: weight is per head), or over all pairs of tokens (elementwise: the paper's)"
    )
    backend: str = _guidance("auto", "what computes the guided heads: auto, reference, batched, blocked or triton")
    schedule: str = _guidance("hold-then-linear", f"how the weight decays: {', '.join(SHAPES)}")
    hold: int | float = _guidance(0.2, "when the weight starts to decay: steps, or a share of the run")
    end: int | float = _guidance(1.0, "when the weight reaches 0: steps, or a share of the run")
    token_classes: dict[str, list[str]] = _guidance(
        {},
        "a class of tokens for `heads`, the tokens separated by spaces: comma=', ;'; may be repeated",
        _MEMBERS,
        flag="--token-class",
        metavar="NAME=TOKENS",
        needs=(_TEXT,),
    )

    def __post_init__(self) -> None:
        check(self)
        for name, factor in ("hidden", "attention_heads"), ("batch_size", "accumulation"), ("image_size", "patch_size"):
            if getattr(self, name) % getattr(self, factor):
                raise ConfigError(
                    f"{name}={getattr(self, name)} must be a multiple of {factor}={getattr(self, factor)}"
                )
        self._check_time()
        self._check_choices()

    def _check_time(self) -> None:
        if self.max_time is None:
            return
        seconds_of(self.max_time)
        for name in ("eval_every", "save_every"):
            if getattr(self, name) is not None:
                raise ConfigError(f"{name}={getattr(self, name)} counts steps; with `max_time` it follows the clock")
        for name in ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"):
            if name in self.arguments:
                raise ConfigError(
                    f"arguments['{name}']={self.arguments[name]}: with `max_time` the learning rate rises for "
                    "`warmup_share` of the time and then falls linearly; leave it out, or give `max_steps`"
                )
        for name in ("hold", "end"):
            if isinstance(getattr(self, name), int) and self.heads:
                raise ConfigError(
                    f"{name}={getattr(self, name)} counts steps; with `max_time` give a share, such as 0.2"
                )

    def _check_choices(self) -> None:
        """Check that only one setting decides each of the text, the tokenizer and the model."""
        given = [f"{n}={v!r}" for n in ("arch", "arch_config", "init_from") if (v := getattr(self, n)) is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} both decide the model; give one of them")
        ways = {"tokenizer": "leave one of them out"}
        if not self.new_tokenizer:
            ways["init_from"] = "leave one of them out, or train a new one with `new_tokenizer`"
        for name, way in ways.items():
            if self.vocab_size is not None and (has_one := getattr(self, name)) is not None:
                raise ConfigError(
                    f"vocab_size={self.vocab_size} is for training a tokenizer, but {name}={has_one!r} has one; {way}"
                )
        if self.dataset is not None and (self.corpus or self.objective in OTHER_THAN_TEXT):
            other = f"corpus={self.corpus[0]!r}" if self.corpus else f"objective={self.objective!r}"
            raise ConfigError(f"dataset={self.dataset!r} is text, and does not go with {other}; leave one of them out")

    @property
    def total_steps(self) -> int:
        """Number of steps of the run; with a time limit, more than it will have."""
        return self.max_steps if self.max_time is None else ENDLESS

    @property
    def guidance_weight(self) -> float | RelativeWeight:
        """The weight of guidance, as `guide` takes it."""
        return self.weight if self.relative_weight is None else RelativeWeight(self.relative_weight)

    @property
    def weight_schedule(self) -> Schedule:
        """How the weight of guidance decays.

        Raises:
            ConfigError: There is no such schedule.
        """
        return Schedule(cast(Shape, self.schedule), self.hold, self.end)

    @property
    def eval_steps(self) -> int:
        """Steps between validations."""
        return ENDLESS if self.max_time is not None else self.eval_every or usual_eval_steps(self.max_steps)

    @property
    def save_steps(self) -> int:
        """Steps between checkpoints."""
        return ENDLESS if self.max_time is not None else self.save_every or max(1, min(1000, self.max_steps // 10))


def usual_eval_steps(max_steps: int) -> int:
    """Steps between validations unless a setting says so: a thirtieth of the run."""
    return max(1, max_steps // 30)


def seconds_of(text: str, name: str = "max_time") -> float:
    """Convert a time such as `3h`, `90m`, `1h30m` or `45` (seconds) to seconds.

    Args:
        text: The time.
        name: The setting, for errors.

    Raises:
        ConfigError: The text is not a time, or the time is 0.
    """
    if not re.fullmatch(r"\d+(\.\d+)?|(\d+(\.\d+)?[dhms])+", text):
        raise ConfigError(f"{name}={text!r} is not a time; give 3h, 90m, 1h30m or 45s")
    seconds = sum(float(n) * _UNITS[unit or "s"] for n, _, unit in re.findall(r"(\d+(\.\d+)?)([dhms]?)", text))
    if not seconds > 0:
        raise ConfigError(f"{name}={text!r} must be above 0")
    return seconds
