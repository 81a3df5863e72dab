"""Replaced token detection (ELECTRA): a generator fills masks, the model tells which tokens it replaced.

Shape suffixes: B batch, T positions, N labels of a batch, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig, ElectraForMaskedLM, ElectraForPreTraining

from attention_guidance.commands.objectives.base import Example, Mean, Score
from attention_guidance.commands.objectives.masked_lm import Corruption, MaskedTokens, named_tokens
from attention_guidance.errors import ConfigError
from attention_guidance.models.replaced_tokens import ReplacedTokens

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from attention_guidance.commands.text.blocks import Blocks

_GENERATOR = "generator"


class ReplacedTokenDetection(MaskedTokens):
    """Tell for every token whether the generator has replaced it (Clark et al. 2020).

    The loss is the generator's masked language model plus `discriminator_weight` times the discriminator's
    cross-entropy. What is kept as the model is the discriminator; the generator lies in its folder `generator`.

    Args:
        corrupt, rate, final_rate: as for `MaskedTokens`.
        generator_share: width of the generator as a share of the discriminator's.
        discriminator_weight: factor on the discriminator's loss; the paper's is 50.
        guided: which encoder is guided: `discriminator`, `generator` or `both`.
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
        """See `Objective`: as for `MaskedTokens`, with the `chance` by which the generator chooses [T]."""
        example = super().example(items, index, generator, progress)
        example["chance"] = torch.from_numpy(generator.random(len(example["input_ids"]), np.float32))
        return example

    def score(self, batch: Example, output: Any) -> Score:
        """See `Objective`; counted are all tokens but padding. `detected` is the share of replaced tokens found."""
        counted_BT = batch.get("attention_mask", batch["input_ids"].new_ones(())).bool().expand_as(output.replaced)
        said_BT = output.logits > 0
        n_counted, n_replaced = int(counted_BT.sum()), int(output.replaced.sum())
        n_named, n_named_right = named_tokens(batch, output.generator_logits)
        n_right = int(((said_BT == output.replaced) & counted_BT).sum())
        named, told = output.generator_loss.item(), output.discriminator_loss.item()
        means = {
            "generator_loss": Mean(named, n_named),
            "generator_accuracy": Mean(n_named_right / max(1, n_named), n_named),
            "discriminator_loss": Mean(told, n_counted),
            "replaced": Mean(n_replaced / n_counted, n_counted),
            "detected": Mean(int((said_BT & output.replaced).sum()) / max(1, n_replaced), n_replaced),
        }
        losses = [Mean(named, n_named), Mean(output.loss.item() - named, n_counted)]
        return Score(losses, n_counted, n_right, means)

    def new_model(self, config: PreTrainedConfig) -> PreTrainedModel:
        """See `Objective`."""
        if config.model_type != self.arch:
            raise ConfigError(f"the objective rtd trains ELECTRA's two encoders, not {config.model_type!r}: no `arch`")
        # As wide as the discriminator, for both.
        config.embedding_size = config.hidden_size
        return ReplacedTokens(config)

    def trained_model(self, name: str) -> PreTrainedModel:
        """See `Objective`: what `save` has written."""
        if (kind := AutoConfig.from_pretrained(name, trust_remote_code=False).model_type) != self.arch:
            raise ConfigError(f"the objective rtd goes on with ELECTRA's two encoders, not with {kind!r}")
        discriminator = ElectraForPreTraining.from_pretrained(name, trust_remote_code=False)
        try:
            generator = ElectraForMaskedLM.from_pretrained(name, subfolder=_GENERATOR, trust_remote_code=False)
        except OSError as error:
            raise ConfigError("no generator beside it, as a run of rtd has in its model's folder") from error
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
