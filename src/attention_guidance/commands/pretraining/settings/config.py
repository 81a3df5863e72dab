"""Combine the settings of a run from preset, YAML file and flags, and write them to YAML in full."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from attention_guidance.commands import results
from attention_guidance.commands.objectives import is_own
from attention_guidance.commands.pretraining.settings.architectures import (
    RUN_FILE,
    longest_stated,
    resolved,
    stated_sizes,
    tokenizer_folder,
)
from attention_guidance.commands.pretraining.settings.idle import check_read
from attention_guidance.commands.pretraining.settings.presets import beside_preset, get_preset
from attention_guidance.commands.pretraining.settings.run_config import RunConfig
from attention_guidance.commands.reading.yaml_text import parse_yaml
from attention_guidance.commands.secrets import all_masked
from attention_guidance.commands.setting import check_needs, coerced, settings_of
from attention_guidance.commands.text.pipes import is_piped, save_pipes
from attention_guidance.errors import ConfigError

__all__ = ["CONFIG_FILE", "RunConfig", "make_config", "read_yaml", "write_yaml"]

CONFIG_FILE = RUN_FILE


def make_config(
    flags: Mapping[str, Any], config_file: str | Path | None = None, resumed: Path | None = None
) -> RunConfig:
    """Combine settings; later ones override earlier: defaults, preset, resumed run, YAML file, flags.

    A preset among the flags also overrides the fields of the file that it decides, unless it is the preset of the
    resumed run.

    Args:
        flags: Values by field; None for a flag that was not given.
        config_file: YAML file of fields.
        resumed: The file with the settings of the run to resume.

    Returns:
        The complete configuration.

    Raises:
        ConfigError: A field or the preset is unknown, a value has the wrong type, or settings contradict each other.
    """
    given = {name: coerced(RunConfig, name, value) for name, value in flags.items() if value is not None}
    from_file: dict[str, Any] = {}
    for file in (file for file in (resumed, config_file) if file is not None):
        # Sharding is chosen anew at each launch.
        from_file |= {name: value for name, value in read_yaml(file).items() if file != resumed or name != "shard"}
    preset = given.get("preset", from_file.get("preset", RunConfig.preset))
    objective = given.get("objective", from_file.get("objective", RunConfig.objective))
    declared = settings_of(RunConfig)
    suited = {name: of[objective] for name in declared if objective in (of := declared[name].by_objective)}
    if "objective" in given and objective != from_file.get("objective", RunConfig.objective):
        # Defaults for the file's objective are not used with another objective.
        from_file = {name: value for name, value in from_file.items() if name not in suited}
    if "preset" in given and (resumed is None or preset != from_file.get("preset")):
        from_file = beside_preset(from_file, preset)
    layered = vars(RunConfig()) | vars(get_preset(preset)) | suited | from_file | given
    layered["arguments"] = from_file.get("arguments", {}) | given.get("arguments", {})
    # Absolute, so that a run can be resumed, and its run.yaml used, from any folder.
    if is_own(objective):
        file, _, function = objective.rpartition(":")
        layered["objective"] = f"{Path(file).absolute()}:{function}"
    for name in ("corpus", "validation"):
        paths = layered[name]
        layered[name] = [str(Path(path).absolute()) if path and not is_piped(path) else path for path in paths]
    for name in ("tokenizer", "dataset"):
        if layered[name] is not None and Path(layered[name]).is_dir():
            layered[name] = str(Path(layered[name]).absolute())
    if layered["tokenizer"] is not None:
        layered["tokenizer"] = tokenizer_folder(layered["tokenizer"])
    config = RunConfig(**(layered | _stated(layered, from_file | given)))
    check_needs(config, given)
    if "arguments" in given:
        check_read(config.arguments)
    # A pipe can be read only once: its text is saved, and identifies the run.
    texts, n = save_pipes([*config.corpus, *config.validation]), len(config.corpus)
    return dataclasses.replace(config, corpus=texts[:n], validation=texts[n:])


def _stated(layered: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a model configuration or a trained model decides: sizes, and a limit for the block size.

    Raises:
        ConfigError: A size was given that differs.
    """
    paths = {name: layered[name] for name in ("arch_config", "init_from") if layered[name] is not None}
    if "init_from" in paths:
        paths["init_from"] = resolved(paths["init_from"])
    if "arch_config" in paths:
        paths["arch_config"] = str(Path(paths["arch_config"]).absolute())
    sizes = stated_sizes(paths.get("arch_config"), paths.get("init_from"))
    by_preset = vars(get_preset(asked["preset"])) if "preset" in asked else {}
    for name, size in sizes.items():
        decider = f"`{'`, `'.join(paths)}` decides that it is {size}"
        if name in asked and asked[name] != size:
            raise ConfigError(f"{name}={asked[name]!r}, but {decider}")
        if name not in asked and by_preset.get(name, size) != size:
            raise ConfigError(
                f"preset={asked['preset']!r} has {name}={by_preset[name]}, but {decider}; leave `preset` out, and give "
                "training settings individually"
            )
    if paths and "block_size" not in asked:
        limit = longest_stated(paths.get("arch_config"), paths.get("init_from"))
        sizes["block_size"] = min(layered["block_size"], limit or layered["block_size"])
    return paths | sizes


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read the fields of a run from a YAML file.

    Raises:
        ConfigError: The file is missing or not a YAML mapping, a field is unknown, or a value has the wrong type.
    """
    try:
        loaded = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not YAML of settings: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must have fields such as 'max_steps: 1000', one per line")
    known = settings_of(RunConfig)
    if unknown := sorted(str(name) for name in loaded if name not in known):
        raise ConfigError(f"{path}: unknown field {unknown[0]!r}; expected one of {', '.join(known)}")
    return {name: coerced(RunConfig, name, value, path) for name, value in loaded.items()}


def write_yaml(config: RunConfig, path: Path) -> None:
    """Write a complete configuration, which reproduces the run, without secrets; an equal file is not rewritten."""
    text = yaml.safe_dump(all_masked(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        results.write_text(path, text)
