"""Choose the model of a run: RoBERTa of given size, another model of transformers, or a trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attention_guidance.adapters.positions import longest_input
from attention_guidance.commands.reading.json_files import parse_json
from attention_guidance.errors import ConfigError, reason_of
from attention_guidance.models import AttentionOnlyConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from attention_guidance.commands.pretraining.settings.run_config import RunConfig

RUN_FILE = "run.yaml"
"""The file of a run's settings, which marks its folder."""

# Fields of a run, and their names in configurations of transformers.
_SIZES = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "attention_heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
}
DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)


def stated_sizes(arch_config: str | None, init_from: str | None) -> dict[str, int]:
    """The model sizes in a configuration or of a trained model, by field of a run.

    Raises:
        ConfigError: The configuration cannot be read.
    """
    if arch_config is None and init_from is None:
        return {}
    given = _trained_config(init_from) if init_from is not None else _from_file(str(arch_config), {})
    sizes = {field: getattr(given, name, None) for field, name in _SIZES.items()}
    return {field: size for field, size in sizes.items() if isinstance(size, int)}


def new_config(config: RunConfig, arch: str, known: Mapping[str, Any]) -> PreTrainedConfig:
    """Create the configuration of a model with random weights.

    Args:
        config: Settings of the run.
        arch: Default model type.
        known: Fields that the tokenizer and the objective determine.

    Raises:
        ConfigError: transformers has no such model type, or does not accept the values, or the model type has no
            range of initial weights.
    """
    if config.arch_config is not None:
        return _from_file(config.arch_config, known)
    sizes = {name: getattr(config, field) for field, name in _SIZES.items()}
    if "pad_token_id" in known:
        # RoBERTa numbers positions from the padding id + 1.
        sizes["max_position_embeddings"] = config.block_size + known["pad_token_id"] + 1
    arch = config.arch or arch
    new = _for_model(arch, sizes | ({"type_vocab_size": 1} if arch == "roberta" else {}) | dict(known))
    for name in DROPOUTS:
        if hasattr(new, name):
            setattr(new, name, config.dropout)
    if config.initializer_range is not None:
        if not hasattr(new, "initializer_range"):
            raise ConfigError(f"initializer_range={config.initializer_range}: {arch} has no such setting; leave it out")
        new.initializer_range = config.initializer_range
    return new


def trained(name: str, load: Callable[[str], PreTrainedModel]) -> PreTrainedModel:
    """Load a trained model.

    Args:
        name: Folder, or name on the hub.
        load: Function that loads it.

    Raises:
        ConfigError: The model cannot be loaded.
    """
    try:
        return load(name)
    except Exception as error:  # transformers, safetensors and the hub raise many types
        raise _unreadable("init_from", name, error) from error


def longest_stated(arch_config: str | None, init_from: str | None) -> int | None:
    """The maximum sequence length of the model of a configuration, or of a trained model; None if unknown.

    Raises:
        ConfigError: The configuration cannot be read.
    """
    from transformers import AutoModel

    given = _trained_config(init_from) if init_from is not None else _from_file(str(arch_config), {})
    try:
        # A model without weights, since no configuration states where positions start.
        with torch.device("meta"):
            return longest_input(AutoModel.from_config(given, trust_remote_code=False))
    except Exception:  # any error of the model, reported when the run creates it
        return None


def resolved(init_from: str) -> str:
    """Replace a run's folder by that of its model; paths become absolute, so that a run can be resumed anywhere."""
    path = Path(init_from)
    if (path / RUN_FILE).is_file():
        if any(path.glob(f"seed-*/*/{RUN_FILE}")):
            one = path / "seed-1" / "guided"
            raise ConfigError(f"init_from={init_from!r} is a comparison; give one of its runs, such as {one}")
        if not (path / "model").is_dir():
            raise ConfigError(f"init_from={init_from!r} is an unfinished run; give one of its checkpoints")
        path = path / "model"
    return str(path.absolute()) if path.exists() else init_from


def tokenizer_folder(given: str) -> str:
    """Replace the folder of a run by that of its tokenizer; other folders and names are unchanged."""
    path = Path(given)
    return str(path / "tokenizer") if (path / RUN_FILE).is_file() and (path / "tokenizer").is_dir() else given


def _trained_config(name: str) -> PreTrainedConfig:
    from transformers import AutoConfig

    path = Path(name)
    if not path.exists() and (path.is_absolute() or len(path.parts) > 2 or name.startswith((".", "~"))):
        raise ConfigError(
            f"init_from={name!r}: no such folder; give the folder of a model or run, or a name on the hub"
        )
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers and the hub raise many types
        raise _unreadable("init_from", name, error) from error


def _from_file(file: str, known: Mapping[str, Any]) -> PreTrainedConfig:
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable("arch_config", file, error) from error
    stated = parse_json(text, f"arch_config={file!r}", f"give {_GIVE['arch_config']}", ConfigError)
    if not isinstance(stated, dict) or not isinstance(stated.get("model_type"), str):
        raise ConfigError(f"arch_config={file!r}: the file has no model_type; give a config.json of transformers")
    values = {k: v for k, v in stated.items() if k != "model_type"} | dict(known)
    return _for_model(stated["model_type"], values, f"arch_config={file!r}: ")


def _for_model(arch: str, values: Mapping[str, Any], place: str = "") -> PreTrainedConfig:
    from transformers import CONFIG_MAPPING, AutoConfig

    if arch not in CONFIG_MAPPING:
        raise ConfigError(
            f"{place}arch={arch!r} is not a model type of transformers; try roberta, bert, modernbert, "
            f"{AttentionOnlyConfig.model_type}"
        )
    try:
        return AutoConfig.for_model(arch, **values)
    except Exception as error:  # strict configurations raise their own error types
        reason = (str(error).strip() or type(error).__name__).replace("\n", " ")
        raise ConfigError(f"{place}arch={arch!r} does not accept these settings: {reason}") from error


_GIVE = {
    "arch_config": "a config.json of transformers",
    "init_from": "a folder written by save_pretrained, the folder of a run, or a name on the Hugging Face hub",
}


def _unreadable(field: str, name: str, error: Exception) -> ConfigError:
    return ConfigError(f"{field}={name!r}: cannot be loaded ({reason_of(error)}); give {_GIVE[field]}")
