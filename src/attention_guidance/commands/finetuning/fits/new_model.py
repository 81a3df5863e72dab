"""The initial model of a fine-tuning: the encoder with a new head."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.fits.predict import OF_THE_TASK
from attention_guidance.commands.pretraining.settings.architectures import DROPOUTS
from attention_guidance.errors import ConfigError, reason_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from attention_guidance.commands.finetuning.settings import FitSettings

_FINE_TUNED = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


def new_model(data: Data, source: str, settings: FitSettings, *, fresh: bool = True) -> PreTrainedModel:
    """Load an encoder with a new head for the task.

    All parameters outside the encoder are initialized anew, by torch's random generator.

    Args:
        data: the task.
        source: folder or name of the model.
        settings: its dropout is used.
        fresh: initialize a new head; if False, load the saved head, as of a finished fit.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    n_labels = len(data.labels) or 1
    kinds = {
        "classify": "single_label_classification",
        "multilabel": "multi_label_classification",
        "regress": "regression",
    }
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        config.num_labels = n_labels
        if data.labels:
            config.id2label = dict(enumerate(data.labels))
            config.label2id = {label: number for number, label in enumerate(data.labels)}
        config.problem_type = kinds.get(data.task.kind)
        for name in DROPOUTS:
            if hasattr(config, name):
                setattr(config, name, settings.dropout)
        if any(name.endswith("EncoderModel") for name in config.architectures or ()):
            # T5's head for texts reads a decoder. If none was saved it is new, and one layer is enough.
            config.num_decoder_layers = 1
        loader = AutoModelForTokenClassification if data.task.kind == "tokens" else AutoModelForSequenceClassification
        # Always in float32: in half precision, small updates round to 0 and scores may be NaN.
        if not fresh:
            return loader.from_pretrained(source, config=config, dtype=torch.float32, trust_remote_code=False)
        for name in OF_THE_TASK:
            if hasattr(config, name):
                delattr(config, name)
        drawn = loader.from_config(copy.deepcopy(config), dtype=torch.float32, trust_remote_code=False)
        model, found = loader.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
        _copy_head(model, drawn, found)
        return model
    except Exception as error:  # transformers, safetensors and the hub raise many types
        raise ConfigError(f"model {source!r}: cannot be loaded for {data.task.name} ({reason_of(error)})") from error


def _copy_head(model: PreTrainedModel, drawn: PreTrainedModel, found: Mapping[str, Any]) -> None:
    """Copy the parameters outside the encoder, and those missing from the file, from a newly initialized model.

    Raises:
        ValueError: parameters of the encoder have other sizes in the file, or the head is part of the encoder.
    """
    if model.base_model is model and not found["missing_keys"]:
        raise ValueError("cannot separate its head from its encoder, so the head cannot be initialized anew")
    of_encoder = {id(parameter) for parameter in model.base_model.parameters()}
    head = {name for name, parameter in model.named_parameters() if id(parameter) not in of_encoder}
    other_sizes = {name if isinstance(name, str) else name[0] for name in found["mismatched_keys"]} - head
    if other_sizes:
        raise ValueError(f"{min(other_sizes)} has a different size than its configuration says")
    anew = head | (set(found["missing_keys"]) & set(dict(model.named_parameters())))
    theirs = drawn.state_dict()
    model.load_state_dict({name: theirs[name] for name in anew}, strict=False)


def head_of(source: str) -> str | None:
    """The class of a model that was already fine-tuned, whose head will be discarded; None for other models.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    try:
        names = AutoConfig.from_pretrained(source, trust_remote_code=False).architectures or []
    except Exception as error:  # transformers and the hub raise many types
        raise ConfigError(f"model {source!r}: cannot be loaded ({reason_of(error)})") from error
    return next((name for name in names if name.endswith(_FINE_TUNED)), None)
