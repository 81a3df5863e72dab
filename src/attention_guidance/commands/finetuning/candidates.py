"""What is compared downstream: models, or the two sides of a comparison with a run for each seed of pre-training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attention_guidance.commands.studies.models import names_of, subjects
from attention_guidance.errors import ConfigError, RunError

_ARMS = ("unguided", "guided")


@dataclass(frozen=True)
class Candidate:
    """One side.

    Attributes:
        name: what to call it, fit for a folder's name.
        models: folders or names of its models, by what to call each; several differ in the seed of pre-training.
    """

    name: str
    models: dict[str, str]


def candidates(models: Sequence[str]) -> list[Candidate]:
    """What to compare, the side that others are compared with first.

    Args:
        models: two or more models or runs, each a side of its own; or a single folder of `compare`, whose sides are
            unguided and guided.

    Raises:
        ConfigError: a single model, or one given twice.
        RunError: a comparison that has not ended.
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
    """The folders of the seeds that a comparison is of, or that are there while it has not ended."""
    try:
        content = json.loads((comparison / "compare.json").read_text(encoding="utf-8"))
        return [comparison / f"seed-{pair['seed']}" for pair in content["seeds"]]
    except (OSError, ValueError, KeyError, TypeError):
        return sorted(comparison.glob("seed-*"), key=lambda folder: (len(folder.name), folder.name))


def checkpoints_of(model: str, at_most: int) -> list[tuple[int, float | None, str]]:
    """Checkpoints of a run: step, validation loss where known, folder; evenly spread, the newest among them.

    Raises:
        ConfigError: it is no run, or has no checkpoints.
    """
    found = [s for s in subjects(model, with_checkpoints=True) if s.step is not None]
    if not found:
        raise ConfigError(
            f"{model} has no checkpoints; to keep more of them, pre-train with a larger `keep_checkpoints`"
        )
    n = min(at_most, len(found))
    chosen = sorted({round((k + 1) * len(found) / n) - 1 for k in range(n)})
    return [(s.step or 0, s.loss(), s.source) for s in (found[place] for place in chosen)]
