"""The model of a run, guided as configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attention_guidance.attach import guide
from attention_guidance.commands.objectives.base import Objective
from attention_guidance.commands.pretraining.distributed.sharding import weights_finite
from attention_guidance.commands.pretraining.saving.aligned import aligned
from attention_guidance.commands.pretraining.settings.architectures import new_config, trained
from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.commands.pretraining.settings.positions import longest_input
from attention_guidance.commands.tokenization.byte_level import vocabulary_size
from attention_guidance.errors import ConfigError, GuidanceError
from attention_guidance.handle import Guidance
from attention_guidance.schedules import Schedule

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def new_model(config: RunConfig, objective: Objective, known: Mapping[str, Any]) -> PreTrainedModel:
    """The model of a run: with random weights (seed them first), or one that is trained already.

    Args:
        config: the run.
        objective: what it learns.
        known: what its tokenizer decides, see `told_by`.

    Raises:
        ConfigError: there is no such model, or its sequences are shorter than a block.
    """
    if config.init_from is not None:
        model = trained(config.init_from, objective.trained_model)
        if not weights_finite(model):
            raise ConfigError(
                f"init_from={config.init_from!r} has weights that are not finite; give a model without NaN"
            )
        model = aligned(model, objective.new_model, _with_room(known, config.pad_vocab, model.config))
    else:
        known = _with_room(known, config.pad_vocab)
        made = new_config(config, objective.arch, {**known, **objective.settings})
        try:
            model = objective.new_model(made)
        except GuidanceError:
            raise
        except Exception as error:  # whatever a model of any kind raises
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConfigError(f"a {made.model_type} model cannot be made so ({reason})") from error
    limit = longest_input(model)
    if limit is not None and config.block_size > limit:
        raise ConfigError(f"block_size={config.block_size}: this model takes at most {limit} tokens")
    # Whatever it was stored in: of weights in half precision small steps would round away.
    return model.float()


def _with_room(
    known: Mapping[str, Any], multiple: int | None, trained: PreTrainedConfig | None = None
) -> Mapping[str, Any]:
    """What a tokenizer decides, its vocabulary as large as a trained model's at least, and a multiple of a number."""
    if "vocab_size" not in known:
        return known
    rows = max(known["vocab_size"], getattr(trained, "vocab_size", 0))
    return {**known, "vocab_size": -(-rows // (multiple or 1)) * (multiple or 1)}


def told_by(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a tokenizer decides of a model's configuration: its vocabulary and special ids.

    BERT's tokenizers have cls and sep where RoBERTa's have bos and eos; their models are told both.
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
    """Attach the guidance that a configuration describes to each part of the model that is to be guided."""
    return {
        name: guide(
            part,
            config.heads,
            config.weight,
            loss=config.loss,
            normalization=config.normalization,
            backend=config.backend,
            schedule=Schedule(config.schedule, config.hold, config.end),
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
