"""The tables of run_mlm.py, from what is kept."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

_ARMS = {"run_mlm": "run_mlm", "unguided": "`pretrain`, unguided", "guided": "`pretrain`, guided"}
_FIGURES = {
    "whole job": ("whole_seconds", "{:,.0f} s"),
    "first step done after": ("first_step_seconds", "{:,.1f} s"),
    "tokens/s in training": ("tokens_per_second", "{:,.0f}"),
    "peak memory": ("peak_mib", "{:,.0f} MiB"),
    "validation loss": ("final_loss", "{:.3f}"),
}
_RATIOS = {
    "time to unguided's final loss": "to_unguided_loss",
    "time to run_mlm's final loss": "to_run_mlm_loss",
    "whole job": "whole_seconds",
    "tokens/s": "tokens_per_second",
    "peak memory": "peak_mib",
}
_SETTING = ("text", "preset", "steps", "tokens_per_step", "threads", "precision", "device")


def show(path: Path) -> str:
    """The newest rounds of each setting as Markdown: the figures of the arms, and their ratios."""
    groups = newest_rounds(path)
    if not groups:
        return "nothing is kept yet"
    return "\n".join([*_table(_arms(groups)), "", *_table(_ratios(groups))])


def newest_rounds(path: Path) -> list[list[dict[str, Any]]]:
    """For each setting, the rounds of the run of this benchmark that began last."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in map(json.loads, lines):
        group = groups.setdefault(tuple(record[name] for name in _SETTING), [])
        if group and group[0]["begun"] != record["begun"]:
            group.clear()
        group.append(record)
    return list(groups.values())


def _arms(groups: list[list[dict[str, Any]]]) -> Iterator[tuple[str, ...]]:
    """Figures of each arm; `pretrain` would take longer by the last if it trained the same tokenizer itself."""
    yield "job", "arm", *_FIGURES, "its own tokenizer adds"
    for rounds in groups:
        for arm, name in _ARMS.items():
            figures = [_spread([each["arms"][arm][f] for each in rounds], form) for f, form in _FIGURES.values()]
            tokenizer = "–" if arm == "run_mlm" else f"{rounds[0]['tokenizer_seconds']:,.0f} s"
            yield _job(rounds[0]), name, *figures, tokenizer


def _ratios(groups: list[list[dict[str, Any]]]) -> Iterator[tuple[str, ...]]:
    """Each figure over that of run_mlm in the same round; times to a loss are over its whole job."""
    yield "job", "over run_mlm", *_RATIOS, "rounds", "device"
    for rounds in groups:
        device = f"{rounds[0]['device']}, {rounds[0]['precision']}"
        for arm in rounds[0]["ratios"]:
            figures = [_spread([each["ratios"][arm][name] for each in rounds], "{:.2f}") for name in _RATIOS.values()]
            yield _job(rounds[0]), _ARMS[arm], *figures, str(len(rounds)), device


def _job(record: dict[str, Any]) -> str:
    return f"{record['text']}, {record['preset']}, {record['steps']:,} x {record['tokens_per_step']:,}"


def _spread(values: Sequence[float | None], form: str) -> str:
    """The median, and the range if there are several values."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return f"not reached in {len(values) - len(known)} of {len(values)}"
    median = form.format(statistics.median(known))
    return median if len(known) == 1 else f"{median} ({form.format(min(known))} to {form.format(max(known))})"


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    head, *others = rows
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *others)]
