"""ELECTRA's generator and discriminator in one model, for joint pre-training."""

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
    """Output of `ReplacedTokens`.

    Attributes:
        loss: weighted sum of both losses.
        logits: the discriminator's logits [B, T], above 0 where it predicts that a token was replaced.
        generator_loss, discriminator_loss: mean cross-entropy over the masked tokens and over all tokens.
        generator_logits: the generator's logits at the masked positions [R, V].
        replaced: bool [B, T], which tokens were replaced with a different one.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    generator_loss: Tensor | None = None
    discriminator_loss: Tensor | None = None
    generator_logits: Tensor | None = None
    replaced: Tensor | None = None


class ReplacedTokens(ElectraForPreTraining):  # type: ignore[misc]
    """A discriminator that contains the generator it is trained with (Clark et al. 2020, section 3.2).

    They share their embeddings (section 3.2), which have the discriminator's width. When saved and loaded as
    `ElectraForPreTraining`, it is the discriminator alone.

    Args:
        config: the discriminator's configuration, with two more fields: `generator_share`, the generator's width as a
            fraction of the discriminator's, and `discriminator_weight`, the factor on the discriminator's loss.
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
        # Skip ElectraForPreTraining.__init__, which would tie weights before the generator exists.
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
        """Compute both losses of a masked batch.

        Args:
            input_ids: token ids with mask tokens [B, T].
            attention_mask: 1 for tokens, 0 for padding [B, T].
            labels: original ids of the masked tokens, -100 elsewhere [B, T]. If None, only the discriminator runs, on
                the input as it is.
            chance: uniform random numbers from 0 to 1 for sampling from the generator [B, T] (default: from torch's
                random generator; the sampled tokens then depend on how sequences are batched).
        """
        if labels is None:
            plain = super().forward(input_ids, attention_mask=attention_mask)
            return ReplacedTokensOutput(logits=plain.logits)
        chosen_BT = labels != _IGNORED
        states_BTE = self.generator.electra(input_ids, attention_mask=attention_mask).last_hidden_state
        # As in MaskedHead, only masked positions are projected to the vocabulary.
        states_RE = self.generator.generator_predictions(states_BTE[chosen_BT])
        logits_RV = self.generator.generator_lm_head(states_RE).float()
        generator_loss = nn.functional.cross_entropy(logits_RV, labels[chosen_BT])
        # Sampling has no gradient: the generator is trained by its own loss alone (section 2).
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
    """Sample a token for each row of logits [R], by inverse transform sampling from uniform numbers."""
    cumulative_RV = logits_RV.softmax(-1).cumsum(-1)
    # Because of rounding, the last sum may differ from 1.
    place_R1 = torch.searchsorted(cumulative_RV, chance_R[:, None] * cumulative_RV[:, -1:])
    return place_R1.squeeze(-1).clamp(max=logits_RV.shape[-1] - 1)


def generator_config(config: ElectraConfig) -> ElectraConfig:
    """The generator's configuration: narrower than the discriminator's, with heads of the same width (section 3.2)."""
    share = getattr(config, "generator_share", 0.5)
    n_heads = max(1, round(config.num_attention_heads * share))
    width = config.hidden_size // config.num_attention_heads
    made = copy.deepcopy(config)
    made.num_attention_heads = n_heads
    made.hidden_size = n_heads * width
    made.intermediate_size = max(1, round(config.intermediate_size * share))
    return made
