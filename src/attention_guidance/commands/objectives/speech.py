"""Contrastive prediction of masked speech frames (Wav2Vec2).

Shape suffixes: B batch, S samples, T frames, K negatives of a frame, C channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, Wav2Vec2ForPreTraining

from attention_guidance.commands.objectives.base import Example, Mean, Objective, Score
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedConfig, PreTrainedModel

    from attention_guidance.commands.media.sound import AudioSegments

# Consecutive frames that are masked together (Baevski et al. 2020, section 4.2).
_SPAN = 10


class SpeechUnits(Objective):
    """Identify the quantized unit of a masked frame among units of other masked frames (Baevski et al. 2020, 3.2).

    The loss is the mean over masked frames; transformers uses the sum, next to which guidance would be negligible.

    Args:
        channels: Channels of the convolutional feature encoder and of the units.
        rate: Share of the frames to mask, in spans of ten.
        n_negatives: Number of negatives (distractors) per masked frame.
    """

    arch = "wav2vec2"
    predicts = "masked frames"

    def __init__(self, channels: int, rate: float = 0.5, n_negatives: int = 50) -> None:
        self.channels = channels
        self.rate = rate
        self.n_negatives = n_negatives

    @property
    def settings(self) -> dict[str, Any]:
        """See `Objective`."""
        return {
            "conv_dim": [self.channels] * 7,
            "codevector_dim": self.channels,
            "proj_codevector_dim": self.channels,
            "num_negatives": self.n_negatives,
            "layerdrop": 0.0,
        }

    def example(self, items: AudioSegments, index: int, generator: np.random.Generator, progress: float) -> Example:
        """See `Objective`: `input_values` [S], the mask of frames [T] and the frames of negatives [T, K]."""
        samples_S = items[index].astype(np.float32)
        samples_S = (samples_S - samples_S.mean()) / np.sqrt(samples_S.var() + 1e-7)
        masked_T = self._mask(items.width, generator)
        masked_indices = np.flatnonzero(masked_T)
        negatives_TK = np.zeros((items.width, self.n_negatives), np.int64)
        # Any other masked frame: indices from the frame itself on move up by one.
        drawn = generator.integers(max(1, len(masked_indices) - 1), size=(len(masked_indices), self.n_negatives))
        drawn += drawn >= np.arange(len(masked_indices))[:, None]
        negatives_TK[masked_indices] = masked_indices[drawn.clip(max=len(masked_indices) - 1)]
        return {
            "input_values": torch.from_numpy(samples_S),
            "mask_time_indices": torch.from_numpy(masked_T),
            "sampled_negative_indices": torch.from_numpy(negatives_TK),
        }

    def _mask(self, n_frames: int, generator: np.random.Generator) -> np.ndarray[Any, np.dtype[np.bool_]]:
        masked_T = np.zeros(n_frames, bool)
        n_wanted = max(2, round(self.rate * n_frames))
        for start in generator.permutation(n_frames):
            n_left = n_wanted - masked_T.sum()
            if n_left <= 0:
                break
            masked_T[start : start + min(_SPAN, n_left)] = True
        return masked_T

    def collate(self, examples: Sequence[Example]) -> Example:
        """See `Objective`; negatives are indexed over the flattened batch, as the model expects."""
        batch = {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
        n_frames = batch["mask_time_indices"].shape[1]
        batch["sampled_negative_indices"] += n_frames * torch.arange(len(examples))[:, None, None]
        return batch

    def score(self, batch: Example, output: Any) -> Score:
        """See `Objective`; a frame is right if its true unit is closer than all negatives.

        The loss is the contrastive one only: the diversity loss is computed per batch and depends on the batch size.
        So does `units`, the codevector perplexity, i.e. the effective number of units in use.
        """
        masked_BT = batch["mask_time_indices"]
        true_BTC = output.projected_quantized_states
        negatives_BTKC = true_BTC.flatten(0, 1)[batch["sampled_negative_indices"]]
        predicted_BT1C = output.projected_states.unsqueeze(2)
        true_BT1 = torch.cosine_similarity(predicted_BT1C, true_BTC.unsqueeze(2), dim=-1)
        negatives_BTK = torch.cosine_similarity(predicted_BT1C, negatives_BTKC, dim=-1)
        # The same unit in another frame is not a negative.
        negatives_BTK = negatives_BTK.masked_fill((negatives_BTKC == true_BTC.unsqueeze(2)).all(-1), -1.0)
        right_BT = (true_BT1 > negatives_BTK).all(-1) & masked_BT
        n_masked = int(masked_BT.sum())
        loss = Mean(output.contrastive_loss.item() / n_masked, n_masked)
        units = Mean(output.codevector_perplexity.item(), n_masked)
        return Score([loss], n_masked, int(right_BT.sum()), {"units": units})

    def new_model(self, config: PreTrainedConfig) -> PreTrainedModel:
        """See `Objective`."""
        if config.model_type != self.arch:
            raise ConfigError(f"the objective speech trains wav2vec2, not {config.model_type!r}; leave out `arch`")
        return _with_mean_loss(Wav2Vec2ForPreTraining(config))

    def trained_model(self, name: str) -> PreTrainedModel:
        """See `Objective`."""
        if (kind := AutoConfig.from_pretrained(name, trust_remote_code=False).model_type) != self.arch:
            raise ConfigError(f"the objective speech continues from a wav2vec2 model, not {kind!r}")
        return _with_mean_loss(Wav2Vec2ForPreTraining.from_pretrained(name, trust_remote_code=False))


def _with_mean_loss(model: PreTrainedModel) -> PreTrainedModel:
    model.register_forward_hook(_divide_loss, with_kwargs=True)
    return model


def _divide_loss(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    masked_BT: Tensor | None = kwargs.get("mask_time_indices")
    if masked_BT is not None and output.loss is not None:
        output["loss"] = output.loss / masked_BT.sum()
    return output
