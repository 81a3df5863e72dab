"""Save and load what a fine-tuned model needs besides its weights: its task, and the baseline combined with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from attention_guidance.commands import results
from attention_guidance.commands.finetuning.baselines.crf import Crf
from attention_guidance.commands.finetuning.baselines.linear import Linear, vectorizer
from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.examples.tasks import Task, get_task
from attention_guidance.errors import ConfigError

TASK_FILE = "task.json"
# The baseline: its strings (features, n-grams), and its arrays.
_NAMES_FILE, _ARRAYS_FILE = "baseline.json", "baseline.safetensors"


@dataclass(frozen=True)
class Partner:
    """The baseline that a model is combined with.

    Attributes:
        model: the baseline.
        weight: weight of the encoder, from 0 to 1; the baseline has the rest.
    """

    model: Crf | Linear
    weight: float


def save_task(folder: Path, data: Data, partner: Partner | None) -> None:
    """Save the task of a model, and the baseline combined with it, in the model's folder.

    Args:
        folder: the model's folder.
        data: the task.
        partner: the baseline, or None.
    """
    content = {
        "schema_version": results.SCHEMA_VERSION,
        "kind": "task",
        "task": data.task.name,
        "labels": data.labels,
        "scheme": data.scheme,
        "encoder_weight": None if partner is None else partner.weight,
    }
    results.write_data_json(folder / TASK_FILE, content)
    if partner is None:
        return
    names, arrays = _crf_parts(partner.model) if isinstance(partner.model, Crf) else _linear_parts(partner.model)
    results.write_data_json(folder / _NAMES_FILE, {"names": names})
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / _ARRAYS_FILE)


def load_task(folder: Path) -> tuple[Data, Partner | None] | None:
    """Load what `save_task` has written; None if the folder has no task.

    Raises:
        ConfigError: a file is damaged.
    """
    if not (folder / TASK_FILE).is_file():
        return None
    try:
        content = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
        task = get_task(content["task"])
        data = Data(task, tuple(content["labels"]), {}, {}, scheme=content["scheme"])
        if (weight := content["encoder_weight"]) is None:
            return data, None
        names = json.loads((folder / _NAMES_FILE).read_text(encoding="utf-8"))["names"]
        arrays = load_file(folder / _ARRAYS_FILE)
        model = (
            _crf(len(data.labels), names, arrays)
            if task.kind == "tokens"
            else _linear(task, len(data.labels), names, arrays)
        )
        return data, Partner(model, float(weight))
    except Exception as error:  # JSON, safetensors, shapes that do not match
        raise ConfigError(f"{folder}: {TASK_FILE} or the baseline beside it is damaged; fine-tune again") from error


def _crf_parts(model: Crf) -> tuple[list[list[str]], dict[str, Any]]:
    return [[*model.features]], {"weights": np.stack([*model.features.values()]), "between": model.transitions.between}


def _crf(n_labels: int, names: Sequence[Sequence[str]], arrays: dict[str, Any]) -> Crf:
    _require(arrays, weights=(len(names[0]), n_labels), between=(n_labels, n_labels))
    return Crf(dict(zip(names[0], arrays["weights"], strict=True)), arrays["between"])


def _linear_parts(model: Linear) -> tuple[list[list[str]], dict[str, Any]]:
    fitted = model.model
    arrays = {"coef": fitted.coef_, "intercept": fitted.intercept_, "classes": fitted.classes_}
    arrays |= {f"idf.{n}": of_text.idf_ for n, of_text in enumerate(model.vectorizers)}
    return [[*map(str, of_text.get_feature_names_out())] for of_text in model.vectorizers], arrays


def _linear(task: Task, n_labels: int, names: Sequence[Sequence[str]], arrays: dict[str, Any]) -> Linear:
    n_classes = len(arrays["classes"])
    n_rows, widths = n_classes if n_classes > 2 else 1, [*map(len, names)]
    idf = {f"idf.{n}": (width,) for n, width in enumerate(widths)}
    _require(arrays, coef=(n_rows, sum(widths)), intercept=(n_rows,), classes=(n_classes,), **idf)
    if not {*arrays["classes"].tolist()} <= {*range(n_labels)} or len(names) != max(1, len(task.columns) - 1):
        raise ValueError("of another task")
    vectorizers: list[TfidfVectorizer] = []
    for n, of_text in enumerate(names):
        vectorizers.append(vectorizer(vocabulary=of_text))
        vectorizers[-1].idf_ = arrays[f"idf.{n}"]
    model = LogisticRegression()
    model.coef_, model.intercept_, model.classes_ = arrays["coef"], arrays["intercept"], arrays["classes"]
    return Linear(task.kind, n_labels, vectorizers, model)


def _require(arrays: dict[str, Any], **shapes: tuple[int, ...]) -> None:
    """Check the arrays of a baseline, which may be that of another model.

    Raises:
        ValueError: one has another shape, or is not finite.
    """
    for name, shape in shapes.items():
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} is not finite numbers of shape {shape}")
