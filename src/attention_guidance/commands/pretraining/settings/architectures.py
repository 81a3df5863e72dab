"""Which model a run trains: RoBERTa by its sizes, any other masked language model of transformers, or a trained one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attention_guidance.commands.pretraining.settings.positions import longest_input
from attention_guidance.errors import ConfigError, reason_of
from attention_guidance.models import AttentionOnlyConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from attention_guidance.commands.pretraining.settings.run_config import RunConfig

RUN_FILE = "run.yaml"
"""What marks the folder of a run: its settings."""

# Fields of a run, and what configurations of transformers call them.
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
    """The sizes that a configuration or a trained model states, as fields of a run.

    Raises:
        ConfigError: it cannot be read.
    """
    if arch_config is None and init_from is None:
        return {}
    given = _trained_config(init_from) if init_from is not None else _from_file(str(arch_config), {})
    sizes = {field: getattr(given, name, None) for field, name in _SIZES.items()}
    return {field: size for field, size in sizes.items() if isinstance(size, int)}


def new_config(config: RunConfig, arch: str, known: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration of a model with random weights.

    Args:
        config: the run.
        arch: the kind of model where the run does not say.
        known: what tokenizer and objective decide.

    Raises:
        ConfigError: transformers has no such model.
    """
    if config.arch_config is not None:
        return _from_file(config.arch_config, known)
    sizes = {name: getattr(config, field) for field, name in _SIZES.items()}
    if "pad_token_id" in known:
        # RoBERTa numbers positions from the padding id + 1 on.
        sizes["max_position_embeddings"] = config.block_size + known["pad_token_id"] + 1
    arch = config.arch or arch
    made = _for_model(arch, sizes | ({"type_vocab_size": 1} if arch == "roberta" else {}) | dict(known))
    for name in DROPOUTS:
        if hasattr(made, name):
            setattr(made, name, config.dropout)
    return made


def trained(name: str, load: Callable[[str], PreTrainedModel]) -> PreTrainedModel:
    """A model with its weights.

    Args:
        name: its folder, or name on the hub.
        load: loads it.

    Raises:
        ConfigError: it cannot be loaded.
    """
    try:
        return load(name)
    except Exception as error:  # transformers, safetensors and the hub raise all kinds
        raise _unreadable("init_from", name, error) from error


def longest_stated(arch_config: str | None, init_from: str | None) -> int | None:
    """The most tokens that the model of a configuration, or a trained one, has positions for; None if it does not tell.

    Raises:
        ConfigError: it cannot be read.
    """
    from transformers import AutoModel

    given = _trained_config(init_from) if init_from is not None else _from_file(str(arch_config), {})
    try:
        # Without weights; where positions begin is told by no configuration.
        with torch.device("meta"):
            return longest_input(AutoModel.from_config(given, trust_remote_code=False))
    except Exception:  # whatever a model of any kind raises: said when the run makes it
        return None


def resolved(init_from: str) -> str:
    """The folder of the model where that of a run is given; an absolute one, so that a run can be resumed anywhere."""
    path = Path(init_from)
    if (path / RUN_FILE).is_file():
        if any(path.glob(f"seed-*/*/{RUN_FILE}")):
            one = path / "seed-1" / "guided"
            raise ConfigError(f"init_from={init_from!r} is a comparison; name one of its runs, such as {one}")
        if not (path / "model").is_dir():
            raise ConfigError(f"init_from={init_from!r} is a run that has not ended; name one of its checkpoints")
        path = path / "model"
    return str(path.absolute()) if path.exists() else init_from


def tokenizer_folder(given: str) -> str:
    """The folder of the tokenizer where that of a run is given; any other folder or name as it is."""
    path = Path(given)
    return str(path / "tokenizer") if (path / RUN_FILE).is_file() and (path / "tokenizer").is_dir() else given


def _trained_config(name: str) -> PreTrainedConfig:
    from transformers import AutoConfig

    path = Path(name)
    if not path.exists() and (path.is_absolute() or len(path.parts) > 2 or name.startswith((".", "~"))):
        raise ConfigError(f"init_from={name!r}: no such folder; give that of a model or of a run, or a name on the hub")
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers and the hub raise all kinds
        raise _unreadable("init_from", name, error) from error


def _from_file(file: str, known: Mapping[str, Any]) -> PreTrainedConfig:
    try:
        stated = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable("arch_config", file, error) from error
    if not isinstance(stated, dict) or not isinstance(stated.get("model_type"), str):
        raise ConfigError(f"arch_config={file!r}: no model_type there; give a config.json of transformers")
    return _for_model(stated["model_type"], {k: v for k, v in stated.items() if k != "model_type"} | dict(known))


def _for_model(arch: str, values: Mapping[str, Any]) -> PreTrainedConfig:
    from transformers import CONFIG_MAPPING, AutoConfig

    if arch not in CONFIG_MAPPING:
        raise ConfigError(
            f"arch={arch!r} is none that transformers knows; try roberta, bert, modernbert, "
            f"{AttentionOnlyConfig.model_type}"
        )
    try:
        return AutoConfig.for_model(arch, **values)
    except Exception as error:  # strict configurations raise errors of their own
        reason = (str(error).strip() or type(error).__name__).replace("\n", " ")
        raise ConfigError(f"arch={arch!r} cannot be made so: {reason}") from error


_GIVE = {
    "arch_config": "a config.json of transformers",
    "init_from": "a folder of save_pretrained's or of a run, or a name on the Hugging Face hub",
}


def _unreadable(field: str, name: str, error: Exception) -> ConfigError:
    return ConfigError(f"{field}={name!r}: cannot be loaded ({reason_of(error)}); give {_GIVE[field]}")
