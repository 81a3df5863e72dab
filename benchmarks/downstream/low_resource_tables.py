"""The tables of `low_resource`, with the published scores that stand beside its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ARMS = ("unguided", "guided")
# Entity F1 of MasakhaNER 2.0's public predictions on these test files, means of five runs (Adelani et al. 2022).
PUBLISHED = {
    "swahili": {"XLM-R base": 92.2, "AfroXLMR base": 92.3},
    "hausa": {"XLM-R base": 83.8, "AfroXLMR base": 86.6},
    "yoruba": {"XLM-R base": 85.8, "AfroXLMR base": 88.3},
}
Key = tuple[str, int, str, int]
"""Language, steps, changes of settings and seed of a result."""


def show(path: Path) -> str:
    """The newest results as Markdown: of the longest pre-training in brief, then all of them in full."""
    newest: dict[Key, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        record = json.loads(line)
        changes = ", ".join(record.get("changes", ()))
        newest[record["language"], record["steps"], changes, record["seed"]] = record
    defaults = {key: record for key, record in newest.items() if not key[2]}
    tables = [of(records) for of, records in ((brief, defaults), (full, newest)) if records]
    return "\n\n".join(tables) or "nothing is kept yet"


def brief(newest: Mapping[Key, dict[str, Any]]) -> str:
    """What a person chooses between, for each language; encoders are combined with the model without pre-training."""
    longest = {language: max(steps for of, steps, *_ in newest if of == language) for language, *_ in newest}
    head = (
        "text, seed", "no pre-training", "unguided", "guided", "guided − no pre-training (95 %)",
        "guided − unguided (95 %)", "XLM-R base", "AfroXLMR base",
    )  # fmt: skip
    rows = [
        (
            f"{language.capitalize()}, {seed}",
            _baseline(record),
            *_means(record["combined"]),
            *_gaps(record),
            *_published(language),
        )
        for (language, steps, _, seed), record in sorted(newest.items())
        if steps == longest[language]
    ]
    return markdown(head, rows)


def full(newest: Mapping[Key, dict[str, Any]]) -> str:
    """Every result, with the encoders alone."""
    head = (
        "text", "steps, seed", "loss, unguided", "loss, guided", "fine-tunings",
        "no pre-training", "unguided", "guided", "unguided, both", "guided, both",
        "guided, both − no pre-training (95 %)", "guided, both − unguided, both (95 %)", "XLM-R base", "AfroXLMR base",
    )  # fmt: skip
    rows = [
        (
            language.capitalize() + (f", {changes}" if changes else ""),
            f"{steps:,}, {seed}",
            *(f"{record['final_loss'][arm]:.2f}" if "final_loss" in record else "–" for arm in ARMS),
            str(record["models"][0]["seeds"]),
            _baseline(record),
            *_means(record["models"]),
            *_means(record["combined"]),
            *_gaps(record),
            *_published(language),
        )
        for (language, steps, changes, seed), record in sorted(newest.items())
    ]
    return markdown(head, rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def _baseline(record: dict[str, Any]) -> str:
    return f"{100 * record['baseline']['test'][record['metric']]:.1f}"


def _means(sides: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{100 * side['mean']:.1f}" for side in sides]


def _gaps(record: dict[str, Any]) -> list[str]:
    gaps = record["combined_over_baseline"]["guided"], record["combined_differences"][0]
    return [
        "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * gap[name] for name in ("value", "low", "high"))) for gap in gaps
    ]


def _published(language: str) -> list[str]:
    of_language = PUBLISHED.get(language, {})
    return [f"{of_language[name]:.1f}" if name in of_language else "–" for name in ("XLM-R base", "AfroXLMR base")]
