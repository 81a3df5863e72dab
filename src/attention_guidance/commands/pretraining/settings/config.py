"""The settings of a run: one typed record, layered from preset, YAML file and flags, and written back in full."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from attention_guidance.commands import results
from attention_guidance.commands.objectives import GUIDED_PARTS, OBJECTIVES, OTHER_THAN_TEXT
from attention_guidance.commands.objectives.own import is_own
from attention_guidance.commands.pretraining.loop.clock import ENDLESS, seconds_of
from attention_guidance.commands.pretraining.settings.architectures import (
    RUN_FILE,
    check_choice,
    longest_stated,
    resolved,
    stated_sizes,
    tokenizer_folder,
)
from attention_guidance.commands.pretraining.settings.idle import check_idle
from attention_guidance.commands.pretraining.settings.presets import beside_preset, get_preset
from attention_guidance.commands.text.pipes import is_piped, kept
from attention_guidance.errors import ConfigError

CONFIG_FILE = RUN_FILE


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a pre-training run computes. Defaults are those of the preset `mini`.

    Attributes:
        corpus: text files and folders; empty means the text that comes with the package.
        dataset: a data set of the Hugging Face hub instead of files, by its name, or a folder of one.
        dataset_config, dataset_split: which of its configurations and splits.
        validation: files to validate on; empty means a part held out of the corpus.
        validation_share: share of the text that is held out.
        max_validation_tokens: at most this many tokens are validated on, so that validation stays cheap; of the corpus
            no more are held out.
        text_field: field of JSONL, column of CSV, TSV and Parquet files that holds the text.
        documents: what a document of a plain text file is: `auto`, `line`, `blank` (line between), `file`.
        errors: `strict`, or `replace` invalid UTF-8 and go on.
        tokenizer: folder or name of a tokenizer; None trains one on the corpus.
        vocab_size: vocabulary of the tokenizer to train; None derives it from the size of the text.
        pad_vocab: rounds the vocabulary of the model up to a multiple of this; the rows beyond are unused.
        line_by_line: one document a sequence, padded, instead of packed blocks.
        preset: where the defaults of the fields below came from.
        arch: kind of the model, as transformers calls it; None is RoBERTa.
        arch_config: a config.json of transformers that decides the model, but for what the tokenizer decides.
        init_from: go on with a trained model: its folder, that of a run, or a name on the hub. Its tokenizer is taken
            unless another is given, which has to keep its tokens and may add to them.
        layers, hidden, attention_heads, feed_forward, dropout: the model; see `ModelSize`. Sizes are read off
            `arch_config` or `init_from` where given, and dropout is theirs.
        block_size: tokens in a sequence; not given, it is no more than `arch_config` or `init_from` takes.
        batch_size: sequences in an optimisation step, over all accumulation steps and processes.
        accumulation: forward and backward passes that make up an optimisation step.
        max_steps: optimisation steps.
        max_time: train for this long instead, e.g. `3h` or `90m`: all schedules go by the clock, and so do validations
            and checkpoints.
        learning_rate: its peak; it warms up, then falls linearly to 0.
        warmup_share: share of the steps that warm up.
        weight_decay: AdamW's.
        max_grad_norm: gradients are clipped to this norm; 0 leaves them.
        objective: what is learnt: `mlm`, `whole-word`, `span`, `rtd`, `mlm+nsp`, `mlm+sop`, `mim`, `speech`, or a
            function of the user's as `file.py:function`; see `pretraining.preparation.objective`.
        masking_rate: share of the tokens (patches of `mim`, frames of `speech`) to hide.
        final_masking_rate: what that goes to, linearly over the run; None leaves it.
        generator_share: of `rtd`: width of the generator as a share of the discriminator's.
        guided_part: of `rtd`: which encoder is guided, `discriminator`, `generator` or `both`.
        image_size, patch_size: of `mim`: sides of images and patches in pixels.
        precision: `auto` (bf16 where the machine computes in it, else fp32), `bf16`, `fp16` or `fp32`.
        shard: lay parameters, gradients and the optimizer's state out in shares over the processes (FSDP2), which must
            then be several.
        heads: the guided heads; empty trains without guidance.
        weight: pull on each guided head.
        loss: guidance loss, `squared_error` or `log_mass`.
        normalization: `query` or `elementwise`.
        backend: what computes the guided heads, see `attention_guidance.loss.backends`.
        schedule: how the weight changes: `constant`, `linear`, `hold-then-linear`, `cosine`.
        hold, end: when it begins to fall and when it is 0: steps (integer) or share of the run (0.0 to 1.0).
        token_classes: classes of tokens of one's own for `heads`: name to list of tokens.
        seed: of initial weights, order, masks and dropout; what is validated on is the same for all.
        eval_every: steps between validations; None takes a thirtieth of the run.
        save_every: steps between checkpoints; None takes a tenth of the run, 1,000 at most.
        keep_checkpoints: how many of the newest are kept.
        report_to: where transformers' Trainer reports to, e.g. tensorboard, wandb, none.
        arguments: any other field of transformers' TrainingArguments.
    """

    corpus: list[str] = field(default_factory=list)
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_split: str = "train"
    validation: list[str] = field(default_factory=list)
    validation_share: float = 0.02
    max_validation_tokens: int = 32_768
    text_field: str = "text"
    documents: str = "auto"
    errors: str = "strict"
    tokenizer: str | None = None
    vocab_size: int | None = None
    pad_vocab: int | None = None
    line_by_line: bool = False
    preset: str = "mini"
    arch: str | None = None
    arch_config: str | None = None
    init_from: str | None = None
    layers: int = 4
    hidden: int = 256
    attention_heads: int = 8
    feed_forward: int = 1024
    dropout: float = 0.0
    block_size: int = 128
    batch_size: int = 32
    accumulation: int = 1
    max_steps: int = 1500
    max_time: str | None = None
    learning_rate: float = 1e-3
    warmup_share: float = 0.06
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    objective: str = "mlm"
    masking_rate: float = 0.15
    final_masking_rate: float | None = None
    generator_share: float = 0.5
    guided_part: str = "discriminator"
    image_size: int = 64
    patch_size: int = 8
    precision: str = "auto"
    shard: bool = False
    heads: str = "next:1 previous:1 first:0.25"
    weight: float = 0.1
    loss: str = "squared_error"
    normalization: str = "query"
    backend: str = "auto"
    schedule: str = "hold-then-linear"
    hold: int | float = 0.2
    end: int | float = 1.0
    token_classes: dict[str, list[str]] = field(default_factory=dict)
    seed: int = 1
    eval_every: int | None = None
    save_every: int | None = None
    keep_checkpoints: int = 2
    report_to: str = "tensorboard"
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{name}={value} must be a finite number")
        for name in ("layers", "hidden", "attention_heads", "feed_forward", "accumulation", "max_steps", "batch_size",
                     "patch_size"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("validation_share", "masking_rate", "final_masking_rate", "generator_share"):
            if (value := getattr(self, name)) is not None and not 0 < value < 1:
                raise ConfigError(f"{name}={value} must lie between 0 and 1")
        for name in ("dropout", "warmup_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 0 and below 1")
        for name in ("learning_rate", "eval_every", "save_every", "keep_checkpoints", "max_validation_tokens",
                     "vocab_size", "pad_vocab"):  # fmt: skip
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"{name}={value} must be above 0")
        for name in ("weight", "weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be 0 or more")
        if self.max_steps > ENDLESS:
            raise ConfigError(f"max_steps={self.max_steps} is more than any run takes; {ENDLESS:,} are the most")
        for name, tokens in self.token_classes.items():
            if not tokens:
                raise ConfigError(f"token_classes: {name} has no tokens; give some, such as {name}=', ;'")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed={self.seed} must be 0 or more and below 2**32")
        if self.block_size < 8:
            raise ConfigError(f"block_size={self.block_size} is too short; 8 tokens are the least, 128 a good start")
        if self.hidden % self.attention_heads:
            raise ConfigError(f"hidden={self.hidden} must be a multiple of attention_heads={self.attention_heads}")
        if self.batch_size % self.accumulation:
            raise ConfigError(f"batch_size={self.batch_size} must be a multiple of accumulation={self.accumulation}")
        if self.tokenizer is not None and self.vocab_size is not None:
            raise ConfigError(
                f"vocab_size={self.vocab_size} is for training a tokenizer, but tokenizer={self.tokenizer!r} is given; "
                "leave one of them out"
            )
        self._check_time()
        if self.dataset is not None and (self.corpus or self.objective in OTHER_THAN_TEXT):
            other = f"corpus={self.corpus[0]!r}" if self.corpus else f"objective={self.objective!r}"
            raise ConfigError(f"dataset={self.dataset!r} is text, and does not go with {other}; leave one of them out")
        check_choice(self)
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size={self.image_size} must be a multiple of patch_size={self.patch_size}")
        if not is_own(self.objective) and self.objective not in OBJECTIVES:
            raise ConfigError(
                f"objective={self.objective!r} is unknown; expected one of {', '.join(OBJECTIVES)}, or file.py:function"
            )
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is unknown; expected one of {', '.join(allowed)}")

    def _check_time(self) -> None:
        if self.max_time is None:
            return
        seconds_of(self.max_time)
        for name in ("eval_every", "save_every"):
            if getattr(self, name) is not None:
                raise ConfigError(f"{name}={getattr(self, name)} counts steps; with max_time it goes by the clock")
        for name in ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"):
            if name in self.arguments:
                raise ConfigError(
                    f"--set {name}={self.arguments[name]}: with max_time the learning rate rises for warmup_share of "
                    "the time and then falls linearly; leave it out, or give max_steps"
                )
        for name in ("hold", "end"):
            if isinstance(getattr(self, name), int) and self.heads:
                raise ConfigError(f"{name}={getattr(self, name)} counts steps; with max_time give a share, such as 0.2")

    @property
    def total_steps(self) -> int:
        """Steps of the run; more than there will be where it goes by the clock."""
        return self.max_steps if self.max_time is None else ENDLESS

    @property
    def eval_steps(self) -> int:
        """Steps between validations."""
        if self.max_time is not None:
            return ENDLESS
        return self.eval_every or max(1, self.max_steps // 30)

    @property
    def save_steps(self) -> int:
        """Steps between checkpoints."""
        if self.max_time is not None:
            return ENDLESS
        return self.save_every or max(1, min(1000, self.max_steps // 10))


_CHOICES = {
    "guided_part": GUIDED_PARTS,
    "documents": ("auto", "line", "blank", "file"),
    "errors": ("strict", "replace"),
    "precision": ("auto", "bf16", "fp16", "fp32"),
}
# What suits an objective better than what suits masked tokens.
_SUITED: dict[str, dict[str, Any]] = {
    "mim": {"masking_rate": 0.6, "heads": "left:1 right:1"},
    "speech": {"masking_rate": 0.5, "heads": "next:1 previous:1"},
    # Beside a loss that weighs 50.
    "rtd": {"weight": 5.0},
}
_FIELDS = {f.name: f for f in dataclasses.fields(RunConfig)}
_TYPES = typing.get_type_hints(RunConfig)


def make_config(
    flags: Mapping[str, Any], config_file: str | Path | None = None, resumed: Path | None = None
) -> RunConfig:
    """Layer settings: defaults, then the preset's, then a resumed run's, then the YAML file's, then the flags'.

    A preset among the flags wins over the file too: what it decides is left out of the file. The preset of a resumed
    run, named again, changes nothing.

    Args:
        flags: field to value; None stands for a flag that was not given.
        config_file: a YAML file of fields.
        resumed: the file of the settings of a run that goes on.

    Returns:
        The whole configuration.

    Raises:
        ConfigError: an unknown field, a value of the wrong kind, an unknown preset.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    from_file: dict[str, Any] = {}
    sources: dict[str, str | Path] = {}
    for file in (file for file in (resumed, config_file) if file is not None):
        # How a run is laid out is each launch's own.
        read = {name: value for name, value in read_yaml(file).items() if file != resumed or name != "shard"}
        from_file |= read
        sources |= dict.fromkeys(read, file)
    preset = given.get("preset", from_file.get("preset", "mini"))
    objective = given.get("objective", from_file.get("objective", RunConfig.objective))
    suited = _SUITED.get(objective, {}) if isinstance(objective, str) else {}
    if "objective" in given and given["objective"] != from_file.get("objective", RunConfig.objective):
        # What suits the objective of the file does not suit another.
        from_file = {name: value for name, value in from_file.items() if name not in suited}
    if "preset" in given and (resumed is None or preset != from_file.get("preset")):
        from_file = beside_preset(from_file, preset)
    layered = {"preset": preset} | get_preset(preset).settings() | suited | from_file | given
    if isinstance(objective, str) and is_own(objective):
        file, _, function = objective.rpartition(":")
        layered["objective"] = f"{Path(file).absolute()}:{function}"
    if "arguments" in given:
        layered["arguments"] = from_file.get("arguments", {}) | given["arguments"]
    # Absolute, so that a run can be resumed, and its run.yaml used, from any folder.
    layered |= {
        name: [path if is_piped(path) else str(Path(path).absolute()) for path in layered[name]]
        for name in _PATHS
        if _is_texts(layered.get(name))
    }
    layered |= {
        name: str(Path(layered[name]).absolute())
        for name in ("tokenizer", "dataset")
        if isinstance(layered.get(name), str) and Path(layered[name]).is_dir()
    }
    if isinstance(layered.get("tokenizer"), str):
        layered["tokenizer"] = tokenizer_folder(layered["tokenizer"])
    layered |= _stated(layered, from_file | given)
    sources = {name: file for name, file in sources.items() if name not in given}
    config = RunConfig(**{name: _checked(name, value, sources.get(name)) for name, value in layered.items()})
    defaults = {name: field.default for name, field in _FIELDS.items()} | get_preset(preset).settings() | suited
    check_idle(config, given, defaults)
    # A pipe is read once here, and a run is known by what came through it.
    texts, n = kept([*config.corpus, *config.validation]), len(config.corpus)
    return dataclasses.replace(config, corpus=texts[:n], validation=texts[n:])


def _stated(layered: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration or a trained model decides: its sizes, which nothing else may contradict.

    A block is not longer than it takes, where no length of blocks is asked for.
    """
    paths = {name: layered[name] for name in ("arch_config", "init_from") if isinstance(layered.get(name), str)}
    if "init_from" in paths:
        paths["init_from"] = resolved(paths["init_from"])
    if "arch_config" in paths:
        paths["arch_config"] = str(Path(paths["arch_config"]).absolute())
    sizes = stated_sizes(paths.get("arch_config"), paths.get("init_from"))
    by_preset = get_preset(asked["preset"]).settings() if "preset" in asked else {}
    for name, size in sizes.items():
        decider = f"{', '.join(paths)} decides that it is {size}"
        if name in asked and asked[name] != size:
            raise ConfigError(f"{name}={asked[name]!r}, but {decider}")
        if name not in asked and by_preset.get(name, size) != size:
            raise ConfigError(
                f"preset={asked['preset']!r} has {name}={by_preset[name]}, but {decider}; leave preset out, and give "
                "settings of training by themselves"
            )
    if paths and "block_size" not in asked:
        limit = longest_stated(paths.get("arch_config"), paths.get("init_from"))
        sizes["block_size"] = min(layered["block_size"], limit or layered["block_size"])
    return paths | sizes


_PATHS = ("corpus", "validation")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(path, str) and path for path in value)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read the fields of a run from a YAML file.

    Raises:
        ConfigError: missing, not YAML, not a mapping, or with a field that does not exist.
    """
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read --config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"--config {path} must hold fields such as 'max_steps: 1000', one a line")
    if unknown := sorted(str(name) for name in loaded if name not in _FIELDS):
        raise ConfigError(f"--config {path}: unknown field {unknown[0]!r}; known are {', '.join(_FIELDS)}")
    return loaded


def write_yaml(config: RunConfig, path: Path) -> None:
    """Write a configuration in full, so that `--config` with it makes the same run; what is so already is left."""
    text = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        results.write_text(path, text)


def _checked(name: str, value: Any, source: str | Path | None) -> Any:
    """A value of the field's type: YAML writes 1e-3 as text and 1 for 1.0."""
    expected = _TYPES[name]
    kinds = typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,)
    plain = tuple(typing.get_origin(kind) or kind for kind in kinds)
    if list in plain and isinstance(value, str):
        value = [value]
    where = f" in {source}" if source else ""
    if isinstance(value, plain) and not (isinstance(value, bool) and bool not in plain):
        if not _holds_text(name, value):
            raise ConfigError(f"{name}={value!r}{where} must hold text; put it in quotes")
        return value
    if float in plain and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    wanted = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in plain)
    raise ConfigError(f"{name}={value!r}{where} must be {wanted}")


def _holds_text(name: str, value: Any) -> bool:
    """Whether the members of a list or mapping are what they must be; YAML reads 1 and yes as no text."""
    if isinstance(value, list):
        return all(isinstance(member, str) for member in value)
    if name == "token_classes":
        lists = [*value.values()]
        return all(isinstance(name, str) for name in value) and all(
            isinstance(tokens, list) and _holds_text("", tokens) for tokens in lists
        )
    return True
