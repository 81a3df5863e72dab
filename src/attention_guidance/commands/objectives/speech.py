"""Wav2Vec2: stretches of speech are hidden, and the model is to tell the true unit from others of the recording.

Shape suffixes: B batch, S samples, T frames, K false units of a frame, C channels.
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

    from attention_guidance.commands.media.sound import Stretches

# Frames that are hidden in a row (Baevski et al. 2020, section 4.2).
_SPAN = 10


class SpeechUnits(Objective):
    """Tell the quantized unit of a hidden frame from units of other hidden frames (Baevski et al. 2020, section 3.2).

    The loss is the mean over hidden frames; transformers' own is their sum, beside which guidance would be nothing.

    Args:
        channels: of the convolutions that make frames of samples, and of the units.
        rate: share of the frames to hide, in stretches of ten.
        n_false: other units that a true one is to be told from.
    """

    arch = "wav2vec2"
    predicts = "hidden frames"

    def __init__(self, channels: int, rate: float = 0.5, n_false: int = 50) -> None:
        self.channels = channels
        self.rate = rate
        self.n_false = n_false

    @property
    def settings(self) -> dict[str, Any]:
        """See `Objective`."""
        return {
            "conv_dim": [self.channels] * 7,
            "codevector_dim": self.channels,
            "proj_codevector_dim": self.channels,
            "num_negatives": self.n_false,
            "layerdrop": 0.0,
        }

    def example(self, items: Stretches, index: int, generator: np.random.Generator, progress: float) -> Example:
        """See `Objective`: `input_values` [S], hidden frames [T] and for each the frames of false units [T, K]."""
        samples_S = items[index].astype(np.float32)
        samples_S = (samples_S - samples_S.mean()) / np.sqrt(samples_S.var() + 1e-7)
        hidden_T = self._hidden(items.width, generator)
        places = np.flatnonzero(hidden_T)
        false_TK = np.zeros((items.width, self.n_false), np.int64)
        # Any of the others: what is not below the frame itself moves up by one.
        drawn = generator.integers(max(1, len(places) - 1), size=(len(places), self.n_false))
        drawn += drawn >= np.arange(len(places))[:, None]
        false_TK[places] = places[drawn.clip(max=len(places) - 1)]
        return {
            "input_values": torch.from_numpy(samples_S),
            "mask_time_indices": torch.from_numpy(hidden_T),
            "sampled_negative_indices": torch.from_numpy(false_TK),
        }

    def _hidden(self, n_frames: int, generator: np.random.Generator) -> np.ndarray[Any, np.dtype[np.bool_]]:
        hidden_T = np.zeros(n_frames, bool)
        wanted = max(2, round(self.rate * n_frames))
        for start in generator.permutation(n_frames):
            left = wanted - hidden_T.sum()
            if left <= 0:
                break
            hidden_T[start : start + min(_SPAN, left)] = True
        return hidden_T

    def collate(self, examples: Sequence[Example]) -> Example:
        """See `Objective`; false units are numbered through the batch, as the model takes them."""
        batch = {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
        n_frames = batch["mask_time_indices"].shape[1]
        batch["sampled_negative_indices"] += n_frames * torch.arange(len(examples))[:, None, None]
        return batch

    def score(self, batch: Example, output: Any) -> Score:
        """See `Objective`; right is a frame whose true unit is nearer than all false ones.

        Of the loss it is the contrastive part: the other, which has units used alike, is not a mean over frames but of
        a batch, and depends on its size. So does `units`, the effective number of units in use.
        """
        hidden_BT = batch["mask_time_indices"]
        true_BTC = output.projected_quantized_states
        false_BTKC = true_BTC.flatten(0, 1)[batch["sampled_negative_indices"]]
        said_BT1C = output.projected_states.unsqueeze(2)
        true_BT1 = torch.cosine_similarity(said_BT1C, true_BTC.unsqueeze(2), dim=-1)
        false_BTK = torch.cosine_similarity(said_BT1C, false_BTKC, dim=-1)
        # The same unit elsewhere is no false one.
        false_BTK = false_BTK.masked_fill((false_BTKC == true_BTC.unsqueeze(2)).all(-1), -1.0)
        right_BT = (true_BT1 > false_BTK).all(-1) & hidden_BT
        n_hidden = int(hidden_BT.sum())
        loss = Mean(output.contrastive_loss.item() / n_hidden, n_hidden)
        units = Mean(output.codevector_perplexity.item(), n_hidden)
        return Score([loss], n_hidden, int(right_BT.sum()), {"units": units})

    def new_model(self, config: PreTrainedConfig) -> PreTrainedModel:
        """See `Objective`."""
        if config.model_type != self.arch:
            raise ConfigError(f"the objective speech trains wav2vec2, not {config.model_type!r}: no `arch`")
        return _by_the_mean(Wav2Vec2ForPreTraining(config))

    def trained_model(self, name: str) -> PreTrainedModel:
        """See `Objective`."""
        if (kind := AutoConfig.from_pretrained(name, trust_remote_code=False).model_type) != self.arch:
            raise ConfigError(f"the objective speech goes on with wav2vec2, not {kind!r}")
        return _by_the_mean(Wav2Vec2ForPreTraining.from_pretrained(name, trust_remote_code=False))


def _by_the_mean(model: PreTrainedModel) -> PreTrainedModel:
    model.register_forward_hook(_divide, with_kwargs=True)
    return model


def _divide(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    hidden_BT: Tensor | None = kwargs.get("mask_time_indices")
    if hidden_BT is not None and output.loss is not None:
        output["loss"] = output.loss / hidden_BT.sum()
    return output
