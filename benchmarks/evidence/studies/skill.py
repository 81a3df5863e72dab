"""Does a lower loss mean better grammar?"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from attention_guidance.analysis.intervals import rank_correlation

from ..stats import HOLDS, NOT_HERE, UNDECIDED, mean_text, table
from ..study import UNGUIDED, Kept, Record, Section, Spec, Study

# Half of the width of the 95 % interval of a coin, times the root of the number of tosses.
_CHANCE = 1.96 * 0.5
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
    skilled = False
    for name in _ARMS:
        records = kept.of(arm(name, kept.seeds))
        if records:
            found = [point for record in records for point in points(record)]
            every += found
            right = fmean(record["watched"]["snapshots"][-1]["right"] for record in records)
            skilled |= right > 0.5 + _CHANCE / records[0]["watched"]["pairs"] ** 0.5
            rows.append([name, mean_text(records), f"{100 * right:.1f} %", _correlation(found)])
    rows.append(["both", "–", "–", _correlation(every)])
    high = rank_correlation(*zip(*every, strict=True))[2]
    because = (
        f"The models end {'above' if skilled else 'at'} chance. Over {len(every)} checkpoints, the correlation is "
        f"{_correlation(every)}."
    )
    verdict = UNDECIDED if not skilled else NOT_HERE if high < 0 else HOLDS
    return Section(verdict, because, [table(*rows)])


def _correlation(found: list[tuple[float, float]]) -> str:
    value, low, high = rank_correlation(*zip(*found, strict=True))
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


STUDY = Study(
    name="skill",
    claim="Linguistic skill need not follow the language-modelling loss.",
    method="English text and four times the steps. At each fifth of the run the model scores 20 of BLiMP's minimal "
    "pairs a paradigm by pseudo-log-likelihood; chance is 50 %. The loss and the share of right pairs are correlated "
    "over the checkpoints of all runs. (The paper means the skill of single heads: see `attention-guidance skill`.)",
    rule="No arm ends above chance, by the 95 % interval of as many coin tosses as there are pairs: undecided, as "
    "there is no skill to follow anything. Else, the bootstrap 95 % interval of Spearman's correlation lies below 0 "
    "(the lower the loss, the more pairs are right): does not hold here; it does not: holds. (The first form of this "
    "rule did not ask for skill, and took an interval above 0 for one below. It was changed when all models had ended "
    "at chance.)",
    not_tried="Probes of heads over checkpoints; models large enough to be far above chance.",
    runs=runs,
    section=section,
    run_seconds=70.0,
)
