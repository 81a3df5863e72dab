"""Text beyond memory: what preparing it holds at its peak, and how fast it is beside the tokenizer alone.

    python -m benchmarks.pretraining.large_text                     10 GB (hours on 2 cores, and 16 GB of disk)
    python -m benchmarks.pretraining.large_text --gigabytes 0.25
    python -m benchmarks.pretraining.large_text --show              the table of what is kept

The text is the English of ../shared/data again and again, each line with a number of its own. It is tokenized and
packed by what `pretrain` uses, in a process of its own whose peak is read from the system; a piece of it is also packed
in turns with the tokenizer's own `encode_batch_fast` over the same documents, both on all cores. Results are appended
to results/large_text.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attention_guidance.commands import results
from attention_guidance.commands.pretraining.loop.peak_memory import peak_mib
from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.settings.config import make_config
from attention_guidance.commands.text.blocks import pack
from attention_guidance.commands.text.corpora import read_documents
from attention_guidance.commands.tokenization.byte_level import load_tokenizer, train_tokenizer

from .. import BENCHMARKS, DATA
from ..turns import Arm, append, step_time, take_turns

TEXT = DATA / "english" / "train.txt"
RESULTS = BENCHMARKS / "results" / "large_text.jsonl"
_BLOCK_SIZE = 128
_BATCH = 1024


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.pretraining.large_text",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--piece", type=float, default=0.02, help="gigabytes that are packed in turns (0.02)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--work", type=Path, help="a folder with room for the text and its blocks (a temporary one)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    parser.add_argument("--prepare", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.show:
        print(show(arguments.results))
        return 0
    if arguments.prepare:
        print(json.dumps(prepared(*arguments.prepare)))
        return 0
    if not arguments.text.is_file():
        print(f"error: {arguments.text} is not there", file=sys.stderr)
        return 2
    # Off in processes that might fork, and this one does not.
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        append(arguments.results, [measured(Path(work), arguments)])
    print(show(arguments.results))
    return 0


def measured(work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of one run of this benchmark."""
    lines = [line for line in arguments.text.read_text(encoding="utf-8").splitlines() if line.strip()]
    tokenizer = train_tokenizer(lines[:1000], 8192, max_length=_BLOCK_SIZE, at_most=True)
    tokenizer.save_pretrained(work / "tokenizer")
    write_text(work / "piece.txt", lines, arguments.piece)
    arms: dict[str, Arm] = {
        "packed": _Timed(lambda: pack(_texts(work), tokenizer, _BLOCK_SIZE, file=work / "ids")),
        "encoded": _Timed(lambda: encode(work, tokenizer.backend_tokenizer)),
    }
    times = take_turns(arms, arguments.rounds, float("inf"))
    write_text(work / "text.txt", lines, arguments.gigabytes)
    environment = os.environ | {"ATTENTION_GUIDANCE_CACHE": str(work / "cache")}
    command = [sys.executable, "-m", "benchmarks.pretraining.large_text"]
    command += ["--prepare", str(work / "text.txt"), str(work / "tokenizer")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return (
        results.header("large_text")
        | {
            "command": "python -m benchmarks.pretraining.large_text",
            "gigabytes": arguments.gigabytes,
            "piece": arguments.piece,
        }
        | {"rounds": len(times["packed"]), "processors": os.cpu_count()}
        | found
        # Seconds of encoding over those of packing: the throughput of the latter as a share of the former's.
        | step_time(times["encoded"], times["packed"])
    )


class _Timed:
    """A function as an arm."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def step(self) -> float:
        """The seconds it takes."""
        begin = time.perf_counter()
        self.function()
        return time.perf_counter() - begin


def write_text(file: Path, lines: list[str], gigabytes: float) -> None:
    """Lines again and again, each with a number, until there are so many bytes."""
    n_bytes, number = 0, 0
    with file.open("w", encoding="utf-8") as out:
        while n_bytes < gigabytes * 1e9:
            line = f"{number} {lines[number % len(lines)]}\n"
            out.write(line)
            n_bytes += len(line.encode())
            number += 1


def _texts(work: Path) -> Any:
    return (document.text for document in read_documents([work / "piece.txt"], split="line"))


def encode(work: Path, backend: Any) -> None:
    """The tokenizer alone, in batches of documents."""
    batch: list[str] = []
    for text in _texts(work):
        batch.append(text)
        if len(batch) == _BATCH:
            backend.encode_batch_fast(batch, add_special_tokens=False)
            batch = []
    backend.encode_batch_fast(batch, add_special_tokens=False)


def prepared(text: Path, tokenizer: Path) -> dict[str, Any]:
    """What preparing a text takes, in this process."""
    load_tokenizer(str(tokenizer))
    before = peak_mib()
    begin = time.perf_counter()
    settings = {"corpus": [str(text)], "tokenizer": str(tokenizer), "documents": "line", "block_size": _BLOCK_SIZE}
    data = prepare_data(make_config(settings), lambda said: None)
    seconds = time.perf_counter() - begin
    fingerprint = data.fingerprint[:16]
    return {
        "peak_mib": peak_mib(),
        "libraries_mib": before,
        "seconds": seconds,
        "tokens": data.train.n_tokens,
        "fingerprint": fingerprint,
    }


def show(path: Path) -> str:
    """The newest figures of each size as Markdown."""
    newest = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        record = json.loads(line)
        newest[record["gigabytes"], record["device"]] = record
    if not newest:
        return "nothing is kept yet"
    head = ("text", "tokens", "peak resident memory", "of which libraries", "throughput over encode_batch", "device")
    rows: list[tuple[str, ...]] = [head, ("---",) * len(head)]
    for record in newest.values():
        rows.append(
            (
                f"{record['gigabytes']:g} GB",
                f"{record['tokens']:,}",
                f"{record['peak_mib']:,.0f} MiB",
                f"{record['libraries_mib']:,.0f} MiB",
                f"{record['ratio']:.2f} ({record['ratio_low']:.2f} to {record['ratio_high']:.2f})",
                record["device"],
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
