"""Minimal pairs, in `probe` and `skill`: does a model prefer the acceptable sentence of a pair?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from attention_guidance.commands import results
from attention_guidance.commands.annotations.minimal_pairs import MinimalPair, read_minimal_pairs
from attention_guidance.commands.memory import names_batch_size
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.printing import Console, Table
from attention_guidance.commands.probes.pseudo_likelihood import check_tokens, n_tokens, pseudo_log_likelihoods
from attention_guidance.commands.report.figures.minimal_pairs import all_figures
from attention_guidance.commands.studies.models import Subject, longest_sequence, subjects
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.studies.progress import Steps
from attention_guidance.errors import ConfigError, CorpusError

PAIRS_FILE = "minimal_pairs.json"
PAIRS_TABLE = "minimal_pairs.csv"
#: The task of `probe` and `skill` that asks the model, not its heads.
PAIRS_TASK = "minimal-pairs"
_TOO_LONG = "longer than the model reads"
_Z = 1.96


@dataclass(frozen=True)
class PairsProbe:
    """Settings of a probe of minimal pairs.

    Attributes:
        data: a file or folder of pairs, see `read_minimal_pairs`.
        seed: seed of the bootstrap of `skill`.
        batch_size: masked sentences in a forward pass (default: as many as have 4,096 tokens).
    """

    data: Path
    seed: int = 1
    batch_size: int | None = None

    @cached_property
    def pairs(self) -> list[MinimalPair]:
        """The pairs.

        Raises:
            CorpusError: they cannot be read.
        """
        return read_minimal_pairs(self.data)

    def scores(
        self, subject: Subject, steps: Steps | None = None
    ) -> tuple[list[tuple[float, float]], list[MinimalPair]]:
        """The scores of both sentences of each pair, and the pairs that the model can read.

        Args:
            subject: the model.
            steps: shows the progress.

        Raises:
            ConfigError: the model is no masked language model, has no mask token, or its scores are NaN.
            CorpusError: it can read none of the pairs.
        """
        tokenizer = subject.tokenizer("mask")
        model = subject.load_masked_lm("pairs are scored by")
        longest = longest_sequence(model, tokenizer)
        check_tokens(tokenizer, _sentences(self.pairs))
        lengths = n_tokens(tokenizer, _sentences(self.pairs), special=True)
        fits = [max(lengths[2 * n : 2 * n + 2]) <= longest for n in range(len(self.pairs))]
        kept = [pair for pair, fit in zip(self.pairs, fits, strict=True) if fit]
        if not kept:
            raise CorpusError(f"every sentence is longer than the {longest} tokens that {subject.name} reads")
        sentences = _sentences(kept)
        if steps is not None:
            n_rows = sum(n_tokens(tokenizer, sentences, special=False))
            steps.begin(f"scoring {len(kept):,} pairs with {subject.name}", n_rows)
        progress = None if steps is None else steps.at
        found = pseudo_log_likelihoods(model, tokenizer, sentences, batch_size=self.batch_size, progress=progress)
        if any(map(math.isnan, found)):
            raise ConfigError(f"model {subject.source!r}: its scores are NaN; its weights may have diverged to NaN")
        return [*zip(found[::2], found[1::2], strict=True)], kept

    def skill(self, subject: Subject) -> tuple[dict[str, float], dict[str, Any]]:
        """The accuracy of a model for `skill`, the mean over paradigms, and chance; and counts of pairs.

        Raises:
            GuidanceError: see `scores`.
        """
        scores, kept = self.scores(subject)
        skipped = {_TOO_LONG: len(self.pairs) - len(kept)} if len(kept) < len(self.pairs) else {}
        value = float(_summary(kept, scores)["accuracy"]["value"])
        return {"accuracy": value, "chance": 0.5}, {"texts": len(kept), "skipped_texts": skipped}

    def facts(self) -> dict[str, Any]:
        """The settings as JSON."""
        return {"data": "/".join(self.data.absolute().parts[-2:]), "task": PAIRS_TASK, "seed": self.seed}


@until_done()
@names_batch_size
def minimal_pairs(
    model: str,
    asked: PairsProbe,
    output: Path,
    *,
    with_checkpoints: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score minimal pairs by pseudo-log-likelihood; see `pseudo_log_likelihoods`.

    Args:
        model: folder of a masked language model or run, or a name on the Hugging Face hub.
        asked: the settings of the probe.
        output: folder for `minimal_pairs.json`, `minimal_pairs.csv` (a row for each pair) and the figures.
        with_checkpoints: whether to score every checkpoint of a run.
        overwrite: whether to replace existing results in the folder.
        quiet: whether to print nothing.

    Returns:
        The content of `minimal_pairs.json`.

    Raises:
        GuidanceError: bad input.
    """
    folder = Output.of_study(output, PAIRS_FILE, overwrite)
    console = Console(quiet=quiet)
    snapshots, rows, n_pairs = [], [], len(asked.pairs)
    with Steps(console, quiet) as steps:
        for subject in subjects(model, with_checkpoints=with_checkpoints):
            scores, kept = asked.scores(subject, steps)
            snapshots.append(
                {"model": subject.name, "step": subject.step, "loss": subject.loss(), "skipped": n_pairs - len(kept)}
                | _summary(kept, scores)
            )
            rows = [*_rows(kept, scores)]
    content = {
        **results.header("minimal_pairs"),
        "model": snapshots[-1]["model"],
        "data": asked.facts()["data"],
        "pairs": n_pairs,
        "snapshots": snapshots,
    }
    folder.csv(PAIRS_TABLE, rows)
    for name, figure in all_figures(content).items():
        folder.figure(name, figure)
    folder.json(PAIRS_FILE, content)
    report(console, content)
    console.print(f"results: {folder.path / PAIRS_FILE}, {PAIRS_TABLE}; figures are beside them")
    return content


def _sentences(pairs: Sequence[MinimalPair]) -> list[str]:
    return [sentence for pair in pairs for sentence in (pair.good, pair.bad)]


def _summary(pairs: Sequence[MinimalPair], scores: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Accuracy overall, by field, phenomenon and paradigm, each the mean over its paradigms as in BLiMP."""
    right: dict[str, list[float]] = {}
    of_paradigm: dict[str, MinimalPair] = {}
    for pair, (good, bad) in zip(pairs, scores, strict=True):
        right.setdefault(pair.paradigm, []).append(0.5 if good == bad else float(good > bad))
        of_paradigm.setdefault(pair.paradigm, pair)

    def groups(kind: str) -> list[dict[str, Any]]:
        names = {name: getattr(pair, kind) for name, pair in of_paradigm.items()}
        ordered = dict.fromkeys(group for group in names.values() if group is not None)
        return [
            {"name": group} | _accuracy([right[name] for name, of_one in names.items() if of_one == group])
            for group in sorted(ordered)
        ]

    return {
        "accuracy": _accuracy([*right.values()]),
        "fields": groups("field"),
        "phenomena": groups("phenomenon"),
        "paradigms": groups("paradigm"),
    }


def _accuracy(right: Sequence[Sequence[float]]) -> dict[str, float | int]:
    """The mean accuracy of paradigms, with a 95 % interval over their pairs."""
    means = [float(np.mean(of_one)) for of_one in right]
    # A paradigm of one pair has no variance that could be estimated.
    variances = [float(np.var(of_one, ddof=1)) / len(of_one) if len(of_one) > 1 else math.nan for of_one in right]
    value, half = float(np.mean(means)), _Z * math.sqrt(sum(variances)) / len(right)
    ends = (
        {"low": max(0.0, value - half), "high": min(1.0, value + half)} if half == half else {"low": half, "high": half}
    )
    return {"value": value, **ends, "pairs": sum(map(len, right))}


def _rows(pairs: Sequence[MinimalPair], scores: Sequence[tuple[float, float]]) -> Iterable[dict[str, object]]:
    for pair, (good, bad) in zip(pairs, scores, strict=True):
        facts = {"paradigm": pair.paradigm, "sentence_good": pair.good, "sentence_bad": pair.bad}
        yield {**facts, "score_good": good, "score_bad": bad}


def report(console: Console, content: Mapping[str, Any]) -> None:
    """Print the accuracies."""
    last = content["snapshots"][-1]
    if last["skipped"]:
        console.print(f"{last['skipped']:,} pairs are longer than the model reads")
    table = Table(title="Accuracy on minimal pairs (95 % interval over pairs; chance is 0.5)")
    for heading in ("", "pairs", "accuracy"):
        table.add_column(heading, justify="right" if heading else "left")
    rows = [{"name": "all paradigms", **last["accuracy"]}, *last["fields"], *(last["phenomena"] or last["paradigms"])]
    for row in rows:
        interval = f" ({row['low']:.3f} to {row['high']:.3f})" if math.isfinite(row["low"]) else ""
        table.add_row(row["name"], f"{row['pairs']:,}", f"{row['value']:.3f}{interval}")
    console.print(table)
    for snapshot in content["snapshots"][:-1]:
        console.print(f"{snapshot['model']}: {snapshot['accuracy']['value']:.3f}")
