"""Vision towers that call a layer's attention several times in a pass: once an image, once a window."""

from __future__ import annotations

import inspect

import torch
import transformers

GRIDS = ((1, 4, 4), (1, 4, 8))
VISION = {
    "Qwen2VL": {"embed_dim": 32, "hidden_size": 32, "depth": 2, "num_heads": 4},
    "Qwen2_5_VL": {
        "hidden_size": 32, "out_hidden_size": 32, "depth": 2, "num_heads": 4, "intermediate_size": 48,
        "window_size": 28, "fullatt_block_indexes": [1],
    },
    "Qwen3VL": {
        "hidden_size": 32, "out_hidden_size": 32, "depth": 2, "num_heads": 4, "intermediate_size": 48,
        "deepstack_visual_indexes": [], "num_position_embeddings": 16,
    },
    "Glm4v": {"hidden_size": 32, "out_hidden_size": 32, "depth": 2, "num_heads": 4, "intermediate_size": 48},
}  # fmt: skip


def tower(name):
    """A vision tower, its input of two images of 16 and 32 patches, and the lengths that attention sees."""
    module = {"Qwen2VL": "qwen2_vl", "Qwen2_5_VL": "qwen2_5_vl", "Qwen3VL": "qwen3_vl", "Glm4v": "glm4v"}[name]
    package = getattr(transformers.models, module)
    config = getattr(getattr(package, f"configuration_{module}"), f"{name}VisionConfig")(**VISION[name])
    modeling = getattr(package, f"modeling_{module}")
    endings = ("VisionModel", "VisionTransformerPretrainedModel")
    kind = next(getattr(modeling, found) for found in dir(modeling) if found.endswith(endings))
    torch.manual_seed(0)
    config._attn_implementation = "sdpa"
    model = kind(config).double().train()
    patch = config.temporal_patch_size * config.patch_size**2 * 3
    return model, {"hidden_states": torch.randn(48, patch).double(), "grid_thw": torch.tensor(GRIDS)}


def maps_by_call(model, inputs):
    """Of an unguided copy under eager attention: by layer, a map [H, T, T] for each call."""
    model.set_attn_implementation("eager")
    seen: dict[int, list] = {}
    for layer, block in enumerate(model.blocks):
        module = inspect.getmodule(type(block))
        seen[layer] = []
        block.attn.register_forward_pre_hook(lambda m, a, layer=layer: order.append(layer))
    order: list[int] = []
    original = module.eager_attention_forward

    def watch(*args, **kwargs):
        out, weights = original(*args, **kwargs)
        seen[order[-1]].append(weights[0])
        return out, weights

    module.eager_attention_forward = watch
    try:
        model(**inputs)
    finally:
        module.eager_attention_forward = original
    return seen
