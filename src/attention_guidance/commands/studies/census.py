"""`attention-guidance census`: which pattern does each head of a model follow, and since when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from attention_guidance.analysis.census import MEASURES, THRESHOLD, Census, take_census
from attention_guidance.analysis.similarity import head_divergence, head_positions
from attention_guidance.commands import results
from attention_guidance.commands.report.figures import census as census_figures
from attention_guidance.commands.studies.models import Subject, longest_sequence, subjects
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.studies.progress import Steps
from attention_guidance.commands.studies.sample import Text, batches, sampled_blocks
from attention_guidance.commands.text.blocks import Blocks
from attention_guidance.errors import ConfigError, PatternError
from attention_guidance.patterns import Pattern, TokenClasses, get_pattern

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CENSUS_FILE = "census.json"
CENSUS_TABLE = "census.csv"
#: What heads are measured against where nothing else is asked for; a class that a tokenizer lacks is left out.
PATTERNS = ("next", "previous", "same", "first", "delimiter", "period")
# As Clark et al. 2019: models may take more than they were trained on, and their heads lose their way there.
_BLOCK_SIZE = 128


@dataclass(frozen=True)
class CensusSettings:
    """How a census is taken.

    Attributes:
        patterns: their names; the usual ones without.
        token_classes: classes of tokens of one's own.
        with_checkpoints: all checkpoints of a run.
        sequences: how many blocks of the text to look at, at most.
        block_size: tokens of a block; 128 without, or what the model can take.
        batch_size: blocks in a forward pass.
        threshold: a head follows a pattern from this mass on.
        similarity_rows: rows by which heads are compared; 0 does not compare them.
        seed: of the sample.

    Raises:
        ConfigError: a value out of range.
    """

    patterns: Sequence[str] = ()
    token_classes: TokenClasses | None = None
    with_checkpoints: bool = False
    sequences: int = 256
    block_size: int | None = None
    batch_size: int = 8
    threshold: float = THRESHOLD
    similarity_rows: int = 256
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"--threshold {self.threshold}: must lie between 0 and 1")
        for name in ("sequences", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if self.similarity_rows < 0:
            raise ConfigError(f"--similarity-rows {self.similarity_rows}: must be at least 0")


def census(
    model: str,
    text: Text,
    output: Path,
    settings: CensusSettings | None = None,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Take the census of a model, or of each checkpoint of a run, and write it down.

    Args:
        model: folder of a model or of a run, or a name on the hub.
        text: what to look at it on.
        output: the folder for `census.json`, `census.csv` and the figures.
        settings: how to take it.
        overwrite: replace the census in the folder.
        quiet: print nothing.

    Returns:
        The census, as in `census.json`.

    Raises:
        GuidanceError: bad input.
    """
    folder = Output.of_study(output, CENSUS_FILE, overwrite)
    console = Console(quiet=quiet, markup=False)
    with Steps(console, quiet) as steps:
        content = measured_census(model, text, settings or CensusSettings(), steps)
    folder.json(CENSUS_FILE, content)
    folder.csv(CENSUS_TABLE, census_rows(content))
    for figure_name, figure in census_figures.all_figures(content).items():
        folder.figure(figure_name, figure)
    report(console, content)
    console.print(f"every figure: {folder.path / CENSUS_FILE}, {CENSUS_TABLE}; pictures beside them", highlight=False)
    return content


def measured_census(model: str, text: Text, settings: CensusSettings, steps: Steps) -> dict[str, Any]:
    """The census as in `census.json`; see `census`."""
    looked_at = subjects(model, with_checkpoints=settings.with_checkpoints)
    tokenizer = looked_at[-1].tokenizer()
    chosen = _patterns(settings.patterns, tokenizer, settings.token_classes)
    longest = longest_sequence(looked_at[-1].load(), tokenizer)
    if settings.block_size is not None and settings.block_size > longest:
        raise ConfigError(f"--block-size {settings.block_size}: this model takes at most {longest} tokens")
    size = settings.block_size or min(longest, _BLOCK_SIZE)
    steps.begin(f"drawing {settings.sequences:,} blocks of {size} tokens", None)
    blocks = sampled_blocks(
        text, tokenizer, n_blocks=settings.sequences, block_size=size, seed=settings.seed
    )  # fmt: skip
    snapshots = [
        _snapshot(subject, blocks, chosen, settings.threshold, settings.batch_size, steps) for subject in looked_at
    ]
    similarity = None
    if settings.similarity_rows:
        steps.begin("comparing heads", None)
        similarity = _similarity(looked_at[-1], blocks, settings)
    return {
        **results.header("census"),
        "model": model,
        "corpus": text.name,
        "sample": {
            "sequences": len(blocks), "tokens": blocks.n_tokens, "block_size": size, "seed": settings.seed
        },
        "threshold": settings.threshold,
        "patterns": [pattern.name for pattern in chosen],
        "snapshots": snapshots,
        "similarity": similarity,
    }  # fmt: skip


def _patterns(
    names: Sequence[str], tokenizer: PreTrainedTokenizerBase, token_classes: TokenClasses | None
) -> list[Pattern]:
    if names:
        return [get_pattern(name, tokenizer, token_classes) for name in names]
    found = []
    for name in [*PATTERNS, *(token_classes or ())]:
        try:
            found.append(get_pattern(name, tokenizer, token_classes))
        except PatternError:
            if token_classes and name in token_classes:
                raise
    return found


def _snapshot(
    subject: Subject, blocks: Blocks, patterns: Sequence[Pattern], threshold: float, batch_size: int, steps: Steps
) -> dict[str, Any]:
    steps.begin(subject.name, len(blocks))
    taken = take_census(subject.load(), batches(blocks, batch_size), patterns, progress=steps.at)
    return snapshot(taken, subject, threshold)


def snapshot(taken: Census, subject: Subject, threshold: float) -> dict[str, Any]:
    """A census as JSON: see docs/looking.md for the keys."""
    followed, guided = taken.followed(threshold), subject.guided_heads()

    def estimate(of: Any, *place: int) -> dict[str, float]:
        return {end: float(getattr(of, end)[place]) for end in ("value", "low", "high")}

    heads = [
        {
            "layer": layer,
            "head": head,
            "follows": followed[layer][head],
            "guided_toward": guided.get((layer, head)),
            "entropy": estimate(taken.entropy, layer, head),
            "patterns": {
                name: {measure: estimate(getattr(taken, measure), layer, head, p) for measure in MEASURES}
                for p, name in enumerate(taken.patterns)
            },
        }
        for layer in range(taken.n_layers)
        for head in range(taken.n_heads)
    ]
    names = [*taken.patterns, None]
    return {
        "model": subject.name,
        "step": subject.step,
        "validation_loss": subject.loss(),
        "rows": dict(zip(taken.patterns, taken.rows[0].tolist(), strict=True)),
        "uniform_mass": dict(zip(taken.patterns, taken.uniform_mass.mean(0).tolist(), strict=True)),
        "shares": taken.shares(threshold),
        "shares_by_layer": [{name or "none": row.count(name) / len(row) for name in names} for row in followed],
        "heads": heads,
    }


def _similarity(subject: Subject, blocks: Blocks, settings: CensusSettings) -> dict[str, Any]:
    rows = settings.similarity_rows
    divergence = head_divergence(subject.load(), batches(blocks, settings.batch_size), rows=rows, seed=settings.seed)
    return {
        "rows": rows,
        "divergence": np.round(divergence, 5).tolist(),
        "positions": np.round(head_positions(divergence), 5).tolist(),
    }


def census_rows(content: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """The rows of `census.csv`: one for each layer, head and pattern, of each checkpoint."""
    for taken in content["snapshots"]:
        for head in taken["heads"]:
            for name, measured in head["patterns"].items():
                values = {measure: measured[measure]["value"] for measure in MEASURES}
                ends = {f"{measure}_{end}": measured[measure][end] for measure in MEASURES for end in ("low", "high")}
                yield {
                    "layer": head["layer"], "head": head["head"], "pattern": name, **values,
                    "entropy": head["entropy"]["value"], **ends, "entropy_low": head["entropy"]["low"],
                    "entropy_high": head["entropy"]["high"], "follows": head["follows"] or "",
                    "guided_toward": head["guided_toward"] or "",
                    "step": "" if taken["step"] is None else taken["step"],
                }  # fmt: skip


def report(console: Console, content: Mapping[str, Any]) -> None:
    """Print the last snapshot: a row a layer, a column a head, and the share of heads of each pattern."""
    last = content["snapshots"][-1]
    n_heads = 1 + max(head["head"] for head in last["heads"])
    table = Table(title=f"{last['model']}: the pattern each head follows (mass at least {content['threshold']:g})")
    table.add_column("layer", justify="right")
    for head in range(n_heads):
        table.add_column(str(head), justify="center")
    by_layer: dict[int, list[str]] = {}
    for head in last["heads"]:
        name = head["follows"]
        mass = "·" if name is None else f"{name}\n{head['patterns'][name]['mass']['value']:.2f}"
        by_layer.setdefault(head["layer"], []).append(mass + ("*" if head["guided_toward"] else ""))
    for layer, cells in by_layer.items():
        table.add_row(str(layer), *cells)
    console.print(table)
    if any(head["guided_toward"] for head in last["heads"]):
        console.print("* guided in training")
    shares = ", ".join(f"{name} {share:.0%}" for name, share in last["shares"].items() if share or name == "none")
    console.print(f"share of heads: {shares}", highlight=False)
