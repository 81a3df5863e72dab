"""The tables of `kernel.py`: what it found, beside the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kernel_arms import BASELINE, GUIDED, PASSES

# The most that forward and backward of a guided layer may take: over SDPA's flash kernel, over our own unguided.
OVER_FLASH, OVER_UNGUIDED = 1.10, 1.03
_ARM = ("way", "pass", "p20 ms", "p50 ms", "p80 ms", "over SDPA flash", "95 %", "TFLOP/s", "of the ceiling", "memory")
_WHERE = ("device", "dtype", "channels", "T")


def report(record: Mapping[str, Any]) -> str:
    """One result as plain text."""
    rows = [_ARM, *_rows(record)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_ARM))]
    lines = [", ".join(f"{name} {value}" for name, value in zip(_WHERE, _where(record), strict=True))]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*lines, *_verdicts(record)])


def markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """All results as Markdown: a row a way and pass, then what was asked and what was found."""
    rows = [(*_where(record), *row) for record in records for row in _rows(record)]
    table = [(*_WHERE, *_ARM), ("---",) * (len(_WHERE) + len(_ARM)), *rows]
    lines = [f"| {' | '.join(row)} |" for row in table]
    verdicts = [f"- {', '.join(_where(record))}: {line}" for record in records for line in _verdicts(record)]
    return "\n".join([*lines, "", *verdicts])


def _where(record: Mapping[str, Any]) -> tuple[str, ...]:
    device = f"{record['device']}{' (dry run, in the interpreter)' if record['dry_run'] else ''}"
    return device, record["dtype"], str(record["channels"]), f"{record['length']:,}"


def _rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for name, arm in record["arms"].items():
        for part in PASSES:
            of_part = arm[part]
            times = (f"{of_part[key]:.3f}" for key in ("p20_ms", "p50_ms", "p80_ms"))
            ratio = f"{of_part['ratio']:.3f}" if "ratio" in of_part else ""
            interval = f"{of_part['ratio_low']:.3f} to {of_part['ratio_high']:.3f}" if ratio else ""
            share = f"{of_part['tflops'] / record['ceiling_tflops']:.2f}"
            memory = f"{arm['memory_ratio']:.3f}" if arm.get("memory_ratio") else ""
            rows.append((name, part, *times, ratio, interval, f"{of_part['tflops']:.1f}", share, memory))
    return rows


def _verdicts(record: Mapping[str, Any]) -> list[str]:
    lines = [f"skipped {name}: {reason}" for name, reason in record["skipped"].items()]
    if BASELINE in record["arms"] and GUIDED in record["arms"]:
        lines.append(_verdict("guided over SDPA's flash kernel", record["arms"][GUIDED]["both"], OVER_FLASH))
    if "both" in record["guided_over_unguided"]:
        lines.append(
            _verdict("guided over unguided, our kernel", record["guided_over_unguided"]["both"], OVER_UNGUIDED)
        )
    return lines


def _verdict(what: str, found: Mapping[str, float], most: float) -> str:
    held = "held" if found["ratio"] <= most else "missed"
    return f"{what}: {found['ratio']:.3f} ({found['ratio_low']:.3f} to {found['ratio_high']:.3f}), asked {most}: {held}"
