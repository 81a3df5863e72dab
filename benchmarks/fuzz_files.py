"""Valid files that commands read, and mutations of them: what `fuzz.py` works on."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Chance = random.Random

# Text: bytes and strings that parsers trip over.
_BYTES = (
    b"\0",
    b"\xff",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\t",
    b'"',
    b'""',
    b",",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"9" * 5000,
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"null",
    b"true",
    b"PAR1",
    b"\x1f\x8b\x08",
    b"\xe2\x80\xa8",
    b"\x1b[31m",
    b"[/x]",
    b"&a [*a,*a]",
    b" " * 5000,
    b"a" * 70_000,
)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**4000,
    -(10**400),
    0.5,
    -0.0,
    1e-300,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "a",
    "[/x]",
    "\x1b[31m",
    "\ud800",
    "\0",
    "$x^{$",
    "a\nb",
    "x" * 5000,
    "../../x",
    [],
    [[]],
    {},
    {"": None},
    [None],
)


def mutated_bytes(content: bytes, chance: Chance) -> bytes:
    """Cut, repeat, replace and insert some bytes."""
    for _ in range(chance.randint(1, 4)):
        at, to = sorted(chance.choices(range(len(content) + 1), k=2))
        kind = chance.randrange(6)
        if kind == 0:
            content = content[:at] + chance.choice(_BYTES) + content[at:]
        elif kind == 1:
            content = content[:at] + chance.choice(_BYTES) + content[to:]
        elif kind == 2:
            content = content[:to] + content[at:to] * chance.randint(1, 20) + content[to:]
        elif kind == 3:
            content = content[:at] if chance.random() < 0.3 else content[:at] + content[at + 1 :]
        elif content:
            at = min(at, len(content) - 1)
            content = content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :]
    return content


def mutated_json(content: Any, chance: Chance) -> Any:
    """Replace, remove, rename, repeat and nest some parts."""
    content = copy.deepcopy(content)
    for _ in range(chance.randint(1, 3)):
        places = [
            (held, key)
            for held in _containers(content)
            for key in (held if isinstance(held, dict) else range(len(held)))
        ]
        if not places:
            break
        held, key = chance.choice(places)
        kind = chance.randrange(7)
        if kind == 0:
            del held[key]
        elif kind == 1 and isinstance(held, dict):
            held[chance.choice(("", "x", f"{key} "))] = held.pop(key)
        elif kind == 2 and isinstance(held, list):
            held.insert(0, held[key])
        elif kind == 3:
            other, place = chance.choice(places)
            held[key] = copy.deepcopy(other[place])
        elif kind == 4 and isinstance(held[key], int | float):
            held[key] = chance.choice(
                (
                    held[key] + 1,
                    -held[key],
                    held[key] * 10**6,
                    str(held[key]),
                    held[key] / 3 if abs(held[key]) < 1e9 else 0.5,
                )
            )
        else:
            held[key] = copy.deepcopy(chance.choice(_VALUES))
    return content


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _containers(item)


def write_json(path: Path, content: Any, chance: Chance) -> None:
    sys.set_int_max_str_digits(0)
    text = json.dumps(mutated_json(content, chance))
    sys.set_int_max_str_digits(4300)
    data = text.encode()
    path.write_bytes(mutated_bytes(data, chance) if chance.random() < 0.2 else data)


_TEXT = b"First line, naive.\nSecond \xe6\x97\xa5\xe6\x9c\xac line.\n\nA paragraph\nof two lines.\n"
_RECORDS = [{"text": f"A text {n}, with words.", "label": "yn"[n % 2], "n": n} for n in range(6)]


def _table(mark: str) -> bytes:
    rows = [
        ("text", "label", "n"),
        *((str(r["text"]).replace(",", ";"), str(r["label"]), str(r["n"])) for r in _RECORDS),
    ]
    return "".join(mark.join(row) + "\n" for row in rows).encode()


_JSONL = "".join(json.dumps(record) + "\n" for record in _RECORDS).encode()
FILES = {
    ".txt": _TEXT,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".jsonl": _JSONL,
    ".json": json.dumps(_RECORDS).encode(),
}


def write_bytes(path: Path, chance: Chance) -> None:
    path.write_bytes(mutated_bytes(FILES[".tsv" if path.name == "table.txt" else path.suffix], chance))


def write_compressed(path: Path, chance: Chance) -> None:
    data = FILES[Path(path.stem).suffix]
    inside = chance.random() < 0.5
    packed = gzip.compress(mutated_bytes(data, chance) if inside else data)
    path.write_bytes(packed if inside else mutated_bytes(packed, chance))


def write_parquet(path: Path, chance: Chance) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["text", "label", "n"]
    if chance.random() < 0.5:
        names[chance.randrange(3)] = chance.choice(
            ("", " text", "text.x", "a.b", "[/x]", "\x1b", "text", "x" * 300, "label")
        )
    strings = pa.array([record["text"] for record in _RECORDS])
    odd = [
        strings.dictionary_encode(),
        pa.array([[1], [], None, [2], [3], [4]]),
        pa.array([{"x": 1}] * 6),
        pa.array([2**60] * 6, pa.timestamp("us")),
        pa.array([b"\xff"] * 6),
        pa.array([None] * 6),
        pa.array([2**31 - 1] * 6, pa.date32()),
        pa.array([1.5] * 6),
        pa.array([2**62] * 6, pa.duration("s")),
        pa.array([10**9] * 6, pa.time64("ns")),
    ]
    columns = [strings, pa.array(["y", "n"] * 3), pa.array(range(6))]
    if chance.random() < 0.5:
        columns[chance.randrange(3)] = chance.choice(odd)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, names=names), buffer)
    data = buffer.getvalue()
    path.write_bytes(mutated_bytes(data, chance) if chance.random() < 0.5 else data)


_LABEL = {
    "label": "obj",
    "questions": 40,
    "questions_scored": 20,
    "max": 0.9,
    "mean": 0.4,
    "chance": 0.1,
    "intervals_apart": True,
    "best": {"layer": 1, "head": 0, "direction": "forward", "value": 0.8, "low": 0.7, "high": 0.9},
    "baseline": {"name": "offset:-1", "value": 0.5, "low": 0.4, "high": 0.6},
    "gain": {"value": 0.3, "low": None, "high": None},
}
_HEADER = {
    "schema_version": 1,
    "date": "2026-01-01T00:00:00+00:00",
    "versions": {"python": "3.12"},
    "device": "cpu",
    "command": "x",
}
RESULTS: dict[str, Any] = {
    "probe.json": {
        **_HEADER,
        "kind": "probe",
        "model": "run",
        "data": "a/b",
        "task": "dependency",
        "protocol": "words",
        "distractors": False,
        "seed": 1,
        "layers": 2,
        "heads": 2,
        "directions": ["forward", "backward"],
        "max": 0.9,
        "mean": 0.5,
        "accuracy": {"forward": [[0.1, 0.9], [0.5, 0.2]], "backward": [[0.3, 0.4], [0.0, 1.0]]},
        "baselines": {"best": {"name": "offset:-1", "value": 0.5}, "chance": 0.1},
        "labels": [_LABEL | {"label": "all"}, _LABEL],
        "counts": {"texts": 40, "questions": 80, "skipped_texts": {"longer than 32 tokens": 2}},
    },
    "skill.json": {
        **_HEADER,
        "kind": "skill",
        "runs": ["a", "b"],
        "data": "a/b",
        "task": "reflexive",
        "protocol": "words",
        "seed": 1,
        "points": [
            {"run": run, "step": step, "loss": 5 - step / 10, "max": 0.5, "mean": 0.3, "chance": 0.2}
            for run in ("a", "b")
            for step in (10, 20, 30)
        ],
        "correlations": [
            {"run": run, "measure": measure, "n": 6, "spearman": -0.5, "low": None, "high": None}
            for run in (None, "a", "b")
            for measure in ("max", "mean")
        ],
    },
    "finetune.json": {
        **_HEADER,
        "kind": "finetune",
        "task": "cola",
        "model": "run",
        "scores": {"mcc": {"mean": 0.5, "std": 0.1, "seeds": 5}},
    },
    "trainer_state.json": {
        "global_step": 30,
        "log_history": [
            {"step": 10, "loss": 5.0, "grad_norm": 1.0},
            {"step": 20, "eval_loss": 4.5},
            {"step": 30, "guidance": 0.2},
        ],
    },
    "results.json": {
        **_HEADER,
        "kind": "run",
        "final_loss": 4.5,
        "curve": [{"step": 10, "loss": 5.0}, {"step": 20, "loss": 4.5}],
    },
}
