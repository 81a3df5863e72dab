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
from attention_guidance.commands.text.pipes import is_piped, kept
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
    suited = {
        name: declared.by_objective[objective]
        for name, declared in settings_of(RunConfig).items()
        if isinstance(objective, str) and objective in declared.by_objective
    }
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
    config = RunConfig(**{name: coerced(RunConfig, name, value, sources.get(name)) for name, value in layered.items()})
    check_needs(config, given, vars(RunConfig()) | get_preset(preset).settings() | suited)
    if "arguments" in given:
        check_read(config.arguments)
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
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold fields such as 'max_steps: 1000', one a line")
    known = settings_of(RunConfig)
    if unknown := sorted(str(name) for name in loaded if name not in known):
        raise ConfigError(f"{path}: unknown field {unknown[0]!r}; known are {', '.join(known)}")
    return loaded


def write_yaml(config: RunConfig, path: Path) -> None:
    """Write a configuration in full, so that it makes the same run; a file that holds it already is left."""
    text = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        results.write_text(path, text)
