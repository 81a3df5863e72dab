"""Which guidance helps: weight, schedule, patterns, numbers of heads, layers, loss?"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ..stats import (
    HOLDS,
    IN_PART,
    NOT_HERE,
    Interval,
    differences,
    interval,
    mean_text,
    pairs_of,
    ratios_text,
    table,
)
from ..study import UNGUIDED, Kept, Section, Spec, Study

NO_FIRST = {"heads": "next:1 previous:1"}
ARMS: dict[str, dict[str, Any]] = {
    "default": {},
    "without `first`": NO_FIRST,
    "`next` alone": {"heads": "next:1"},
    "`previous` alone": {"heads": "previous:1"},
    "`first` alone": {"heads": "first:1"},
    "`same` alone": {"heads": "same:1"},
    "`delimiter` alone": {"heads": "delimiter:1"},
    "2 `next`, 2 `previous`": {"heads": "next:2 previous:2"},
    "`next`, `previous`, 2 away on both sides": {"heads": "next:1 previous:1 offset:2:1 offset:-2:1"},
    "layer 0 alone": {"heads": "0: next:1 previous:1 first:1"},
    "layer 1 alone": {"heads": "1: next:1 previous:1 first:1"},
    "weight 0.01": {"weight": 0.01},
    "weight 0.03": {"weight": 0.03},
    "weight 0.3": {"weight": 0.3},
    "weight 1": {"weight": 1.0},
    "constant weight": {"schedule": "constant"},
    "linear from the start": {"schedule": "linear"},
    "until half of the run": {"end": 0.5},
    "`log_mass`": {"loss": "log_mass"},
    "unguided": UNGUIDED,
}
_DIFFERENT_PATTERNS = ("`same` alone", "`first` alone", "`delimiter` alone")


def arm(name: str, seeds: Sequence[int]) -> list[Spec]:
    """The runs of an arm."""
    return [Spec(ARMS[name], seed) for seed in seeds]


def runs(kept: Kept, seeds: Sequence[int]) -> list[Spec]:
    """All arms, seed by seed."""
    return [spec for seed in seeds for name in ARMS for spec in arm(name, [seed])]


def section(kept: Kept) -> Section:
    """A row for each arm."""
    rows = [["guidance", "loss", "minus unguided (95 %)", "minus default (95 %)", "steps ratio of each seed"]]
    against = {name: arm(name, kept.seeds) for name in ("unguided", "default")}
    gains = {}
    for name in ARMS:
        specs = arm(name, kept.seeds)
        records = kept.of(specs)
        if not records:
            continue
        gaps = {}
        for other, others in against.items():
            values = differences(pairs_of(kept, specs, others))
            gaps[other] = interval(values).text() if values and other != name else "–"
        pairs = pairs_of(kept, specs, against["unguided"])
        if name != "unguided":
            gains[name] = fmean(differences(pairs) or [0.0])
        ratios = ratios_text(pairs) if name != "unguided" else "–"
        rows.append([name, mean_text(records), gaps["unguided"], gaps["default"], ratios])
    tried = {name: gain for name, gain in gains.items() if name not in ("default", *_DIFFERENT_PATTERNS)}
    enough = [name for name, gain in tried.items() if gain <= gains.get("default", 0.0) / 2 < 0]
    verdict = HOLDS if tried and len(enough) == len(tried) else IN_PART if len(enough) > len(tried) / 2 else NOT_HERE
    missed = ", ".join(name for name in tried if name not in enough) or "none"
    because = f"{len(enough)} of {len(tried)} variants gain at least half as much as the default; not so: {missed}."
    return Section(verdict, because, [table(*rows)])


def others(setting: str, kept: Kept) -> dict[str, Interval]:
    """The arms with another value of a setting, and their difference from the default arm."""
    found = {}
    for name in (name for name, settings in ARMS.items() if setting in settings and name != "unguided"):
        if values := differences(pairs_of(kept, arm(name, kept.seeds), arm("default", kept.seeds))):
            found[name] = interval(values)
    return found


STUDY = Study(
    name="which-guidance",
    claim="Simple patterns suffice, and the gain does not hinge on how guidance is set up.",
    method="The default guidance with one thing changed at a time. `same`, `first` and `delimiter` alone show whether "
    "any pull on attention would do, so they do not count in the verdict.",
    rule="Every variant gains at least half as much as the default on average: holds; more than half of the variants "
    "do: holds in part.",
    not_tried="Combinations of changes; `normalization` elementwise; more layers and heads than 2 x 4.",
    runs=runs,
    section=section,
)
