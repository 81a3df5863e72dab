"""The tables of `speed.py`: what it found, beside the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .arms import BASELINE, GUIDED, PASSES

# The most that forward and backward of a guided layer may take: over SDPA's flash kernel, over our own unguided.
OVER_FLASH, OVER_UNGUIDED = 1.10, 1.03
_WHERE = ("device", "dtype", "heads", "channels", "T")
_ARM = (
    "arm", "pass", "p20 ms", "p50 ms", "p80 ms", "over SDPA flash", "95 %", "launch ms", "host-bound",
    "TFLOP/s", "of ceiling", "memory",
)  # fmt: skip
_TARGET = ("guided, forward and backward", "ratio", "95 %", "target")


def report(record: Mapping[str, Any]) -> str:
    """One result as plain text."""
    rows = [_ARM, *_rows(record)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_ARM))]
    lines = [", ".join(f"{name} {value}" for name, value in zip(_WHERE, _where(record), strict=True))]
    for row in rows:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.append(f"ceiling: {_ceiling(record)}")
    return "\n".join(
        [*lines, *(f"{what}: {ratio} ({low_high}) {held}" for what, ratio, low_high, held in _held(record))]
    )


def markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """All results as Markdown: a row an arm and pass, the targets, and which arms were not timed."""
    tables = [
        _table((*_WHERE, *_ARM), [(*_where(record), *row) for record in records for row in _rows(record)]),
        _table((*_WHERE, *_TARGET), [(*_where(record), *row) for record in records for row in _held(record)]),
    ]
    lines = [f"- {', '.join(_where(record))}: ceiling {_ceiling(record)}" for record in records]
    lines += [
        f"- {', '.join(_where(record))}: skipped {name}: {reason}"
        for record in records
        for name, reason in record["skipped"].items()
    ]
    return "\n\n".join([*filter(None, tables), "\n".join(lines)])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)) if rows else ""


def _where(record: Mapping[str, Any]) -> tuple[str, ...]:
    device = f"dry run, interpreted on {record['device']}" if record["dry_run"] else record["device"]
    settings = record["settings"]
    heads = f"{settings['batch']} x {settings['heads']}"
    return device, record["dtype"], heads, str(record["channels"]), f"{record['length']:,}"


def _rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for name, arm in record["arms"].items():
        for part in PASSES:
            of_part = arm[part]
            times = (f"{of_part[key]:,.3f}" for key in ("p20_ms", "p50_ms", "p80_ms"))
            speed = f"{of_part['tflops']:,.3g}", f"{of_part['of_ceiling']:.1%}"
            memory = f"{arm['memory_ratio']:.3f}" if arm["memory_ratio"] and part == "both" else ""
            host = f"{of_part['launch_ms']:,.3f}", f"{of_part['host_bound']:.0%}"
            rows.append((name, part, *times, *_ratio(of_part), *host, *speed, memory))
    return rows


def _held(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Every target that there is for a result, held or missed and by how much."""
    of_flash = record["arms"].get(GUIDED, {}).get("both", {}) if BASELINE in record["arms"] else {}
    asked = {
        "over SDPA flash": (of_flash, OVER_FLASH),
        "over unguided, same kernel": (record["guided_over_unguided"].get("both", {}), OVER_UNGUIDED),
    }
    rows: list[tuple[str, ...]] = []
    for what, (found, most) in asked.items():
        if found:
            off = found["ratio"] - most
            # What the interpreter takes tells nothing of a GPU.
            verdict = "not judged" if record["dry_run"] else f"{'held' if off <= 0 else 'missed'} by {abs(off):.3f}"
            rows.append((what, *_ratio(found), f"<= {most:.2f} {verdict}"))
    return rows


def _ratio(found: Mapping[str, float]) -> tuple[str, str]:
    if "ratio" not in found:
        return "", ""
    return f"{found['ratio']:.3f}", f"{found['ratio_low']:.3f} to {found['ratio_high']:.3f}"


def _ceiling(record: Mapping[str, Any]) -> str:
    ceiling = record["ceiling"]
    return f"{ceiling['tflops']:,.3g} TFLOP/s in a product of {ceiling['size']:,} x {ceiling['size']:,}"
