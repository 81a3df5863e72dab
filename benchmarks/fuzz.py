"""Mutate files that commands read, and look for foreign exceptions, hangs and odd messages: make fuzz.

Each case is a target and a seed. A target writes a valid file, mutates it and reads it back. Its outcome is `read`,
`refused` (an error of the project: one line that names the file) or a fault: another exception, a message that breaks
one of these rules, or more than 20 seconds. Results are JSON lines; cases that they hold are not run again.

    python benchmarks/fuzz.py --cases 20000 --results fuzz.jsonl
    python benchmarks/fuzz.py --target probe.json --seed 17        one case, with its traceback
"""

from __future__ import annotations

import argparse
import io
import json
import random
import signal
import sys
import tempfile
import time
import traceback
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz_files import FILES, RESULTS, Chance, write_bytes, write_compressed, write_json, write_parquet

from attention_guidance.commands.report.figures import probe as probe_figures
from attention_guidance.commands.report.figures import skill as skill_figures
from attention_guidance.commands.report.figures.svg import to_svg
from attention_guidance.commands.studies import models, report
from attention_guidance.commands.text.corpora import read_documents
from attention_guidance.commands.text.lines import Malformed
from attention_guidance.commands.text.tables import find_columns, read_table
from attention_guidance.errors import GuidanceError

SECONDS = 20


@dataclass(frozen=True)
class Target:
    """What is fuzzed: a function that writes a mutated file, and one that reads it."""

    write: Callable[[Path, Chance], None]
    read: Callable[[Path, Chance], object]


def _read_documents(path: Path, chance: Chance) -> int:
    options = {
        "split": chance.choice(("auto", "line", "blank", "file")),
        "errors": chance.choice(("strict", "replace")),
    }
    field = {"text_field": "label"} if chance.random() < 0.1 else {}
    return sum(len(document.text) for document in read_documents([path], **options, **field))


def _read_table(path: Path, chance: Chance) -> int:
    columns = chance.choice((None, ["text", "label"], ["1", "2"]))
    rows = read_table(path, columns=columns, malformed=Malformed(path, skip=chance.random() < 0.5))
    return len(find_columns(rows, [("text", "sentence"), ("label",)], columns))


def _read_included(path: Path, chance: Chance) -> int:
    """Read a result, draw its figures and make its part of the page, as `report` does."""
    from attention_guidance.commands.report.run_page import _probe

    drawn = chance.random() < 0.1
    for item in report._included([path if chance.random() < 0.5 else path.parent]):
        content: dict[str, list[Any]] = {"runs": [], "probes": [], "skills": []}
        if item["kind"] == "finetune":
            json.dumps(list(report._scores(item)))
            continue
        content[f"{item['kind']}s"].append(item)
        list(report._tables(content))
        if drawn:
            figures = (
                probe_figures.all_figures(item).values() if item["kind"] == "probe" else [skill_figures.scatter(item)]
            )
            for figure in figures:
                to_svg(figure)
                figure.savefig(io.BytesIO(), dpi=160)
            _rendered(_probe(item) if item["kind"] == "probe" else None, item)
    return drawn


def _rendered(probe: Any, item: Any) -> None:
    from attention_guidance.commands.report.page import render

    nothing: Any = {"report": {"tiles": [], "has_slider": False, "has_attention": False, "command": "x"}}
    lists = dict.fromkeys(
        ("runs", "charts", "settings", "patterns", "developments", "planes", "downstream", "made"), ()
    )
    grids = [
        {
            "threshold": 0.5,
            "heads": [],
            "rows": [],
            "run": 0,
            "name": "",
            "step": "",
            "shares": {},
            "corpus": "",
            "sample": {"sequences": 1, "block_size": 1},
        }
    ]
    probes, skills = ([probe], []) if probe else ([], [(item, "")])
    page = nothing | lists | {"grids": grids, "probes": probes, "skills": skills, "data": {}}
    render("run.html", **(page | {"runs": [{"name": "run"}]}))


def _read_log(path: Path, chance: Chance) -> object:
    subject = models.Subject("x", str(path.parent), 10, path.parent)
    return subject.loss(), models.trainer_log(path.parent)


def _read_results(path: Path, chance: Chance) -> object:
    (path.parent / "run.yaml").touch()
    return report._history(str(path.parent)), models.results_of(path.parent).get("final_loss")


_READ = {"trainer_state.json": _read_log, "results.json": _read_results}
TARGETS = {
    **{f"text{suffix}": Target(write_bytes, _read_documents) for suffix in (".txt", ".csv", ".tsv", ".jsonl")},
    **{f"text{suffix}.gz": Target(write_compressed, _read_documents) for suffix in (".txt", ".csv", ".jsonl")},
    "text.parquet": Target(write_parquet, _read_documents),
    **{f"table{suffix}": Target(write_bytes, _read_table) for suffix in FILES},
    "table.parquet": Target(write_parquet, _read_table),
    **{
        name: Target(lambda path, chance: write_json(path, RESULTS[path.name], chance), _READ.get(name, _read_included))
        for name in RESULTS
    },
}


def run_case(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Run one case; a fault has the key `fault`."""
    chance = random.Random(f"{name}:{seed}")
    path = folder / name
    TARGETS[name].write(path, chance)
    began = time.perf_counter()
    result: dict[str, Any] = {"target": name, "seed": seed}
    signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(SECONDS)
    try:
        TARGETS[name].read(path, chance)
        result["outcome"] = "read"
    except GuidanceError as error:
        message = str(error)
        names_file = path.name in message or str(folder) in message
        odd = "\n" in message or len(message) > 2000 or not names_file
        result |= {"outcome": "refused"} | ({"fault": "message", "message": message[:300]} if odd else {})
    except (Exception, TimeoutError) as error:
        result |= {"outcome": "fault", "fault": type(error).__name__, "message": str(error)[:300]}
        result["at"] = _place(error.__traceback__)
    finally:
        signal.alarm(0)
    return result | {"seconds": round(time.perf_counter() - began, 2)}


def _too_slow(number: int, frame: types.FrameType | None) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


def _place(at: types.TracebackType | None) -> str:
    frames = [f for f in traceback.extract_tb(at) if "attention_guidance" in f.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def main() -> None:
    """Run the cases that the results lack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="cases of all targets together")
    parser.add_argument("--results", type=Path, default=Path("fuzz.jsonl"))
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    if given.seed is not None:
        with tempfile.TemporaryDirectory() as folder:
            chance = random.Random(f"{given.target}:{given.seed}")
            TARGETS[given.target].write(Path(folder) / given.target, chance)
            TARGETS[given.target].read(Path(folder) / given.target, chance)
        return
    done = [json.loads(line) for line in given.results.read_text().splitlines()] if given.results.exists() else []
    known = {(case["target"], case["seed"]) for case in done}
    names = [given.target] if given.target else list(TARGETS)
    cases = [(names[number % len(names)], number // len(names)) for number in range(given.cases)]
    counts = Counter((case["target"], case.get("fault") or case["outcome"]) for case in done)
    with given.results.open("a") as file:
        for name, seed in cases:
            if (name, seed) not in known:
                with tempfile.TemporaryDirectory() as folder:
                    case = run_case(name, seed, Path(folder))
                file.write(json.dumps(case) + "\n")
                file.flush()
                counts[name, case.get("fault") or case["outcome"]] += 1
    for (name, outcome), n in sorted(counts.items()):
        print(f"{name:20} {outcome:20} {n:6}")
    sys.exit(any(outcome not in ("read", "refused") for _, outcome in counts))


if __name__ == "__main__":
    main()
