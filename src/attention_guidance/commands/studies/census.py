"""`attention-guidance census`: the pattern that each head of a model follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_guidance.analysis.census import MEASURES, THRESHOLD, Census, take_census
from attention_guidance.analysis.similarity import head_divergence, head_positions
from attention_guidance.commands import results
from attention_guidance.commands.memory import names_batch_size
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.printing import Console, Table, lines
from attention_guidance.commands.report.figures import census as census_figures
from attention_guidance.commands.studies.models import Subject, longest_sequence, subjects
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.studies.progress import Steps
from attention_guidance.commands.studies.sample import Text, batches, sampled_blocks
from attention_guidance.commands.text.blocks import Blocks
from attention_guidance.commands.tokenization.byte_level import FOR_BLOCKS
from attention_guidance.errors import ConfigError, PatternError
from attention_guidance.patterns import Pattern, TokenClasses, get_pattern

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CENSUS_FILE = "census.json"
CENSUS_TABLE = "census.csv"
#: The default patterns; a token class that the tokenizer lacks is skipped.
PATTERNS = ("next", "previous", "same", "first", "delimiter", "period")
# As in Clark et al. 2019: models may accept longer inputs than they were trained on, but attention degrades there.
_BLOCK_SIZE = 128


@dataclass(frozen=True)
class CensusSettings:
    """Settings of a census.

    Attributes:
        patterns: names of the patterns to measure (default: `PATTERNS`).
        token_classes: user-defined token classes.
        with_checkpoints: whether to include all checkpoints of a run.
        sequences: maximum number of blocks of text.
        block_size: tokens per block (default: 128, or the model's maximum if smaller).
        batch_size: blocks per forward pass.
        threshold: minimum mass for a head to follow a pattern.
        similarity_rows: number of rows on which heads are compared; 0 skips the comparison.
        seed: seed of the sample.

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
            raise ConfigError(f"threshold={self.threshold} must lie between 0 and 1")
        for name in ("sequences", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.similarity_rows < 0:
            raise ConfigError(f"similarity_rows={self.similarity_rows} must be at least 0")


@until_done()
@names_batch_size
def census(
    model: str,
    text: Text,
    output: Path,
    settings: CensusSettings | None = None,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Take the census of a model, or of each checkpoint of a run, and write the results.

    Args:
        model: folder of a model or run, or a name on the Hugging Face hub.
        text: the text to run the model on.
        output: folder for `census.json`, `census.csv` and the figures.
        settings: settings of the census (default: `CensusSettings()`).
        overwrite: whether to replace an existing census in the folder.
        quiet: whether to print nothing.

    Returns:
        The content of `census.json`.

    Raises:
        GuidanceError: bad input.
    """
    folder = Output.of_study(output, CENSUS_FILE, overwrite)
    console = Console(quiet=quiet)
    with Steps(console, quiet) as steps:
        content = measured_census(model, text, settings or CensusSettings(), steps)
    folder.csv(CENSUS_TABLE, census_rows(content))
    for figure_name, figure in census_figures.all_figures(content).items():
        folder.figure(figure_name, figure)
    folder.json(CENSUS_FILE, content)
    report(console, content)
    console.print(f"results: {folder.path / CENSUS_FILE}, {CENSUS_TABLE}; figures are beside them")
    return content


def measured_census(model: str, text: Text, settings: CensusSettings, steps: Steps) -> dict[str, Any]:
    """Take the census and return the content of `census.json`; see `census`."""
    analysed = subjects(model, with_checkpoints=settings.with_checkpoints)
    tokenizer = analysed[-1].tokenizer(*FOR_BLOCKS)
    chosen = named_patterns(settings.patterns, tokenizer, settings.token_classes)
    size = checked_block_size(settings.block_size, analysed[-1].load(), tokenizer)
    steps.begin(f"sampling {settings.sequences:,} blocks of {size} tokens", None)
    blocks = sampled_blocks(text, tokenizer, n_blocks=settings.sequences, block_size=size, seed=settings.seed)
    snapshots = [
        _snapshot(subject, blocks, chosen, settings.threshold, settings.batch_size, steps) for subject in analysed
    ]
    similarity = None
    if settings.similarity_rows:
        steps.begin("comparing heads", None)
        similarity = _similarity(analysed[-1], blocks, settings)
    return {
        **results.header("census"),
        "model": model,
        "corpus": text.name,
        "sample": {"sequences": len(blocks), "tokens": blocks.n_tokens, "block_size": size, "seed": settings.seed},
        "threshold": settings.threshold,
        "patterns": [pattern.name for pattern in chosen],
        "snapshots": snapshots,
        "similarity": similarity,
    }


def checked_block_size(asked: int | None, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The tokens per block: those asked for, or by default 128 or the model's maximum if smaller.

    Raises:
        ConfigError: more than the model takes.
    """
    longest = longest_sequence(model, tokenizer)
    if asked is not None and asked > longest:
        raise ConfigError(f"block_size={asked}: this model takes at most {longest} tokens")
    return asked or min(longest, _BLOCK_SIZE)


def named_patterns(
    names: Sequence[str], tokenizer: PreTrainedTokenizerBase, token_classes: TokenClasses | None = None
) -> list[Pattern]:
    """The patterns to measure: those of the names, or by default `PATTERNS` and the user's token classes.

    Raises:
        ConfigError: none of the names uses a token class.
    """
    if names:
        used = {part.strip() for name in names for part in name.split("|")}
        if unused := sorted((token_classes or {}).keys() - used):
            raise ConfigError(f"`token_classes` has {unused[0]}, which is not among `patterns`; add it there")
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
    """One model's census as JSON; docs/looking.md describes the keys."""
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
    """The rows of `census.csv`: one per checkpoint, layer, head and pattern."""
    for taken in content["snapshots"]:
        for head in taken["heads"]:
            for name, measured in head["patterns"].items():
                place: dict[str, object] = {"layer": head["layer"], "head": head["head"], "pattern": name}
                estimates = {measure: measured[measure] for measure in MEASURES} | {"entropy": head["entropy"]}
                values = {measure: estimate["value"] for measure, estimate in estimates.items()}
                ends = {f"{measure}_{end}": of[end] for measure, of in estimates.items() for end in ("low", "high")}
                toward = {key: head[key] or "" for key in ("follows", "guided_toward")}
                yield {**place, **values, **ends, **toward, "step": "" if taken["step"] is None else taken["step"]}


def report(console: Console, content: Mapping[str, Any]) -> None:
    """Print the last snapshot: one row per layer, one column per head, and the share of heads for each pattern."""
    last = content["snapshots"][-1]
    n_heads = 1 + max(head["head"] for head in last["heads"])
    table = Table(title=f"{last['model']}: the pattern each head follows (mass at least {content['threshold']:g})")
    table.add_column("layer", justify="right")
    for head in range(n_heads):
        table.add_column(str(head), justify="center")
    by_layer: dict[int, list[Any]] = {}
    for head in last["heads"]:
        name = head["follows"]
        mass = ["·"] if name is None else [name, f"{head['patterns'][name]['mass']['value']:.2f}"]
        mass[-1] += "*" if head["guided_toward"] else ""
        by_layer.setdefault(head["layer"], []).append(lines(*mass))
    for layer, cells in by_layer.items():
        table.add_row(str(layer), *cells)
    console.print(table)
    if any(head["guided_toward"] for head in last["heads"]):
        console.print("* guided during training")
    shares = ", ".join(f"{name} {share:.0%}" for name, share in last["shares"].items() if share or name == "none")
    console.print(f"share of heads: {shares}")
