"""`attention-guidance skill`: probe accuracy against loss (paper, section 5.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attention_guidance.analysis.intervals import rank_correlation
from attention_guidance.commands import results
from attention_guidance.commands.memory import names_batch_size
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.printing import Console, Table
from attention_guidance.commands.report.figures import skill as skill_figures
from attention_guidance.commands.studies.minimal_pairs import PAIRS_TASK, PairsProbe
from attention_guidance.commands.studies.models import names_of, subjects
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.studies.probe import Probe, left_out
from attention_guidance.commands.studies.progress import Steps
from attention_guidance.errors import RunError

SKILL_FILE = "skill.json"
SKILL_TABLE = "skill.csv"


@until_done()
@names_batch_size
def skill(
    runs: Sequence[str], asked: Probe | PairsProbe, output: Path, *, overwrite: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Probe every checkpoint of some runs and correlate the accuracy of its heads, or its own, with its loss.

    Args:
        runs: folders of runs of `pretrain` with checkpoints.
        asked: the settings of the probe.
        output: folder for `skill.json`, `skill.csv` and the figure.
        overwrite: whether to replace existing results in the folder.
        quiet: whether to print nothing.

    Returns:
        The content of `skill.json`.

    Raises:
        GuidanceError: bad input, or fewer than three checkpoints with a known loss.
    """
    folder = Output.of_study(output, SKILL_FILE, overwrite)
    console = Console(quiet=quiet)
    names = names_of(runs)
    found = [
        (name, subject)
        for name, run in zip(names, runs, strict=True)
        for subject in subjects(run, with_checkpoints=True)
    ]
    known = [(run, subject) for run, subject in found if subject.loss() is not None]
    if len(known) < 3:
        raise RunError(
            f"{len(known)} checkpoints with a known validation loss in {', '.join(runs)}; a correlation needs three: "
            "train with keep_checkpoints=20"
        )
    points: list[dict[str, Any]] = []
    with Steps(console, quiet) as steps:
        steps.begin("probing checkpoints", len(known))
        for run, subject in known:
            accuracies, counts = asked.skill(subject)
            points.append({"run": run, "step": subject.step, "loss": subject.loss()} | accuracies)
            steps.at(len(points))
    content = {
        **results.header("skill"),
        "runs": names,
        **asked.facts(),
        "checkpoints_without_loss": len(found) - len(known),
        "counts": counts,
        "points": points,
        "correlations": correlations(points, asked.seed),
    }
    folder.csv(SKILL_TABLE, points)
    folder.figure("skill", skill_figures.scatter(content))
    folder.json(SKILL_FILE, content)
    report(console, content)
    console.print(f"results: {folder.path / SKILL_FILE}, {SKILL_TABLE}; skill.svg is beside them")
    return content


def measures_of(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was measured at checkpoints: `max` and `mean` over heads, or the `accuracy` of the model."""
    return [name for name in points[0] if name in ("max", "mean", "accuracy")]


def correlations(points: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Spearman's rank correlation between accuracy and loss, over all checkpoints and within each run."""
    result = []
    for run in [None, *dict.fromkeys(point["run"] for point in points)]:
        chosen = [point for point in points if run is None or point["run"] == run]
        for measure in measures_of(points):
            value, low, high = rank_correlation(
                [point["loss"] for point in chosen], [point[measure] for point in chosen], seed=seed
            )
            result.append(
                {"run": run, "measure": measure, "n": len(chosen), "spearman": value, "low": low, "high": high}
            )
    return result


def report(console: Console, content: Mapping[str, Any]) -> None:
    """Print the correlations."""
    counts, of_pairs = content["counts"], content["task"] == PAIRS_TASK
    what = "pairs" if of_pairs else "texts"
    console.print(f"{counts['texts']:,} {what}{left_out(counts['skipped_texts'], what)}")
    whose = "Accuracy" if of_pairs else "Accuracy of heads"
    table = Table(title=f"{whose} ({content['task']}) against validation loss: Spearman's rank correlation")
    for heading in ("checkpoints of", "n", *measures_of(content["points"])):
        table.add_column(heading, justify="right" if heading != "checkpoints of" else "left")
    rows: dict[str, list[Any]] = {}
    for item in content["correlations"]:
        rows.setdefault(item["run"] or "all runs", [str(item["n"])]).append(_shown(item))
    for run, cells in rows.items():
        table.add_row(run, *cells)
    console.print(table)
    better = "better models prefer more acceptable sentences" if of_pairs else "heads are better in better models"
    console.print(f"below 0: {better}; checkpoints of one run are not independent")


def _shown(item: Mapping[str, Any]) -> str:
    if not math.isfinite(item["spearman"]):
        return "–"
    if not math.isfinite(item["low"]):
        return f"{item['spearman']:+.2f} (too few)"
    return f"{item['spearman']:+.2f} ({item['low']:+.2f} to {item['high']:+.2f})"
