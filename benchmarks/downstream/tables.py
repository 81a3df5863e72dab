"""What tasks.py has kept, as Markdown."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

Record = dict[str, Any]
_STUDIES = {
    "short": "{steps:,} steps, the same learning rate",
    "long": "{steps:,} steps, the unguided model's learning rate chosen first",
}
_METRICS = {"f1": "entity F1", "matthews": "Matthews", "accuracy": "accuracy"}


def show(path: Path) -> str:
    """The newest result of each task, a table a study."""
    newest: dict[tuple[str, str, str], Record] = {}
    overlaps: dict[str, Record] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        record = json.loads(line)
        if record["kind"] == "overlap":
            overlaps[record["text"]] = record
        else:
            newest[record["study"], record["text"], record["task"]] = record
    if not newest and not overlaps:
        return "nothing is kept yet"
    parts = []
    for study, title in _STUDIES.items():
        records = [record for key, record in newest.items() if key[0] == study]
        if records:
            steps = records[0]["pretraining"]["guided"]["max_steps"]
            parts.append("\n".join([f"**{title.format(steps=steps)}**", "", *_table(records), *_averages(records)]))
    if overlaps:
        counts = (f"{text.capitalize()} {found['found']:,} of {found['of']:,}" for text, found in overlaps.items())
        parts.append(f"Test sentences that occur in the text, without labels: {', '.join(counts)}.")
    for (study, text, _), record in newest.items():
        if "unseen" in record:
            unseen = record["unseen"]
            parts.append(
                f"{text.capitalize()} entities ({study}), guided − unguided on the {unseen['sentences']:,} test "
                f"sentences that do not: {gap(unseen['differences']['guided'])}."
            )
    return "\n\n".join(parts)


def _table(records: list[Record]) -> list[str]:
    head = (
        "task", "metric", "no pre-training", "unguided", "guided", "guided − unguided (95 %)",
        "guided when it overtakes − unguided (95 %)", "at step",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [head, ("---",) * len(head)]
    for record in records:
        models, baseline = record["models"], record["baseline"]
        task = f"{record['text'].capitalize()} entities" if record["task"] == "ner" else record["task"]
        rows.append(
            (
                task,
                _METRICS[record["metric"]],
                "" if baseline is None else f"{100 * baseline[record['split']][record['metric']]:.1f}",
                score(models["unguided"]),
                score(models["guided"]),
                gap(record["differences"].get("guided")),
                gap(record["differences"].get("overtaking")),
                f"{record['overtaking_step']:,}",
            )
        )
    return [f"| {' | '.join(row)} |" for row in rows]


def _averages(records: list[Record]) -> list[str]:
    """Mean differences over the entity tasks and over the others."""
    said = []
    for name, chosen in (
        ("languages' entities", [record for record in records if record["task"] == "ner"]),
        ("GLUE tasks", [record for record in records if record["task"] != "ner"]),
    ):
        if len(chosen) > 1:
            gaps = [100 * record["differences"]["guided"]["value"] for record in chosen]
            said.append(f"Mean over {len(chosen)} {name}, guided − unguided: {statistics.fmean(gaps):+.1f} points.")
    return ["", *said] if said else []


def score(model: Record) -> str:
    """A model's mean and deviation over seeds, in points."""
    deviation = "" if model["std"] is None else f" ± {100 * model['std']:.1f}"
    return f"{100 * model['mean']:.1f}{deviation}"


def gap(difference: Record | None) -> str:
    """A difference and its interval, in points."""
    if difference is None:
        return "–"
    value, low, high = (100 * difference[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
