"""Candidates of a downstream comparison: models, or the two sides of `compare` over seeds of pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_guidance.commands.reading.json_files import read_json
from attention_guidance.commands.studies.models import names_of, subjects
from attention_guidance.errors import ConfigError, RunError

_ARMS = ("unguided", "guided")


@dataclass(frozen=True)
class Candidate:
    """A model to compare, or several pre-trained with different seeds.

    Attributes:
        name: its name, valid as a folder name.
        models: folders or hub names of its models, by name; several models differ in the seed of pre-training.
    """

    name: str
    models: dict[str, str]


def candidates(models: Sequence[str]) -> list[Candidate]:
    """The candidates to compare; the first is the reference.

    Args:
        models: two or more models or runs, each a separate candidate; or a single output folder of `compare`, whose
            candidates are unguided and guided.

    Raises:
        ConfigError: there is a single model, or a model is given twice.
        RunError: the comparison has not finished.
    """
    if len(models) == 1:
        seeds = _seeds_of(Path(models[0]))
        if not seeds:
            raise ConfigError("cannot compare a single model; give two or more, or the output folder of compare")
        for run in (seed / arm for seed in seeds for arm in _ARMS):
            if not (run / "results.json").is_file():
                raise RunError(f"{run} has not finished; run the same compare again with `resume`")
        several = len(seeds) > 1
        return [
            Candidate(arm, {f"{arm}/{seed.name}" if several else arm: str(seed / arm) for seed in seeds})
            for arm in _ARMS
        ]
    return [Candidate(name, {name: model}) for name, model in zip(names_of(models), models, strict=True)]


def _seeds_of(comparison: Path) -> list[Path]:
    """The folders of the seeds of a comparison; if it has not finished, those that exist."""
    try:
        content = read_json(comparison / "compare.json", Any)
        return [comparison / f"seed-{pair['seed']}" for pair in content["seeds"]]
    except (OSError, ValueError, KeyError, TypeError):
        return sorted(comparison.glob("seed-*"), key=lambda folder: (len(folder.name), folder.name))


def checkpoints_of(model: str, at_most: int) -> list[tuple[int, float | None, str]]:
    """Evenly spread checkpoints of a run, including the newest.

    Args:
        model: folder of the run.
        at_most: maximum number of checkpoints.

    Returns:
        Step, validation loss (None if unknown) and folder of each.

    Raises:
        ConfigError: it is not a run, or has no checkpoints.
    """
    found = [s for s in subjects(model, with_checkpoints=True) if s.step is not None]
    if not found:
        raise ConfigError(
            f"{model} has no checkpoints; to keep more of them, pre-train with a larger `keep_checkpoints`"
        )
    n = min(at_most, len(found))
    chosen = sorted({round((k + 1) * len(found) / n) - 1 for k in range(n)})
    return [(s.step or 0, s.loss(), s.source) for s in (found[place] for place in chosen)]
