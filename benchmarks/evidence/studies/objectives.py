"""Does guidance help every objective?"""

from __future__ import annotations

from collections.abc import Sequence

from ..stats import differences, interval, mean_text, pairs_of, ratios_text, table, verdict_of
from ..study import BASE, Kept, Section, Spec, Study

OBJECTIVES = ("mlm", "whole-word", "span", "rtd", "mlm+nsp", "mlm+sop")
#: A second number of steps, for objectives that gained little or nothing in the first.
LONGER = {"span": 600, "rtd": 600, "mlm+sop": 600}
BUDGETS = [(objective, BASE["max_steps"]) for objective in OBJECTIVES] + [*LONGER.items()]


def guided(objective: str, seeds: Sequence[int], steps: int = BASE["max_steps"]) -> list[Spec]:
    """The guided runs of an objective, with the default guidance."""
    named = {"objective": objective} if objective != "mlm" else {}
    return [Spec(named | ({"max_steps": steps} if steps != BASE["max_steps"] else {}), seed) for seed in seeds]


def runs(kept: Kept, seeds: Sequence[int]) -> list[Spec]:
    """Both arms of every objective, seed by seed."""
    of_seed = [spec for seed in seeds for objective, steps in BUDGETS for spec in guided(objective, [seed], steps)]
    return [arm for spec in of_seed for arm in (spec, spec.unguided)]


def section(kept: Kept) -> Section:
    """A row for each objective and number of steps; the longer one decides."""
    rows = [
        ["objective", "model", "steps", "unguided", "guided", "guided − unguided (95 %)", "steps ratio of each seed"]
    ]
    found = {}
    for objective, steps in sorted(BUDGETS, key=lambda budget: OBJECTIVES.index(budget[0])):
        arms = guided(objective, kept.seeds, steps)
        pairs = pairs_of(kept, arms, [spec.unguided for spec in arms])
        if differences(pairs):
            gap = interval(differences(pairs))
            found[objective] = gap.below_zero
            model = pairs[0][0]["model"]["type"]
            losses = [mean_text([pair[arm] for pair in pairs]) for arm in (1, 0)]
            rows.append([f"`{objective}`", model, steps, *losses, gap.text(), ratios_text(pairs)])
    better = [name for name, is_better in found.items() if is_better]
    because = f"The interval lies below 0 for {len(better)} of {len(found)} objectives ({', '.join(better) or 'none'})."
    return Section(verdict_of([*found.values()]), because, [table(*rows)])


STUDY = Study(
    name="objectives",
    claim="Guidance helps whatever the pre-training objective: masked tokens, whole words, spans, replaced tokens, "
    "sentence pairs.",
    method="Each text objective is trained with the default guidance and without, on the same data, in the same order, "
    "from the same initial weights. Losses of different objectives measure different things.",
    rule="The 95 % interval of guided − unguided over seeds lies below 0 for every objective: holds; for some: holds "
    "in part. Where there are two numbers of steps, the longer counts: it was added for the objectives that gained "
    "little or nothing in the first, and only for those.",
    not_tried="A learning rate chosen for each objective; speech, for which see *images*.",
    runs=runs,
    section=section,
)
