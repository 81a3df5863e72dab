"""Presets: model sizes with suitable training settings.

`tiny` to `base` are for a small machine up to one fast GPU. `roberta-4` to `roberta-16` are the paper's (section 4.1):
RoBERTa-base with other depths and blocks of 512 tokens. `attention-24` and `attention-48` are the paper's encoders
without feed-forward blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attention_guidance.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """The fields of `RunConfig` that a preset decides: model size and training settings."""

    layers: int
    hidden: int
    attention_heads: int
    feed_forward: int
    block_size: int
    batch_size: int
    max_steps: int
    learning_rate: float
    dropout: float = 0.1
    arch: str | None = None


def _paper(layers: int, arch: str | None = None) -> Preset:
    return Preset(layers, 768, 12, 3072, 512, 256, 100_000, 5e-4, arch=arch)


PRESETS: dict[str, Preset] = {
    "tiny": Preset(4, 128, 4, 512, 64, 16, 600, 1e-3, dropout=0.0),
    "mini": Preset(4, 256, 8, 1024, 128, 32, 1500, 1e-3, dropout=0.0),
    "small": Preset(6, 512, 8, 2048, 256, 64, 20_000, 7e-4),
    "base": Preset(12, 768, 12, 3072, 512, 256, 50_000, 6e-4),
    **{f"roberta-{layers}": _paper(layers) for layers in (4, 8, 12, 16)},
    **{f"attention-{layers}": _paper(layers, "attention-only") for layers in (24, 48)},
}


def get_preset(name: str) -> Preset:
    """Get a preset by name.

    Raises:
        ConfigError: There is no such preset.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def beside_preset(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Remove the settings of a file that a preset, given in addition, decides.

    The model type is kept if it is not from the file's own preset; the new preset then decides only the sizes.

    Raises:
        ConfigError: There is no such preset.
    """
    preset, own = get_preset(name), get_preset(settings.get("preset", name))
    decides = {**vars(preset)}
    if preset.arch is None and settings.get("arch") != own.arch:
        del decides["arch"]
    return {field: value for field, value in settings.items() if field not in decides}
