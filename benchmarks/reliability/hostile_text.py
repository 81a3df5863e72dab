"""How much memory do hostile texts take? Lines and archives that never seem to end, given to `pretrain` as they are.

    python -m benchmarks.reliability.hostile_text              200 MB lines, 1 GB bombs (15 minutes on two cores)
    python -m benchmarks.reliability.hostile_text --megabytes 20
    python -m benchmarks.reliability.hostile_text --show       the table of what is kept

Each case is the whole command with a tiny model and one step, in a process of its own; its peak is that of the system.
Results are appended to results/hostile_text.jsonl.
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attention_guidance.commands import results

from .. import BENCHMARKS
from ..turns import append, newest

RESULTS = BENCHMARKS / "results" / "hostile_text.jsonl"
_WORDS = "the cat sees a house and the river follows it down to the sea. "
_MODEL = "--layers 1 --hidden 16 --attention-heads 2 --feed-forward 16 --block-size 32 --heads next:1 --max-steps 1"
_PIECE = 1 << 20


def _pieces(text: str, size: int) -> Iterator[bytes]:
    piece = (text * (_PIECE // len(text))).encode()
    for _ in range(size // len(piece)):
        yield piece


# Name of the file: what it repeats, whether it is as large as a bomb, what stands around it.
_CASES: dict[str, tuple[str, bool, tuple[bytes, bytes]]] = {
    "line.txt": (_WORDS, False, (b"", b"\nthe end\n")),
    "word.txt": ("a", False, (b"", b"\nthe end\n")),
    "record.jsonl": (_WORDS, False, (b'{"text": "', b'"}\n')),
    "cell.csv": (_WORDS, False, (b'text\n"', b'"\n')),
    "line.txt.gz": (_WORDS, True, (b"", b"\nthe end\n")),
    "newlines.txt.gz": ("\n", True, (b"", b"the end\n")),
    "record.jsonl.gz": ("a", True, (b'{"text": "', b'"}\n')),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.reliability.hostile_text",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--megabytes", type=int, default=200, help="of a line; a bomb has five times as much (200)")
    parser.add_argument("--cases", nargs="+", choices=_CASES, default=[*_CASES])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if not arguments.show:
        for name in arguments.cases:
            with tempfile.TemporaryDirectory() as folder:
                append(arguments.results, [measured(name, arguments.megabytes, Path(folder))])
    print(show(arguments.results))
    return 0


def measured(name: str, megabytes: int, folder: Path) -> dict[str, Any]:
    """Run the command on one case."""
    text, bomb, (before, after) = _CASES[name]
    size = megabytes * (5 if bomb else 1) * 1_000_000
    path = folder / name
    with gzip.open(path, "wb") if name.endswith(".gz") else path.open("wb") as file:
        file.write(before)
        file.writelines(_pieces(text, size))
        file.write(after)
    plain = folder / "plain.txt"
    plain.write_text("".join(f"The {n}th line of {n % 7} is plain text.\n" for n in range(2000)))
    flags = ["--validation", str(plain), "-o", str(folder / "run"), *_MODEL.split(), "--report-to", "none"]
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "attention_guidance", "pretrain", str(path), *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.read().strip().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        **results.header("hostile_text"),
        "case": name,
        "megabytes": size // 1_000_000,
        "file_bytes": path.stat().st_size,
        "exit_code": os.waitstatus_to_exitcode(status),
        "peak_bytes": usage.ru_maxrss * unit,
        "seconds": round(time.monotonic() - began, 1),
        "last_line": said[-1].replace(str(folder), "...") if said else "",
    }


def show(path: Path) -> str:
    """The newest result of each case as a table in Markdown."""
    lines = ["| file | holds, MB | peak, MB | seconds | exit code |", "|---|---|---|---|---|"]
    lines += [
        f"| {r['case']} | {r['megabytes']:,} | {r['peak_bytes'] / 1e6:,.0f} | {r['seconds']:.0f} | {r['exit_code']} |"
        for r in newest(path, "case", "megabytes")
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
