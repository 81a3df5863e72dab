"""Does a guided encoder need its guided heads? The loss without each head, of encoders with and without guidance.

    python -m benchmarks.heads.ablation RUN ...     runs of pretrain, such as those of low_resource (some minutes)
    python -m benchmarks.heads.ablation --show      the table of what is kept

Each head's output is set to zero, to its mean, and its attention to the pattern that it follows, on text of
../shared/data, which is not part of the project. Each result is appended to results/ablation.jsonl.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from attention_guidance.errors import GuidanceError

from .. import BENCHMARKS, DATA
from ..turns import append, newest

RESULTS = BENCHMARKS / "results" / "ablation.jsonl"
_PLACES = {"zero": "zero", "mean": "its mean", "pattern": "its pattern"}
_KINDS = ("next", "previous", "first")


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.heads.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs")
    parser.add_argument("--text", type=Path, default=DATA / "hausa" / "valid.txt")
    parser.add_argument("--tokens", type=int, default=20_000, help="at most (20,000)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if not arguments.runs and not arguments.show:
        parser.error("name a run, or --show")
    try:
        for run in arguments.runs:
            for place in _PLACES:
                append(arguments.results, [ablated(run, place, arguments.text, arguments.tokens)])
    except GuidanceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(show(arguments.results))
    return 0


def ablated(run: Path, place: str, text: Path, tokens: int) -> dict[str, Any]:
    """What `ablate` finds with `place` in the place of each head."""
    from attention_guidance.commands.studies.ablation.ablate import AblationSettings, ablate_heads
    from attention_guidance.commands.studies.sample import Text

    settings = AblationSettings(to=place, tokens=tokens)
    with tempfile.TemporaryDirectory() as folder:
        found = ablate_heads(str(run), Text(files=(str(text),)), Path(folder) / "ablation", settings, quiet=True)
    return found | {"kind": "ablation", "run": run.name, "corpus": "/".join(text.parts[-2:])}


def show(path: Path) -> str:
    """The newest result of each run and place, as Markdown."""
    head = ("run", "loss", "in place of a head", *_KINDS, "other heads", "guided − other heads (95 %)")
    rows = [head, ("---",) * len(head)]
    for record in newest(path, "run", "to"):
        of_kind: dict[str | None, list[float]] = {}
        for of_head in record["heads"]:
            of_kind.setdefault(of_head["guided_toward"], []).append(of_head["difference"]["value"])
        groups = record["groups"] if set(of_kind) - {None} else None
        means = (f"{fmean(of_kind[kind]):+.3f}" if kind in of_kind else "–" for kind in (*_KINDS, None))
        gap = "{value:+.3f} ({low:+.3f} to {high:+.3f})".format(**groups["gap"]) if groups else "–"
        rows.append((record["run"], f"{record['loss']['value']:.3f}", _PLACES[record["to"]], *means, gap))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
