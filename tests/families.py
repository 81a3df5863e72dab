"""Every family of transformers: all its models without a head, small, with random weights, and inputs that fit."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from attention_guidance.adapters.interface import configurations
from attention_guidance.adapters.modules import modules_of

_MODELS = Path(transformers.__file__).parent / "models"
_WITH_HEAD = re.compile(r"For[A-Z]|Pre[Tt]rainedModel$")
_LAYERS = re.compile(r"(^|_)(n|num)_?(\w*_)?(layers?|blocks)$|^depth$|layers$")
_WIDTHS = re.compile(r"hidden|inter|embed|ffn|model|dim|d_kv|d_ff|width|channels|proj|coordinate|shape")
_NO_WIDTHS = re.compile(r"num_|_num|position|vocab|layer|image|patch|token|pad|norm|group|model_type|size_per|kernel")
# Few words are enough, and make a model small whose vocabulary is most of it.
_VOCABULARY = 600
# What some configurations leave to be said.
_UNSAID = {"vocab_size": _VOCABULARY, "mask_token_id": 4, "pad_token_id": 1}


def base_classes() -> dict[str, type[PreTrainedModel]]:
    """All models without a head whose modules can be imported here, by name."""
    found: dict[str, type[PreTrainedModel]] = {}
    mapped = {name for names in MODEL_MAPPING_NAMES.values() for name in ([names] if isinstance(names, str) else names)}
    for file in sorted(_MODELS.glob("*/modeling_*.py")):
        try:
            module = importlib.import_module(f"transformers.models.{file.parent.name}.{file.stem}")
        except ImportError:  # of a library that is not installed
            continue
        for name, thing in vars(module).items():
            own = inspect.isclass(thing) and issubclass(thing, PreTrainedModel) and thing.__module__ == module.__name__
            if own and (name in mapped or not _WITH_HEAD.search(name)):
                found[name] = thing
    return found


def family_of(model_class: type) -> str:
    """The name of a class's family: that of its folder in transformers."""
    return model_class.__module__.split(".")[2]


def built(model_class: type[PreTrainedModel], device: str, *, few: bool = True, narrower: int = 1) -> Any:
    """A model with random weights, of few layers, and for short inputs and narrower than by default if it is called."""
    config = model_class.config_class()
    for name, value in _UNSAID.items():
        if getattr(config, name, value) is None:
            setattr(config, name, value)
    if narrower > 1:
        _make_narrow(config, narrower)
    if few:
        _make_shallow(config)
    torch.manual_seed(0)
    with torch.device(device):
        return model_class(config)


def on_meta(model_class: type[PreTrainedModel]) -> PreTrainedModel:
    """A model without weights: of few layers if its configuration allows, as by default if not."""
    try:
        return built(model_class, "meta")
    except Exception:
        return built(model_class, "meta", few=False)


def _make_shallow(config: PreTrainedConfig) -> None:
    """Two layers wherever there are more, in all parts of a configuration, and in lists of something for each."""
    before = {getattr(config, name, None) for name in ("num_hidden_layers", "num_layers", "encoder_layers", "depth")}
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _make_shallow(value)
        elif type(value) is int and value > 2 and _LAYERS.search(name) and "feat_extract" not in name:
            setattr(config, name, 2)
        elif isinstance(value, list | tuple) and "depth" not in name and len(value) > 2 and len(value) in before:
            setattr(config, name, value[:2])


def _make_narrow(config: PreTrainedConfig, by: int) -> None:
    """Every width divided by a number, few words, short inputs."""
    tubelet = getattr(config, "tubelet_size", None)
    patch = tubelet[-1] if isinstance(tubelet, list | tuple) else getattr(config, "patch_size", None)
    short = {"max_source_positions": 24, "num_frames": 4, "frequency_stride": 16, "time_stride": 64}
    if isinstance(patch, int):
        short |= {"image_size": 4 * patch}
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _make_narrow(value, by)
        elif type(value) is int and name in short:
            setattr(config, name, short[name])
        elif type(value) is int and (name.endswith("vocab_size") or name.endswith("token_id")) and value > _VOCABULARY:
            setattr(config, name, _VOCABULARY - 1 if name.endswith("token_id") else _VOCABULARY)
        elif _WIDTHS.search(name) and not _NO_WIDTHS.search(name):
            widths = value if isinstance(value, list | tuple) else [value]
            if widths and all(type(width) is int and width >= 64 for width in widths):
                narrow = [width // by for width in widths]
                setattr(config, name, type(value)(narrow) if isinstance(value, list | tuple) else narrow[0])


def prepared(model: PreTrainedModel) -> PreTrainedModel:
    """In training mode without chance, in double precision, with attention that is far from uniform."""
    for part in configurations(model):
        for name, value in vars(part).items():
            if isinstance(value, float) and ("drop" in name or name.startswith("mask_")):
                setattr(part, name, 0.0)
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and ("drop" in name or (name == "p" and isinstance(module, nn.Dropout))):
                setattr(module, name, 0.0)
    if hasattr(model, "set_default_language"):
        model.set_default_language(model.config.languages[0])
    with torch.no_grad():
        for module in modules_of(model):
            for parameter in module.parameters():
                if parameter.dim() == 2:
                    nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
    return model.double().train()


def inputs_of(model: PreTrainedModel) -> Iterator[dict[str, Any]]:
    """What a model may be called with, most telling first: two texts, one of them padded; images; sound.

    Raises:
        LookupError: it takes something else.
    """
    generator = torch.Generator().manual_seed(1)
    config, takes = model.config, inspect.signature(model.forward).parameters

    def noise(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    def number(*names: str, default: int = 0) -> int:
        return next((value for name in names if isinstance(value := getattr(config, name, None), int)), default)

    also = {"use_cache": False} if "use_cache" in takes else {}
    channels = number("num_channels", "in_channels", "in_chans", default=3)
    size, width = getattr(config, "image_size", None), number("hidden_size", "d_model", "embed_dim")
    mel = number("num_mel_bins", "n_mels", "input_feat_per_channel", "feature_projection_input_dim", "input_dim")
    name = model.main_input_name if model.main_input_name in takes else next(iter(takes))
    if name == "flattened_patches":
        patches = noise(2, 16, 2 + number("patch_embed_hidden_size"))
        patches[..., 0], patches[..., 1] = torch.arange(16) // 4 + 1, torch.arange(16) % 4 + 1
        yield {name: patches}
    elif "spatial_shapes" in takes:
        shapes = {"pixel_attention_mask": torch.ones(2, 16), "spatial_shapes": torch.tensor([[4, 4], [4, 4]])}
        yield shapes | {name: noise(2, 16, channels * number("patch_size") ** 2)}
    elif "grid_thw" in takes:
        patch, frames = number("patch_size", "spatial_patch_size"), number("temporal_patch_size", default=1)
        grid = torch.tensor([[1, 4, 4], [1, 4, 4]])
        yield {name: noise(32, channels * frames * patch**2), "grid_thw": grid}
        yield {name: noise(32, channels, patch, patch), "grid_thw": grid}
    elif name == "input_ids":
        ids = torch.randint(5, 60, (2, 10), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, 8:] = 0
        words = also | {"input_ids": ids} | ({"attention_mask": mask} if "attention_mask" in takes else {})
        yield words
        yield words | {"bbox": torch.zeros(2, 10, 4, dtype=torch.float64)}
    elif name == "pixel_values" and size is not None:
        height, across = (size, size) if isinstance(size, int) else size
        yield {name: noise(2, channels, height, across)}
        yield {name: noise(2, number("num_frames", default=2), channels, height, across)}
    elif name == "input_values":
        yield {name: noise(2, 4000)}
        yield {name: noise(2, 1, 4000)}
        yield {name: noise(2, number("max_length"), mel)}
    elif name == "input_features":
        frames = 2 * number("max_source_positions", default=32)
        seen = torch.ones(2, frames, dtype=torch.long)
        for masks in ({}, {"input_features_mask": seen}, {"attention_mask": seen}):
            if all(mask in takes for mask in masks):
                yield {name: noise(2, frames, mel)} | masks
                yield {name: noise(2, mel, frames)} | masks
    elif name in ("hidden_states", "inputs_embeds") and width:
        yield also | {name: noise(2, 16, width)}
    else:
        raise LookupError(f"its forward takes {name}, and nothing here knows how to make that")
