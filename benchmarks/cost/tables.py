"""The tables of `step.py`: what it found, beside the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# The most that guidance may cost, over unguided: step time by length, memory, growth of memory.
TARGETS: Mapping[str, Mapping[str | int, float]] = {
    "cpu": {128: 1.02, 512: 1.03, "memory": 1.03, "growth": 1.1},
    "cuda": {128: 1.08, 512: 1.02, "memory": 1.01, "growth": 1.1},
}
_STEPS = ("arm", "p20 ms", "p50 ms", "p80 ms", "step time", "95 %", "peak MiB", "memory", "targets")
_GROWTH = ("arm", "peak MiB, shorter", "peak MiB, longer", "growth", "over unguided", "targets")
_WHERE = ("device", "model", "tokens a step", "dtype", "T")


def report(kept: Mapping[str, Any]) -> str:
    """One result as plain text."""
    head, rows = _table(kept)
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = [", ".join(f"{name} {value}" for name, value in zip(_WHERE, _where(kept), strict=True))]
    for row in table:
        first, *middle, last = (
            cell.ljust(width) if column in (0, len(head) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((first, *middle, last)).rstrip())
    return "\n".join(lines)


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """All results as Markdown: a table of steps, a table of growth, a row an arm."""
    tables = []
    for kind, head in (("cost", _STEPS), ("cost growth", _GROWTH)):
        rows = [(*_where(kept), *row) for kept in results if kept["kind"] == kind for row in _table(kept)[1]]
        if rows:
            table = [(*_WHERE, *head), ("---",) * (len(_WHERE) + len(head)), *rows]
            tables.append("\n".join(f"| {' | '.join(row)} |" for row in table))
    return "\n\n".join(tables)


def _where(kept: Mapping[str, Any]) -> tuple[str, ...]:
    size = kept["settings"]
    model = f"{size['layers']} x {size['hidden']}{', masked head' if size['masked_head'] else ''}"
    lengths = kept.get("lengths") or [kept["length"]]
    dtype = f"{kept['dtype']}{' (emulated)' if kept['bf16_emulated'] else ''}"
    return kept["device"], model, f"{size['tokens']:,}", dtype, " to ".join(f"{length:,}" for length in lengths)


def _table(kept: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows, the targets held against the backend that `auto` takes."""
    is_growth = kept["kind"] == "cost growth"
    rows = []
    for name, arm in kept["arms"].items():
        verdicts = _verdicts(kept, arm) if name == kept["auto"] else ""
        rows.append((name, *(_growth_cells(arm) if is_growth else _step_cells(arm)), verdicts))
    return (_GROWTH if is_growth else _STEPS), rows


def _step_cells(arm: Mapping[str, Any]) -> tuple[str, ...]:
    times = (f"{arm[key]:,.1f}" for key in ("p20_ms", "p50_ms", "p80_ms"))
    interval = f"{arm['ratio_low']:.3f} to {arm['ratio_high']:.3f}"
    peak, memory = arm.get("peak_mib"), arm.get("memory_ratio")
    return (
        *times,
        f"{arm['ratio']:.3f}",
        interval,
        f"{peak:,.0f}" if peak else "",
        f"{memory:.3f}" if memory else "",
    )


def _growth_cells(arm: Mapping[str, Any]) -> tuple[str, ...]:
    short, long = arm["peak_mib"]
    return f"{short:,.0f}", f"{long:,.0f}", f"{arm['growth']:.3f}", f"{arm['growth_ratio']:.3f}"


def _verdicts(kept: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    """Every target that there is for a result, held or missed and by how much."""
    targets = TARGETS[kept["settings"]["device"]]
    asked = {
        "time": (arm.get("ratio"), targets.get(kept.get("length", 0))),
        "memory": (arm.get("memory_ratio"), targets["memory"]),
        "growth": (arm.get("growth_ratio"), targets["growth"]),
    }
    return "; ".join(
        f"{what} <= {target:.2f} {'held' if value <= target else 'missed'} by {abs(value - target):.3f}"
        for what, (value, target) in asked.items()
        if value is not None and target is not None
    )
