"""What was asked of guidance before it was measured, and what the studies saw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

from .stats import Interval, differences, interval, off_plateau, pairs_of, percent, ratios_text, steps_ratio
from .studies import confirmation, convergence, hyperparameters, objectives
from .study import SEEDS, Kept, Record, Spec

MET, MISSED, NOT_MEASURED = "met", "**missed**", "not measured yet"
#: At most this share of the unguided steps, in every seed.
RATIOS = {"mlm": 0.33, "whole-word": 0.33, "mlm+nsp": 0.33, "span": 0.6, "rtd": 0.6, "mlm+sop": 0.6}
SHARE, TIMES = 0.9, 2
# Those whose losses measure the same.
_ANY_KIND = tuple(name for name in convergence.ARCHITECTURES if name != "electra")

Row = list[str]


def rows(kept: Kept) -> list[Row]:
    """A row for everything that was asked."""
    found = [["asked", "seen", "study", "met or missed"]]
    for of in (_ratios, _modernbert, _four_times, _plateau, _worst, _any_kind):
        found += of(kept)
    return found


def _row(asked: str, study: str, seen: str | None, met: bool) -> Row:
    verdict = NOT_MEASURED if seen is None else MET if met else MISSED
    return [asked, seen or "–", f"[{study}](#{study})", verdict]


def _ratios(kept: Kept) -> Iterator[Row]:
    for objective, goal in RATIOS.items():
        yield _ratio(kept, f"`{objective}`", goal, objectives.guided(objective, SEEDS), "objectives")
    for objective, steps in objectives.LONGER.items():
        runs = objectives.guided(objective, SEEDS, steps)
        yield _ratio(kept, f"`{objective}`, {steps} steps", RATIOS[objective], runs, "objectives")
    yield _ratio(
        kept, "`mlm`, preset `mini`", RATIOS["mlm"], confirmation.arm("guided", confirmation.SEEDS), "confirmation"
    )


def _ratio(kept: Kept, runs: str, goal: float, arms: Sequence[Spec], study: str) -> Row:
    pairs = pairs_of(kept, arms, [spec.unguided for spec in arms])
    met = all(ratio is not None and ratio <= goal for ratio in map(steps_ratio, pairs))
    seen = ratios_text(pairs) if len(pairs) == len(arms) else None
    return _row(f"{runs}: a steps ratio of at most {goal}, in each seed", study, seen, met)


def _tuned_pairs(kept: Kept, case: convergence.Case) -> list[tuple[Record, Record]]:
    """Guided runs of a case with the tuned unguided runs; empty unless all are kept."""
    tuned = [convergence.tuned(case, seed, kept) for seed in SEEDS]
    if None in tuned:
        return []
    pairs = pairs_of(kept, [convergence.guided(case, seed) for seed in SEEDS], [spec for spec in tuned if spec])
    return pairs if len(pairs) == len(SEEDS) else []


def _modernbert(kept: Kept) -> Iterator[Row]:
    for budget, goal, words in ("short", 0.4, "of at most 0.4"), ("four times", 1.0, "below 1"):
        pairs = _tuned_pairs(kept, ("bible", "modernbert", budget))
        ratios = [steps_ratio(pair) for pair in pairs]
        met = all(ratio is not None and (ratio <= goal if goal < 1 else ratio < 1) for ratio in ratios)
        asked = f"ModernBERT, {convergence.STEPS[budget]:,} steps, unguided tuned: a steps ratio {words}, in each seed"
        yield _row(asked, "convergence", ratios_text(pairs) if pairs else None, met)


def _four_times(kept: Kept) -> Iterator[Row]:
    for name in convergence.ARCHITECTURES:
        values = differences(_tuned_pairs(kept, ("bible", name, "four times")))
        gap = interval(values) if values else None
        asked = f"`{name}`, {convergence.STEPS['four times']:,} steps: below the tuned unguided model"
        yield _row(asked, "convergence", gap.text() if gap else None, gap is not None and gap.below_zero)


def _grid(kept: Kept) -> dict[int, list[dict[str, Record]]]:
    """Both arms at every setting, by batch size; empty unless all are kept."""
    grid = hyperparameters.grid(SEEDS[0])
    if not all(spec in kept for _, arms in grid for spec in arms.values()):
        return {}
    return {
        batch: [{arm: kept[spec] for arm, spec in arms.items()} for key, arms in grid if key[2] == batch]
        for batch in hyperparameters.BATCHES
    }


def _plateau(kept: Kept) -> Iterator[Row]:
    cells = [cell for of_batch in _grid(kept).values() for cell in of_batch]
    asked = f"guided off the plateau at {percent(SHARE)} of the settings, and at {TIMES} times as many as unguided"
    if not cells:
        yield _row(asked, "hyperparameters", None, False)
        return
    guided, unguided = (sum(off_plateau(cell[arm]) for cell in cells) for arm in ("guided", "unguided"))
    met = guided >= SHARE * len(cells) and guided >= TIMES * unguided
    seen = f"guided at {guided} of {len(cells)}, unguided at {unguided}"
    yield _row(asked, "hyperparameters", seen, met)


def _worst(kept: Kept) -> Iterator[Row]:
    grid = _grid(kept)
    for batch in hyperparameters.BATCHES:
        flags = hyperparameters.grid(SEEDS[0])[0][1]["guided"].but(batch_size=batch).flags
        tokens = flags["max_steps"] * batch * flags["block_size"]
        asked = f"trained on {tokens:,} tokens: the worst guided setting ends no higher than the best unguided one"
        seen, met = None, False
        if grid:
            losses = {arm: [cell[arm]["loss"] for cell in grid[batch]] for arm in ("guided", "unguided")}
            best = min((loss for loss in losses["unguided"] if loss is not None), default=math.inf)
            worst = None if None in losses["guided"] else max(losses["guided"])
            met = worst is not None and worst <= best
            seen = f"{'diverged' if worst is None else f'{worst:.3f}'} against {best:.3f}"
        yield _row(asked, "hyperparameters", seen, met)


def _any_kind(kept: Kept) -> Iterator[Row]:
    for budget, steps in convergence.STEPS.items():
        gap = at_equal_time(kept, budget)
        asked = f"ModernBERT, guided, up to {steps:,} steps: below the best unguided model of any kind at equal time"
        yield _row(asked, "convergence", gap.text() if gap else None, gap is not None and gap.below_zero)


def at_equal_time(kept: Kept, budget: str) -> Interval | None:
    """Guided ModernBERT minus the best tuned unguided model, once each has trained as long as the fastest of them.

    Their curves are cut there, so that all but the fastest are cut before their learning rate has fallen to 0.

    Args:
        kept: Results.
        budget: One of `convergence.STEPS`.

    Returns:
        The difference over seeds; None if runs are missing or have diverged.
    """
    arms = {name: [convergence.tuned(("bible", name, budget), seed, kept) for seed in SEEDS] for name in _ANY_KIND}
    arms["guided"] = [convergence.guided(("bible", "modernbert", budget), seed) for seed in SEEDS]
    records = {name: kept.of(spec for spec in specs if spec is not None) for name, specs in arms.items()}
    if any(len(of) < len(SEEDS) or any(record["loss"] is None for record in of) for of in records.values()):
        return None
    seconds = {name: median(record["cpu_seconds"] for record in of) for name, of in records.items()}
    shares = {name: min(seconds.values()) / seconds[name] for name in seconds}
    losses = {name: [_loss_after(record, shares[name]) for record in of] for name, of in records.items()}
    return interval([losses["guided"][n] - min(losses[name][n] for name in _ANY_KIND) for n in range(len(SEEDS))])


def _loss_after(record: Record, share: float) -> float:
    """The last validation loss within a share of the steps."""
    curve: Sequence[Sequence[float]] = record["curve"]
    return [loss for step, loss in curve if step <= share * record["settings"]["max_steps"]][-1]
