"""The model of a run: RoBERTa at the configured size, guided as configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import RobertaConfig, RobertaForMaskedLM

from attention_guidance.attach import guide
from attention_guidance.handle import Guidance
from attention_guidance.schedules import Schedule
from attention_guidance.training.config import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def random_model(config: RunConfig, vocabulary: int, **tokens: int) -> RobertaForMaskedLM:
    """A RoBERTa of the configured size with random weights (seed them first).

    Args:
        config: the run.
        vocabulary: tokens of its tokenizer.
        **tokens: ids of the tokenizer's special tokens, as in `RobertaConfig`.
    """
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2} | tokens
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=vocabulary,
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.attention_heads,
            intermediate_size=config.feed_forward,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            # RoBERTa numbers positions from the padding id + 1 on.
            max_position_embeddings=config.block_size + tokens["pad_token_id"] + 1,
            type_vocab_size=1,
            **tokens,
        )
    )


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The special ids a model's config tells; BERT's tokenizers have cls and sep where RoBERTa's have bos and eos."""
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id if start is None else start,
        "eos_token_id": tokenizer.sep_token_id if end is None else end,
    }


def guide_as_configured(
    model: RobertaForMaskedLM, config: RunConfig, tokenizer: PreTrainedTokenizerBase | None
) -> Guidance:
    """Attach the guidance that a configuration describes."""
    return guide(
        model,
        config.heads,
        config.weight,
        loss=config.loss,
        normalization=config.normalization,
        backend=config.backend,
        schedule=Schedule(config.schedule, config.hold, config.end),
        total_steps=config.max_steps,
        tokenizer=tokenizer,
        token_classes=config.token_classes,
    )


def model_facts(model: RobertaForMaskedLM) -> dict[str, int]:
    """The size of a model, for results and reports."""
    return {
        "layers": model.config.num_hidden_layers,
        "hidden": model.config.hidden_size,
        "heads": model.config.num_attention_heads,
        "parameters": model.num_parameters(),
        "vocabulary": model.config.vocab_size,
    }
