"""ELECTRA's two encoders trained together: a generator fills masks, a discriminator tells which tokens it replaced."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining, ElectraModel
from transformers.models.electra.modeling_electra import ElectraDiscriminatorPredictions
from transformers.utils import ModelOutput

_IGNORED = -100


@dataclass
class ReplacedTokensOutput(ModelOutput):  # type: ignore[misc]
    """What `ReplacedTokens` gives.

    Attributes:
        loss: weighted sum of both losses.
        logits: of the discriminator [B, T], above 0 where it takes a token for replaced.
        generator_loss, discriminator_loss: mean cross-entropy, of masked tokens and of all tokens.
        generator_logits: of the generator at the labels [R, V].
        replaced: bool [B, T], which tokens were replaced by others.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    generator_loss: Tensor | None = None
    discriminator_loss: Tensor | None = None
    generator_logits: Tensor | None = None
    replaced: Tensor | None = None


class ReplacedTokens(ElectraForPreTraining):  # type: ignore[misc]
    """A discriminator, and within it the generator that it is trained with (Clark et al. 2020, section 3.2).

    They share their embeddings (section 3.2), as wide as the discriminator. Saved and loaded as `ElectraForPreTraining`
    it is the discriminator alone.

    Args:
        config: the discriminator's. `generator_share` in it is the generator's width as a share of the
            discriminator's; `discriminator_weight` the factor on its loss.
    """

    _tied_weights_keys = {
        f"generator.electra.embeddings.{name}": f"electra.embeddings.{name}"
        for name in (
            "word_embeddings.weight",
            "position_embeddings.weight",
            "token_type_embeddings.weight",
            "LayerNorm.weight",
            "LayerNorm.bias",
        )
    } | {"generator.generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"}

    def __init__(self, config: ElectraConfig) -> None:
        # Not ElectraForPreTraining's: that ties weights before the generator is there.
        super(ElectraForPreTraining, self).__init__(config)
        self.electra = ElectraModel(config)
        self.discriminator_predictions = ElectraDiscriminatorPredictions(config)
        self.generator = ElectraForMaskedLM(generator_config(config))
        self.discriminator_weight: float = getattr(config, "discriminator_weight", 50.0)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        chance: Tensor | None = None,
    ) -> ReplacedTokensOutput:
        """Both losses of a masked batch.

        Args:
            input_ids: with masks [B, T].
            attention_mask: 1 where a token is not padding [B, T].
            labels: the true id where something is masked, else -100 [B, T]. Without, the discriminator looks at the
                input as it is.
            chance: what the generator's choice goes by, uniform from 0 to 1 [B, T]; without, torch's random generator,
                and the choice then depends on how sequences are divided into batches.
        """
        if labels is None:
            plain = super().forward(input_ids, attention_mask=attention_mask)
            return ReplacedTokensOutput(logits=plain.logits)
        chosen_BT = labels != _IGNORED
        states_BTE = self.generator.electra(input_ids, attention_mask=attention_mask).last_hidden_state
        # As with MaskedHead, the vocabulary is projected to where the labels are and nowhere else.
        states_RE = self.generator.generator_predictions(states_BTE[chosen_BT])
        logits_RV = self.generator.generator_lm_head(states_RE).float()
        generator_loss = nn.functional.cross_entropy(logits_RV, labels[chosen_BT])
        # The choice carries no gradient: the generator is trained by its own loss alone (section 2).
        chance_R = torch.rand_like(logits_RV[:, 0]) if chance is None else chance[chosen_BT]
        drawn_R = _draw(logits_RV.detach(), chance_R)
        true_BT = torch.where(chosen_BT, labels, input_ids)
        shown_BT = true_BT.masked_scatter(chosen_BT, drawn_R)
        replaced_BT = shown_BT != true_BT
        logits_BT = super().forward(shown_BT, attention_mask=attention_mask).logits
        counted = slice(None) if attention_mask is None else attention_mask.bool()
        discriminator_loss = nn.functional.binary_cross_entropy_with_logits(
            logits_BT[counted].float(), replaced_BT[counted].float()
        )
        return ReplacedTokensOutput(
            loss=generator_loss + self.discriminator_weight * discriminator_loss,
            logits=logits_BT,
            generator_loss=generator_loss,
            discriminator_loss=discriminator_loss,
            generator_logits=logits_RV,
            replaced=replaced_BT,
        )

    def discriminator(self) -> ElectraForPreTraining:
        """The discriminator alone, with the same weights."""
        alone = ElectraForPreTraining(copy.deepcopy(self.config))
        alone.electra, alone.discriminator_predictions = self.electra, self.discriminator_predictions
        return alone


def _draw(logits_RV: Tensor, chance_R: Tensor) -> Tensor:
    """A token for each row of logits [R], by the inverse of the distribution function at the chances."""
    cumulative_RV = logits_RV.softmax(-1).cumsum(-1)
    # Rounding keeps the last sum from being 1.
    place_R1 = torch.searchsorted(cumulative_RV, chance_R[:, None] * cumulative_RV[:, -1:])
    return place_R1.squeeze(-1).clamp(max=logits_RV.shape[-1] - 1)


def generator_config(config: ElectraConfig) -> ElectraConfig:
    """The configuration of the generator of a discriminator: narrower, with as wide heads (section 3.2)."""
    share = getattr(config, "generator_share", 0.5)
    n_heads = max(1, round(config.num_attention_heads * share))
    width = config.hidden_size // config.num_attention_heads
    made = copy.deepcopy(config)
    made.num_attention_heads = n_heads
    made.hidden_size = n_heads * width
    made.intermediate_size = max(1, round(config.intermediate_size * share))
    return made
