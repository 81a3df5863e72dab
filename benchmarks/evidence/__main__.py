"""The paper's claims, each a study of small runs whose results are kept, and the page that they give.

    python -m benchmarks.evidence list                      every study: claim, runs, core-hours
    python -m benchmarks.evidence run objectives            make the runs that are not kept yet
    python -m benchmarks.evidence run why --seed 4 --jobs 2
    python -m benchmarks.evidence show objectives           what the kept results say
    python -m benchmarks.evidence page                      write docs/evidence.md and its figures

A run takes about ten seconds on one core (set OMP_NUM_THREADS=1), one of confirmation four minutes. Results are
appended to results/evidence.jsonl, a line for each run; a run that is kept is not made again. Some studies read
../shared/data, which is not part of the project.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from attention_guidance.errors import FailedRunError, GuidanceError

from .data import SHARED
from .page import listing, section_lines, write_page
from .studies import every_study, get_study
from .study import read

BENCHMARKS = Path(__file__).parents[1]
RESULTS = BENCHMARKS / "results" / "evidence.jsonl"
PAGE = BENCHMARKS.parent / "docs" / "evidence.md"


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.evidence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--results", type=Path, default=RESULTS)
    commands.add_parser("list", parents=[common], help="all studies")
    running = commands.add_parser("run", parents=[common], help="make the runs of a study that are not kept")
    running.add_argument("name", nargs="+", help="one study or several, one after the other")
    running.add_argument("--seed", type=int, nargs="+", help="which seeds (those that `list` counts)")
    running.add_argument("--jobs", type=int, default=1, help="runs at a time, each in a process (1)")
    running.add_argument("--work", type=Path, default=BENCHMARKS.parent / "runs" / "evidence", help="temporary files")
    running.add_argument("--data", type=Path, default=SHARED)
    showing = commands.add_parser("show", parents=[common], help="print what the kept results say")
    showing.add_argument("name", nargs="*", help="studies (all)")
    paging = commands.add_parser("page", parents=[common], help="write the page and its figures")
    paging.add_argument("--output", type=Path, default=PAGE)
    arguments = parser.parse_args()
    try:
        print(_done(arguments), end="")
    except GuidanceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FailedRunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _done(arguments: argparse.Namespace) -> str:
    """Do what was asked; the text to print."""
    kept = read(arguments.results)
    if arguments.command == "list":
        return listing(kept)
    if arguments.command == "page":
        return f"wrote {', '.join(map(str, write_page(kept, arguments.output)))}\n"
    studies = [get_study(name) for name in arguments.name] or every_study()
    if arguments.command == "run":
        from .running import Place, run_study

        place = Place(arguments.work, arguments.data, arguments.results)
        for study in studies:
            run_study(study, kept, arguments.seed, arguments.jobs, place)
    return "\n".join(line for study in studies for line in section_lines(study, kept)) + "\n"


if __name__ == "__main__":
    sys.exit(main())
