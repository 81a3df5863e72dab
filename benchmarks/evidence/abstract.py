"""The claims of the paper's abstract, each with a verdict: of a study, or from the results of another benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..downstream.low_resource_tables import PUBLISHED
from .stats import verdict_of

RESULTS = Path(__file__).parents[1] / "results"
#: How many times as long as an unguided step a guided one may take to count as efficient.
EFFICIENT = 1.05


@dataclass(frozen=True)
class Claim:
    """A claim of the abstract.

    Attributes:
        words: Its words.
        not_tried: What is left open.
        studies: The studies that test it.
        place: Else, the heading that has the figures, as a link from the page.
        seen: Else, a function that returns the verdict and what was seen.
    """

    words: str
    not_tried: str
    studies: Sequence[str] = ()
    place: str = ""
    seen: Callable[[], tuple[str, str]] | None = None


def rows(verdict_of_study: Callable[[str], str]) -> list[list[str]]:
    """A row for each claim, in the order of the abstract.

    Args:
        verdict_of_study: Returns the verdict of a study.
    """
    found = [["the abstract", "tested in", "verdict", "not tried"]]
    for claim in CLAIMS:
        if claim.seen is None:
            places = ", ".join(f"[{name}](#{name})" for name in claim.studies)
            verdict = "; ".join(map(verdict_of_study, claim.studies))
        else:
            places = f"[{Path(claim.place.partition('#')[0]).stem}]({claim.place})"
            verdict = "{}: {}".format(*claim.seen())
        found.append([f"“{claim.words}”", places, verdict, claim.not_tried])
    return found


def _newest(name: str, *fields: str) -> list[dict[str, Any]]:
    """The newest result of each setting that a benchmark has kept."""
    lines = (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == name]
    return [*{tuple(record[field] for field in fields): record for record in records}.values()]


def _cost() -> tuple[str, str]:
    ratios = [record["ratio"] for record in _newest("cost_product", "name")]
    found = verdict_of([ratio <= EFFICIENT for ratio in ratios])
    return found, f"a step takes {min(ratios):.2f} to {max(ratios):.2f} times as long"


def _downstream() -> tuple[str, str]:
    gaps = [record["differences"]["guided"] for record in _newest("downstream", "study", "text", "task")]
    better = [gap["low"] > 0 for gap in gaps]
    return verdict_of(better), f"better than unguided in {sum(better)} of {len(gaps)} comparisons, by the 95 % interval"


def _low_resource() -> tuple[str, str]:
    best: dict[str, float] = {}
    for record in _newest("low_resource", "language", "seed", "steps"):
        language, score = record["language"], 100 * record["combined"][1]["mean"]
        if language in PUBLISHED:
            best[language] = max(score, best.get(language, 0.0))
    gaps = {language: score - PUBLISHED[language]["AfroXLMR base"] for language, score in best.items()}
    seen = ", ".join(f"{language.capitalize()} {gap:+.1f}" for language, gap in gaps.items())
    found = verdict_of([gap >= 0 for gap in gaps.values()])
    return found, f"points of entity F1 minus AfroXLMR base's, as published: {seen}"


CLAIMS = (
    Claim(
        "self-attention patterns in trained models contain a majority of non-linguistic regularities",
        "models of the paper's size ([looking](looking.md#what-was-measured) has trained encoders)",
        ("heads",),
    ),
    Claim(
        "a computationally efficient auxiliary loss function",
        "models of the paper's size; a whole step on a GPU",
        place="../README.md#what-it-costs",
        seen=_cost,
    ),
    Claim("agnostic to the actual pre-training objective", "speech", ("objectives", "images")),
    Claim(
        "results in faster convergence of models",
        "models of the paper's size; its 100,000 steps",
        ("convergence", "hyperparameters"),
    ),
    Claim(
        "better performance on downstream tasks compared to the baselines",
        "the paper's tasks at its size; several pre-training runs of each model",
        place="low-resource.md#guided-against-unguided-without-the-crf",
        seen=_downstream,
    ),
    Claim(
        "state of the art results in low-resource settings",
        "starting from a multilingual model",
        place="../README.md#is-it-worth-it",
        seen=_low_resource,
    ),
    Claim(
        "linguistic properties of attention heads are not necessarily correlated with language modeling performance",
        "the heads themselves: *skill* has minimal pairs",
        ("skill",),
    ),
)
