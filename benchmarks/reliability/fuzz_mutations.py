"""Mutations of files: functions of the bytes of a valid or kept file that draw from a random generator alone."""

from __future__ import annotations

import copy
import gzip
import json
import os
import random
import sys
import zlib
from collections.abc import Iterator
from typing import Any

# Set before transformers is imported: a mutated name of a model must not be looked up on the hub.
os.environ["HF_HUB_OFFLINE"] = "1"

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
# Cells, and YAML: values that columns and settings trip over.
_CELLS = (
    b"",
    b" ",
    b"-1",
    b"0",
    b"1",
    b"2",
    b"9" * 12,
    b"1e999",
    b"1-2",
    b"1.1",
    b"0-199999999",
    b"O",
    b"B-X",
    b"I-X",
    b"E-X",
    b"(0",
    b"0)",
    b"(0)",
    b"*",
    b"_",
    b"-",
    b"TRUE",
    b"|",
    b"#",
    b"{}",
    b"[]",
    b"null",
    b"yes",
    b"~",
    b"!!int ''",
    b"!!float ''",
    b"!!bool x",
    b"!!timestamp x",
    b"!!binary x",
    b"!!set {a}",
    b"!!python/name:os.system",
    b"2024-99-99",
    b"&a [*a]",
    b"&a [1, 2]",
    b"*a",
    b"? [a] : b",
    b"<<: {a: b}",
    b"x" * 5000,
    b"\xc2\xa0",
    b"\xd9\xa3",
    b"\xc2\xb2",
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


def mutated_text(content: bytes, chance: Chance) -> bytes:
    """Of words and lines: as `mutated_bytes`, or exchange, repeat and remove whole lines and columns."""
    if chance.random() < 0.5:
        return mutated_bytes(content, chance)
    lines = content.split(b"\n")
    for _ in range(chance.randint(1, 3)):
        at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        kind = chance.randrange(5)
        if kind == 0:
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 1:
            lines.insert(at, lines[other])
        elif kind == 2 and len(lines) > 1:
            del lines[at]
        else:
            mark = chance.choice((b"\t", b" ", b",", b":", b"="))
            cells = lines[at].split(mark)
            cell = chance.randrange(len(cells))
            cells[cell] = chance.choice((*_CELLS, *cells, chance.choice(lines[other].split(mark))))
            lines[at] = mark.join(cells)
    return b"\n".join(lines)


def mutated_json_bytes(content: bytes, chance: Chance) -> bytes:
    """Of JSON: mutate its values, in a fifth of the cases its bytes too."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return mutated_bytes(content, chance)
    sys.set_int_max_str_digits(0)
    content = json.dumps(mutated_json(value, chance)).encode()
    sys.set_int_max_str_digits(4300)
    return mutated_bytes(content, chance) if chance.random() < 0.2 else content


def mutated_gzip(content: bytes, chance: Chance) -> bytes:
    """Of a compressed file: mutate what is inside, or the compressed bytes."""
    try:
        inside = gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return mutated_bytes(content, chance)
    if chance.random() < 0.5:
        return mutated_bytes(content, chance)
    return gzip.compress(mutated_text(inside, chance), 1)
