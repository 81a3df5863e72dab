"""Is guidance needed, or do other means have the same effect?"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..stats import HOLDS, IN_PART, NOT_HERE, differences, interval, mean_text, pairs_of, ratios_text, table
from ..study import UNGUIDED, Kept, Section, Spec, Study
from .which_guidance import NO_FIRST

CHANGED = {
    "heads always fixed to the pattern": "fixed",
    "a prior on the scores, annealed away": "prior",
    "mimetic initialization": "mimetic",
    "sinusoidal positions at the start": "positions",
    "the same, with query and key set to the pattern": "weights",
}


def arm(name: str, seeds: Sequence[int]) -> list[Spec]:
    """The runs of an arm."""
    if name in CHANGED:
        return [Spec(UNGUIDED, seed, change=CHANGED[name]) for seed in seeds]
    return [Spec(NO_FIRST if name == "guided" else UNGUIDED, seed) for seed in seeds]


ARMS = ("unguided", "guided", *CHANGED)


def runs(kept: Kept, seeds: Sequence[int]) -> list[Spec]:
    """All arms, seed by seed."""
    return [spec for seed in seeds for name in ARMS for spec in arm(name, [seed])]


def section(kept: Kept) -> Section:
    """A row for each means."""
    rows = [["means", "loss", "lowest on the way", "minus unguided (95 %)", "minus guided (95 %)", "steps ratio"]]
    as_good = []
    for name in ARMS:
        specs = arm(name, kept.seeds)
        cells = []
        for other in ("unguided", "guided"):
            values = differences(pairs_of(kept, specs, arm(other, kept.seeds)))
            gap = interval(values) if values and name != other else None
            cells.append(gap.text() if gap else "–")
            if name in CHANGED and other == "guided" and gap:
                as_good.append((name, gap))
        ratios = ratios_text(pairs_of(kept, specs, arm("unguided", kept.seeds))) if name != "unguided" else "–"
        if kept.of(specs):
            lowest = fmean(min(loss for _, loss in record["curve"]) for record in kept.of(specs))
            rows.append([name, mean_text(kept.of(specs)), f"{lowest:.3f}", *cells, ratios])
    worse = [name for name, gap in as_good if gap.low > 0]
    better = [name for name, gap in as_good if gap.high < 0]
    verdict = NOT_HERE if better else HOLDS if as_good and len(worse) == len(as_good) else IN_PART
    same = [name for name, _ in as_good if name not in (*worse, *better)]
    ends = {"lower than guidance": better, "higher": worse, "no difference shown": same}
    because = " ".join(f"{end.capitalize()}: {'; '.join(names) or 'none'}." for end, names in ends.items())
    return Section(verdict, because, [table(*rows)])


STUDY = Study(
    name="alternatives",
    claim="No simpler change to the model does as much as guidance.",
    method="The same budget, data and seeds, without guidance but with another change to the model "
    "(`benchmarks/evidence/changes.py`): head 0 of each layer attends to the next token and head 1 to the previous, "
    "always; 6 is added to the scores of these targets, and decays as the weight of guidance does; the initialization "
    "of Trockman and Kolter (2023); sinusoidal positions at the start; the same, with the heads' query and key set so "
    "that they attend to the target. Guided has `next:1 previous:1`, the same heads.",
    rule="Every other means ends higher than guidance, by the 95 % interval over seeds: holds; none ends lower: holds "
    "in part; any ends lower: does not hold here.",
    not_tried="Relative positions (T5, ALiBi, rotary; but see `modernbert` above); convolutions beside attention; the "
    "strength of each means, which was set once and not searched.",
    runs=runs,
    section=section,
)
