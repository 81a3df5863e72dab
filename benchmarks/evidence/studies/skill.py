"""Does a lower loss mean better grammar?"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from attention_guidance.analysis.intervals import rank_correlation

from ..stats import HOLDS, NOT_HERE, mean_text, table
from ..study import UNGUIDED, Kept, Record, Section, Spec, Study

_ARMS = {"unguided": UNGUIDED, "guided": {}}


def arm(name: str, seeds: Sequence[int]) -> list[Spec]:
    """The runs of an arm."""
    return [Spec(_ARMS[name] | {"max_steps": 1200}, seed, "english", watch="pairs") for seed in seeds]


def runs(kept: Kept, seeds: Sequence[int]) -> list[Spec]:
    """Both arms, seed by seed."""
    return [spec for seed in seeds for name in _ARMS for spec in arm(name, [seed])]


def points(record: Record) -> list[tuple[float, float]]:
    """The validation loss and the share of pairs that are right, at each step at which both are known."""
    losses = dict(map(tuple, record["curve"]))
    shots = record["watched"]["snapshots"]
    return [(losses[shot["step"]], shot["right"]) for shot in shots if shot["step"] in losses]


def section(kept: Kept) -> Section:
    """The final scores of both arms, and the correlation over checkpoints."""
    rows = [["run", "loss", "pairs right at the end", "Spearman's correlation of loss and pairs (95 %)"]]
    every: list[tuple[float, float]] = []
    for name in _ARMS:
        records = kept.of(arm(name, kept.seeds))
        if records:
            found = [point for record in records for point in points(record)]
            every += found
            right = fmean(record["watched"]["snapshots"][-1]["right"] for record in records)
            rows.append([name, mean_text(records), f"{right:.1%}", _correlation(found)])
    rows.append(["both", "–", "–", _correlation(every)])
    _, low, high = rank_correlation(*zip(*every, strict=True))
    because = f"Over {len(every)} checkpoints, the correlation is {_correlation(every)}."
    return Section(HOLDS if low <= 0 <= high else NOT_HERE, because, [table(*rows)])


def _correlation(found: list[tuple[float, float]]) -> str:
    value, low, high = rank_correlation(*zip(*found, strict=True))
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


STUDY = Study(
    name="skill",
    claim="Linguistic skill need not follow the language-modelling loss.",
    method="English text and four times the steps. At each fifth of the run the model scores 20 of BLiMP's minimal "
    "pairs a paradigm by pseudo-log-likelihood; chance is 50 %. The loss and the share of right pairs are correlated "
    "over the checkpoints of all runs. (The paper means the skill of single heads: see `attention-guidance skill`.)",
    rule="The bootstrap 95 % interval of Spearman's correlation includes 0: holds; it does not: does not hold here. An "
    "interval that includes 0 shows no relation, which is not the same as that there is none.",
    not_tried="Probes of heads over checkpoints; models large enough to be far above chance.",
    runs=runs,
    section=section,
    run_seconds=70.0,
)
