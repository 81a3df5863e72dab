"""Why does guidance help: do heads that find their neighbours end the plateau?"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from ..figures import curves
from ..stats import MARGIN, differences, interval, leaves_plateau, mean_text, pairs_of, percent, table, verdict_of
from ..study import UNGUIDED, Kept, Record, Section, Spec, Study

ENDS = (0.05, 0.1, 0.2, 0.5)
# The mass at which a head counts as in place, as in the census.
IN_PLACE = 0.5
_TRACED: dict[str, dict[str, Any]] = {
    "guided": {},
    "unguided": UNGUIDED,
    "unguided, four times the steps": UNGUIDED | {"max_steps": 1200},
}


def traced(name: str, seeds: Sequence[int]) -> list[Spec]:
    """Runs whose heads are measured during training."""
    return [Spec(_TRACED[name], seed, watch="census") for seed in seeds]


def ended(end: float, seeds: Sequence[int]) -> list[Spec]:
    """Runs whose guidance keeps its weight until a share of the run, and is then off."""
    return [Spec({"hold": end, "end": end}, seed) for seed in seeds]


def runs(kept: Kept, seeds: Sequence[int]) -> list[Spec]:
    """All arms, seed by seed; the long one last."""
    first = [
        spec
        for seed in seeds
        for arm in (traced("guided", [seed]), traced("unguided", [seed]), *(ended(end, [seed]) for end in ENDS))
        for spec in arm
    ]
    return first + traced("unguided, four times the steps", seeds[:1])


def neighbour_mass(record: Record) -> list[tuple[int, float]]:
    """By step, the mean over `next` and `previous` of the mass of the head that has most of it."""
    watched = record["watched"]
    places = [watched["patterns"].index(name) for name in ("next", "previous")]
    masses = [(shot["step"], np.array(shot["mass"])[..., places]) for shot in watched["snapshots"]]
    return [(step, float(mass.max((0, 1)).mean())) for step, mass in masses]


def in_place(record: Record) -> float | None:
    """The first measured step at which heads are on both neighbours, as a share of the run; None if never."""
    step = next((step for step, mass in neighbour_mass(record) if mass >= IN_PLACE), None)
    return None if step is None else step / record["settings"]["max_steps"]


def _share(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f}"


def _traces(kept: Kept) -> tuple[list[list[str]], list[bool | None], dict[str, Any]]:
    """The table of moments, whether heads come before the loss in each run (None: neither), and the figure's lines."""
    rows = [["run", "seed", "heads in place at", "loss off the plateau at", "final loss"]]
    orders, lines = [], {}
    for name in _TRACED:
        for record in kept.of(traced(name, kept.seeds)):
            heads, loss = in_place(record), leaves_plateau(record)
            rows.append([name, str(record["seed"]), _share(heads), _share(loss), mean_text([record])])
            orders.append(
                None if heads is None and loss is None else heads is not None and loss is not None and heads <= loss
            )
            if name not in lines:
                lines[name] = neighbour_mass(record)
    return rows, orders, lines


def section(kept: Kept) -> Section:
    """The moments, and what is left of the gain when guidance ends early."""
    rows, orders, lines = _traces(kept)
    unguided = [spec.unguided for spec in traced("guided", kept.seeds)]
    whole = differences(pairs_of(kept, traced("guided", kept.seeds), unguided))
    ends = [["guidance ends at", "loss", "minus unguided (95 %)", "share of the gain kept"]]
    keeps = []
    for end in ENDS:
        specs = ended(end, kept.seeds)
        values = differences(pairs_of(kept, specs, unguided))
        if values and whole:
            share = fmean(values) / fmean(whole)
            keeps.append(share >= 0.5)
            ends.append(
                [f"{percent(end)} of the run", mean_text(kept.of(specs)), interval(values).text(), percent(share)]
            )
    because = (
        f"In {orders.count(True)} of {len(orders)} runs heads are on both neighbours before the loss leaves its "
        f"plateau; in {orders.count(None)} neither happens. At least half of the gain is kept for {sum(keeps)} of "
        f"{len(keeps)} early ends."
    )
    figure = curves(lines, "step", "attention on the neighbours, of the head with most (seed 1)", "neighbours by step")
    return Section(
        verdict_of([*(order is not False for order in orders), *keeps]),
        because,
        [table(*rows), table(*ends)],
        {"heads": figure},
    )


STUDY = Study(
    name="why",
    claim="Models stay on their plateau until heads attend to neighbouring tokens; guidance brings this moment "
    "forward, and need not last.",
    method="A census of the heads every 5 steps early in training. Heads are in place once the mean, over `next` and "
    f"`previous`, of the mass of the head that has most is {IN_PLACE}; the loss is off the plateau once it is {MARGIN} "
    "nats below the entropy of the validation tokens. Both are shares of the run. Then guidance keeps its full weight "
    "until some share of the run, and is off for the rest.",
    rule="Heads are in place before the loss leaves the plateau (or neither happens) in every run, and each early end "
    "keeps at least half of the gain: holds; some of this: holds in part.",
    not_tried="Heads that are on both neighbours at once; the order of heads across layers.",
    runs=runs,
    section=section,
    run_seconds=16.0,
)
