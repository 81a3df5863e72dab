"""How the settings of a run are layered from preset, YAML file and flags, and written back in full."""

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
from attention_guidance.commands.setting import check_needs, coerced, settings_of
from attention_guidance.commands.text.pipes import is_piped, save_pipes
from attention_guidance.errors import ConfigError

__all__ = ["CONFIG_FILE", "RunConfig", "make_config", "read_yaml", "write_yaml"]

CONFIG_FILE = RUN_FILE


def make_config(
    flags: Mapping[str, Any], config_file: str | Path | None = None, resumed: Path | None = None
) -> RunConfig:
    """Layer settings: defaults, the preset's, a resumed run's, the YAML file's, then those given.

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
    given = {name: coerced(RunConfig, name, value) for name, value in flags.items() if value is not None}
    from_file: dict[str, Any] = {}
    for file in (file for file in (resumed, config_file) if file is not None):
        # How a run is laid out is each launch's own.
        from_file |= {name: value for name, value in read_yaml(file).items() if file != resumed or name != "shard"}
    preset = given.get("preset", from_file.get("preset", RunConfig.preset))
    objective = given.get("objective", from_file.get("objective", RunConfig.objective))
    declared = settings_of(RunConfig)
    suited = {name: of[objective] for name in declared if objective in (of := declared[name].by_objective)}
    if "objective" in given and objective != from_file.get("objective", RunConfig.objective):
        # What suits the objective of the file does not suit another.
        from_file = {name: value for name, value in from_file.items() if name not in suited}
    if "preset" in given and (resumed is None or preset != from_file.get("preset")):
        from_file = beside_preset(from_file, preset)
    defaults = vars(RunConfig()) | vars(get_preset(preset)) | suited
    layered = defaults | from_file | given
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
    check_needs(config, given, defaults)
    if "arguments" in given:
        check_read(config.arguments)
    # A pipe is read once here, and a run is known by what came through it.
    texts, n = save_pipes([*config.corpus, *config.validation]), len(config.corpus)
    return dataclasses.replace(config, corpus=texts[:n], validation=texts[n:])


def _stated(layered: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration or a trained model decides: its sizes, which nothing else may contradict.

    A block is not longer than it takes, where no length of blocks is asked for.
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
                "settings of training by themselves"
            )
    if paths and "block_size" not in asked:
        limit = longest_stated(paths.get("arch_config"), paths.get("init_from"))
        sizes["block_size"] = min(layered["block_size"], limit or layered["block_size"])
    return paths | sizes


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read the fields of a run from a YAML file.

    Raises:
        ConfigError: missing, not YAML, not a mapping, with a field that does not exist, or a value of the wrong kind.
    """
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold fields such as 'max_steps: 1000', one a line")
    known = settings_of(RunConfig)
    if unknown := sorted(str(name) for name in loaded if name not in known):
        raise ConfigError(f"{path}: unknown field {unknown[0]!r}; known are {', '.join(known)}")
    return {name: coerced(RunConfig, name, value, path) for name, value in loaded.items()}


def write_yaml(config: RunConfig, path: Path) -> None:
    """Write a configuration in full, so that it makes the same run; a file that holds it already is left."""
    text = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        results.write_text(path, text)
