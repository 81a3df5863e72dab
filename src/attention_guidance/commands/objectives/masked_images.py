"""Masked image modelling (SimMIM): predict the pixels of masked patches.

Shape suffixes: B batch, P patches, C channels, X, Y pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoModelForMaskedImageModeling

from attention_guidance.commands.objectives.base import Example, Mean, Objective, Score, from_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig, PreTrainedModel

    from attention_guidance.commands.media.images import Images


class MaskedImages(Objective):
    """Predict masked patches; the loss is the mean absolute error of their pixels, scaled to -1 to 1.

    Args:
        image_size: Side of the images in pixels.
        patch_size: Side of the patches in pixels.
        rate: Share of the patches to mask; 0.6 in SimMIM (Xie et al. 2022, section 3.2).
    """

    arch = "vit"
    predicts = "masked patches"

    def __init__(self, image_size: int, patch_size: int, rate: float = 0.6) -> None:
        self.image_size = image_size
        self.patch_size = patch_size
        self.rate = rate

    @property
    def settings(self) -> dict[str, Any]:
        """See `Objective`."""
        return {
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "encoder_stride": self.patch_size,
            "num_channels": 3,
        }

    def example(self, items: Images, index: int, generator: np.random.Generator, progress: float) -> Example:
        """See `Objective`: `pixel_values` [C, X, Y] and the mask of patches, bool [P]."""
        n_patches = (self.image_size // self.patch_size) ** 2
        masked_P = np.zeros(n_patches, bool)
        masked_P[generator.choice(n_patches, max(1, round(self.rate * n_patches)), replace=False)] = True
        pixels_CXY = torch.from_numpy(items[index].astype(np.float32) / 127.5 - 1)
        return {"pixel_values": pixels_CXY, "bool_masked_pos": torch.from_numpy(masked_P)}

    def collate(self, examples: Sequence[Example]) -> Example:
        """See `Objective`."""
        return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}

    def score(self, batch: Example, output: Any) -> Score:
        """See `Objective`; the items are the masked patches."""
        n_masked = int(batch["bool_masked_pos"].sum())
        return Score([Mean(output.loss.item(), n_masked)], n_masked, None)

    def new_model(self, config: PreTrainedConfig) -> PreTrainedModel:
        """See `Objective`."""
        return from_config(AutoModelForMaskedImageModeling, config, "masked image model", "vit or deit")

    def trained_model(self, name: str) -> PreTrainedModel:
        """See `Objective`."""
        model: PreTrainedModel = AutoModelForMaskedImageModeling.from_pretrained(name, trust_remote_code=False)
        return model
