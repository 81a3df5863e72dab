"""The model of a run, guided as configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attention_guidance.attach import guide
from attention_guidance.errors import ConfigError
from attention_guidance.handle import Guidance
from attention_guidance.schedules import Schedule
from attention_guidance.training.architectures import new_config, random_weights, trained
from attention_guidance.training.config import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def new_model(config: RunConfig, vocabulary: int, **tokens: int) -> PreTrainedModel:
    """The model of a run: of the configured kind with random weights (seed them first), or one that is trained already.

    Args:
        config: the run.
        vocabulary: tokens of its tokenizer.
        **tokens: ids of the tokenizer's special tokens, as in `RobertaConfig`.

    Raises:
        ConfigError: there is no such model, or its sequences are shorter than a block.
    """
    if config.init_from is not None:
        model = trained(config.init_from, vocabulary)
    else:
        tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2} | tokens
        model = random_weights(new_config(config, vocabulary, tokens))
    limit = longest_input(model)
    if limit is not None and config.block_size > limit:
        raise ConfigError(f"block_size={config.block_size}: this model takes at most {limit} tokens")
    return model


def longest_input(model: PreTrainedModel) -> int | None:
    """The most tokens that a model has positions for, None where it does not tell."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    # RoBERTa counts positions from behind its padding id.
    table = next((m for name, m in model.named_modules() if name.endswith("position_embeddings")), None)
    padding = getattr(table, "padding_idx", None)
    return positions - (0 if padding is None else padding + 1)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The special ids a model's config tells; BERT's tokenizers have cls and sep where RoBERTa's have bos and eos."""
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id if start is None else start,
        "eos_token_id": tokenizer.sep_token_id if end is None else end,
    }


def guide_as_configured(
    model: PreTrainedModel, config: RunConfig, tokenizer: PreTrainedTokenizerBase | None
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


def model_facts(model: PreTrainedModel) -> dict[str, int | str]:
    """The kind and size of a model, for results and reports."""
    return {
        "type": model.config.model_type,
        "layers": model.config.num_hidden_layers,
        "hidden": model.config.hidden_size,
        "heads": model.config.num_attention_heads,
        "parameters": model.num_parameters(),
        "vocabulary": model.config.vocab_size,
    }
