"""Create or load the model of a run, and attach its guidance."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from attention_guidance.adapters.positions import longest_input
from attention_guidance.attach import guide
from attention_guidance.commands.objectives.base import Objective
from attention_guidance.commands.pretraining.distributed.sharding import weights_finite
from attention_guidance.commands.pretraining.preparation.vocabulary import Inheritance
from attention_guidance.commands.pretraining.saving.aligned import aligned
from attention_guidance.commands.pretraining.settings.architectures import new_config, trained
from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.commands.tokenization.byte_level import vocabulary_size
from attention_guidance.errors import ConfigError, GuidanceError
from attention_guidance.handle import Guidance

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def new_model(
    config: RunConfig, objective: Objective, known: Mapping[str, Any], inherited: Inheritance | None = None
) -> PreTrainedModel:
    """Create the model of a run with random weights (set the seed first), or load a trained one.

    Args:
        config: Settings of the run.
        objective: Training objective.
        known: Fields of the model's configuration that the tokenizer determines, see `told_by`.
        inherited: What the tokens begin as, if they replace those of the trained model.

    Raises:
        ConfigError: There is no such model, it cannot be created, or its maximum length is below the block size.
    """
    if config.init_from is not None:
        model = trained(config.init_from, objective.trained_model)
        if not weights_finite(model):
            raise ConfigError(
                f"init_from={config.init_from!r} has weights that are NaN or infinite; give another model"
            )
        if inherited is None:
            model = aligned(model, objective.new_model, _with_room(known, config.pad_vocab, model.config))
        else:
            known = _with_room(known, config.pad_vocab)
            model = aligned(model.float(), objective.new_model, known, partial(inherited.rows, seed=config.seed))
    else:
        known = _with_room(known, config.pad_vocab)
        made = new_config(config, objective.arch, {**known, **objective.settings})
        try:
            model = objective.new_model(made)
        except GuidanceError:
            raise
        except Exception as error:  # models may raise any error
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConfigError(f"cannot create a {made.model_type} model with these settings ({reason})") from error
    limit = longest_input(model)
    if limit is not None and config.block_size > limit:
        raise ConfigError(f"block_size={config.block_size}: this model takes at most {limit} tokens")
    # Whatever the stored precision: in half precision, small updates would be lost to rounding.
    return model.float()


def _with_room(
    known: Mapping[str, Any], multiple: int | None, trained: PreTrainedConfig | None = None
) -> Mapping[str, Any]:
    """Enlarge the vocabulary size to at least that of a trained model, and round it up to a multiple."""
    if "vocab_size" not in known:
        return known
    rows = max(known["vocab_size"], getattr(trained, "vocab_size", 0))
    return {**known, "vocab_size": -(-rows // (multiple or 1)) * (multiple or 1)}


def told_by(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The fields of a model's configuration that its tokenizer determines: vocabulary size and special ids.

    BERT's tokenizers define cls and sep, RoBERTa's bos and eos; a missing pair is set to the other.
    """
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    start = tokenizer.cls_token_id if start is None else start
    end = tokenizer.sep_token_id if end is None else end
    return {
        "vocab_size": vocabulary_size(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": start,
        "eos_token_id": end,
        "cls_token_id": start,
        "sep_token_id": end,
        "mask_token_id": tokenizer.mask_token_id,
    }


def guide_as_configured(
    model: PreTrainedModel, objective: Objective, config: RunConfig, tokenizer: PreTrainedTokenizerBase | None
) -> dict[str, Guidance]:
    """Attach the configured guidance to each guided part of the model; returns the handles by part."""
    # Their names may come from a file; `guide` checks them.
    names: dict[str, Any] = {"loss": config.loss, "normalization": config.normalization, "backend": config.backend}
    return {
        name: guide(
            part,
            config.heads,
            config.guidance_weight,
            **names,
            schedule=config.weight_schedule,
            total_steps=config.total_steps,
            tokenizer=tokenizer,
            token_classes=config.token_classes,
            within=model,
        )
        for name, part in objective.guided_parts(model).items()
    }


def model_facts(model: PreTrainedModel) -> dict[str, int | str | None]:
    """The kind and size of a model, for results and reports."""
    return {
        "type": model.config.model_type,
        "layers": model.config.num_hidden_layers,
        "hidden": model.config.hidden_size,
        "heads": model.config.num_attention_heads,
        "parameters": model.num_parameters(),
        "vocabulary": getattr(model.config, "vocab_size", None),
    }
