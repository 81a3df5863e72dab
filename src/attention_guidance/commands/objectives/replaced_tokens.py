"""Replaced token detection (ELECTRA): detect tokens replaced by a generator.

Shape suffixes: B batch, T positions, N labels of a batch, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig, ElectraForMaskedLM, ElectraForPreTraining

from attention_guidance.commands.objectives.base import Example, Mean, Score
from attention_guidance.commands.objectives.masked_lm import Corruption, MaskedTokens, count_correct
from attention_guidance.errors import ConfigError
from attention_guidance.models.replaced_tokens import ReplacedTokens

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from attention_guidance.commands.text.blocks import Blocks

_GENERATOR = "generator"


class ReplacedTokenDetection(MaskedTokens):
    """Predict for every token whether the generator has replaced it (Clark et al. 2020).

    The loss is the masked language modelling loss of the generator plus `discriminator_weight` times the cross-entropy
    of the discriminator. The saved model is the discriminator; the generator is in its subfolder `generator`.

    Args:
        corrupt, rate, final_rate: As for `MaskedTokens`.
        generator_share: Width of the generator as a share of the discriminator's.
        discriminator_weight: Weight of the discriminator's loss; 50 in the paper.
        guided: The encoder to guide: `discriminator`, `generator` or `both`.
    """

    arch = "electra"
    predicts = "tokens"
    gives_perplexity = False

    def __init__(
        self,
        corrupt: Corruption,
        rate: float | None = None,
        final_rate: float | None = None,
        generator_share: float = 0.5,
        discriminator_weight: float = 50.0,
        guided: str = "discriminator",
    ) -> None:
        super().__init__(corrupt, rate, final_rate)
        self.generator_share = generator_share
        self.discriminator_weight = discriminator_weight
        self.guided = guided

    @property
    def settings(self) -> dict[str, Any]:
        """See `Objective`."""
        return {"generator_share": self.generator_share, "discriminator_weight": self.discriminator_weight}

    def example(self, items: Blocks, index: int, generator: np.random.Generator, progress: float) -> Example:
        """See `Objective`: as for `MaskedTokens`, with the `chance` [T] by which the generator samples."""
        example = super().example(items, index, generator, progress)
        example["chance"] = torch.from_numpy(generator.random(len(example["input_ids"]), np.float32))
        return example

    def score(self, batch: Example, output: Any) -> Score:
        """See `Objective`; the items are all tokens but padding. `detected` is the recall of replaced tokens."""
        valid_BT = batch.get("attention_mask", batch["input_ids"].new_ones(())).bool().expand_as(output.replaced)
        predicted_BT = output.logits > 0
        n_valid, n_replaced = int(valid_BT.sum()), int(output.replaced.sum())
        n_labels, n_labels_right = count_correct(batch, output.generator_logits)
        n_right = int(((predicted_BT == output.replaced) & valid_BT).sum())
        generator_loss, discriminator_loss = output.generator_loss.item(), output.discriminator_loss.item()
        means = {
            "generator_loss": Mean(generator_loss, n_labels),
            "generator_accuracy": Mean(n_labels_right / max(1, n_labels), n_labels),
            "discriminator_loss": Mean(discriminator_loss, n_valid),
            "replaced": Mean(n_replaced / n_valid, n_valid),
            "detected": Mean(int((predicted_BT & output.replaced).sum()) / max(1, n_replaced), n_replaced),
        }
        losses = [Mean(generator_loss, n_labels), Mean(output.loss.item() - generator_loss, n_valid)]
        return Score(losses, n_valid, n_right, means)

    def new_model(self, config: PreTrainedConfig) -> PreTrainedModel:
        """See `Objective`."""
        if config.model_type != self.arch:
            raise ConfigError(f"the objective rtd trains ELECTRA, not {config.model_type!r}; leave out `arch`")
        # Both encoders have embeddings as wide as the discriminator.
        config.embedding_size = config.hidden_size
        return ReplacedTokens(config)

    def trained_model(self, name: str) -> PreTrainedModel:
        """See `Objective`: load a model written by `save`."""
        if (kind := AutoConfig.from_pretrained(name, trust_remote_code=False).model_type) != self.arch:
            raise ConfigError(f"the objective rtd continues from an ELECTRA model, not {kind!r}")
        discriminator = ElectraForPreTraining.from_pretrained(name, trust_remote_code=False)
        try:
            generator = ElectraForMaskedLM.from_pretrained(name, subfolder=_GENERATOR, trust_remote_code=False)
        except OSError as error:
            raise ConfigError(f"no subfolder {_GENERATOR!r}; give a model trained by the objective rtd") from error
        model = ReplacedTokens(discriminator.config)
        model.generator.load_state_dict(generator.state_dict())
        model.load_state_dict(discriminator.state_dict(), strict=False)
        return model

    def guided_parts(self, model: PreTrainedModel) -> dict[str, PreTrainedModel]:
        """See `Objective`: the encoders without their heads."""
        assert isinstance(model, ReplacedTokens)
        parts = {"discriminator": model.electra, "generator": model.generator.electra}
        return parts if self.guided == "both" else {self.guided: parts[self.guided]}

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """See `Objective`."""
        assert isinstance(model, ReplacedTokens)
        model.discriminator().save_pretrained(folder)
        model.generator.save_pretrained(Path(folder) / _GENERATOR)
