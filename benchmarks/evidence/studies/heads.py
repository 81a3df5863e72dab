"""How many heads follow simple patterns at the end, with and without guidance?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..stats import HOLDS, IN_PART, NOT_HERE, mean_text, percent, table
from ..study import Kept, Record, Section, Spec, Study
from .why import traced

THRESHOLD = 0.5
_ARMS = ("unguided", "unguided, four times the steps", "guided")


def runs(kept: Kept, seeds: Sequence[int]) -> list[Spec]:
    """The runs of `why` whose heads are measured."""
    of_seeds = [spec for seed in seeds for name in ("unguided", "guided") for spec in traced(name, [seed])]
    return of_seeds + traced("unguided, four times the steps", seeds[:1])


def shares(record: Record) -> dict[str, float]:
    """The share of heads that follow each pattern at the end; `any` for all together."""
    watched = record["watched"]
    mass_NG = np.array(watched["snapshots"][-1]["mass"]).reshape(-1, len(watched["patterns"]))
    mass_NG[:, np.array(watched["uniform"]) >= THRESHOLD] = 0.0
    best_N, follows_N = mass_NG.argmax(1), mass_NG.max(1) >= THRESHOLD
    found = {name: float((follows_N & (best_N == n)).mean()) for n, name in enumerate(watched["patterns"])}
    return found | {"any": float(follows_N.mean())}


def section(kept: Kept) -> Section:
    """A row for each arm."""
    rows, any_of = [], {}
    for name in _ARMS:
        records = kept.of(traced(name, kept.seeds))
        if records:
            by_record = [shares(record) for record in records]
            means = {pattern: float(np.mean([found[pattern] for found in by_record])) for pattern in by_record[0]}
            any_of[name] = means["any"]
            head = ["run", "loss", "runs", *(f"`{pattern}`" if pattern != "any" else pattern for pattern in means)]
            rows.append([name, mean_text(records), len(records), *map(percent, means.values())])
    name = next((name for name in reversed(_ARMS[:2]) if name in any_of), "unguided")
    unguided = any_of.get(name, 0.0)
    verdict = HOLDS if unguided >= 0.5 else IN_PART if unguided > 0 else NOT_HERE
    because = f"{percent(unguided)} of the heads follow a simple pattern ({name})." if name in any_of else ""
    return Section(verdict, because, [table(head, *rows)])


STUDY = Study(
    name="heads",
    claim="Most heads of models trained without guidance follow simple patterns in the end.",
    method=f"The census of `analysis.take_census` at the end of the runs of *why*: the share of heads with at least "
    f"{percent(THRESHOLD)} of their attention on a pattern's targets. (The paper measured RoBERTa-base, 12 layers of "
    "12 heads; [looking](looking.md#what-was-measured) has trained encoders of others.)",
    rule="At least half of the heads of the longest unguided runs do: holds; some do: holds in part.",
    not_tried="Longer training and larger models, in which patterns have time to form.",
    runs=runs,
    section=section,
    run_seconds=16.0,
)
