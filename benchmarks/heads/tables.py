"""What looking.py has kept, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def show(path: Path) -> None:
    """Print the newest result of each kind."""
    newest: dict[tuple[str, ...], Record] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        record = json.loads(line)
        place = f"{record.get('layer')}.{record.get('head')}" if record["part"] == "known head" else ""
        newest[record["part"], str(record.get("model")), str(record.get("probe")), place] = record
    if not newest:
        print("nothing is kept yet")
        return
    for record in newest.values():
        if record["part"] in _SAID:
            print(_SAID[record["part"]](record))
    asked = [record for record in newest.values() if record["part"] == "probe"]
    if asked:
        print("\n| probe | model | n | max | mean | chance | best head, held out | best rule, held out | apart |")
        print("|---|---|---|---|---|---|---|---|---|")
    for record in asked:
        print(_probe_row(record))
    rows = [row for record in newest.values() if record["part"] == "skill" for row in _skill_rows(record)]
    if rows:
        print("\n| probe | checkpoints of | n | rank correlation with the loss, best head | mean head |")
        print("|---|---|---|---|---|")
    for row in rows:
        print(row)


def _time(record: Record) -> str:
    return (
        f"census, {record['heads']} heads, T = {record['tokens']}: {record['ratio']:.2f} times the forward passes "
        f"alone ({record['ratio_low']:.2f} to {record['ratio_high']:.2f}, {record['rounds']} rounds)"
    )


def _memory(record: Record) -> str:
    peaks = ", ".join(f"{mib:,} MiB with {n} sequences" for n, mib in record["peak_mib"].items())
    return f"census, peak memory of the process: {peaks} ({record['ratio']:.3f})"


def _head(record: Record) -> str:
    return (
        f"{record['model']}, layer {record['layer']} head {record['head']}: {record['follows']}, mass "
        f"{record['value']:.3f} ({record['low']:.3f} to {record['high']:.3f})"
    )


def _maps(record: Record) -> str:
    return f"largest difference to eager maps, all figures: {record['largest_difference']:.1e}"


def _page(record: Record) -> str:
    return (
        f"page of {record['heads']} heads, {record['checkpoints']} checkpoints: opens in "
        f"{record['open_seconds']:.2f} s (worst of five {record['open_seconds_worst']:.2f}), a step of the slider "
        f"{record['slider_milliseconds']:.1f} ms (worst {record['slider_milliseconds_worst']:.1f}), "
        f"{record['bytes'] / 1e6:.2f} MB"
    )


_SAID: dict[str, Callable[[Record], str]] = {
    "census time": _time, "census memory": _memory, "known head": _head, "eager maps": _maps, "page": _page,
}  # fmt: skip


def _skill_rows(record: Record) -> Iterator[str]:
    for run in [None, *record["runs"]]:
        best, mean = (
            next(c for c in record["correlations"] if (c["run"], c["measure"]) == (run, measure))
            for measure in ("max", "mean")
        )
        told = (f"{c['spearman']:+.2f} ({c['low']:+.2f} to {c['high']:+.2f})" for c in (best, mean))
        yield f"| {record['probe']} | {run or 'all'} | {best['n']} | {' | '.join(told)} |"


def _probe_row(record: Record) -> str:
    best, rule = (
        f"{value:.2f} ({low:.2f} to {high:.2f})"
        for value, low, high in (record["best_accuracy"], record["baseline_accuracy"])
    )
    apart, n_apart = "yes" if record["apart"] else "no", len(record["labels_apart"])
    if n_labels := n_apart + len(record["labels_not_apart"]):
        apart += f"; {n_apart} of {n_labels} labels"
    layer, head, direction = record["best"]
    cells = (
        record["probe"], record["model"], f"{record['questions']:,}", f"{record['max']:.3f}", f"{record['mean']:.3f}",
        f"{record['chance']:.3f}", f"{layer}.{head} {direction}: {best}", f"{record['baseline']}: {rule}", apart,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"
