"""Imports point one way: a module may import from its own layer and those before it."""

from __future__ import annotations

import ast
from pathlib import Path

import attention_guidance

ROOT = Path(attention_guidance.__file__).parent
LAYERS = [
    {"errors", "results", "modes"},
    {"patterns", "schedules", "models"},
    {"assignment", "loss", "data"},
    {"inputs_outputs", "split_heads", "objectives"},
    {"forward_pass", "hosts", "hooked_forward", "lost_guidance"},
    {"passes"},
    {"guided_layer"},
    {"handle", "callback"},
    {"attach", "analysis", "report"},
    {"matching"},
    {"training"},
    {"studies"},
    {"finetuning"},
    {"recipe"},
    {"cli"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
APART = {"report", "analysis", "data", "loss"}  # these know nothing of their neighbours in the same layer


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    """Parts of this package that a file imports, also within functions and for types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("attention_guidance"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {part(name) for name in names}
    return found & RANK.keys()


def test_every_part_has_a_layer():
    parts = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")}
    assert parts - {"__init__", "__main__"} == RANK.keys()


def test_imports_point_one_way():
    wrong = []
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if own in RANK:
            wrong += [
                f"{path.relative_to(ROOT)} imports {other}"
                for other in imports(path)
                if RANK[other] > RANK[own] or (own != other and own in APART and RANK[other] == RANK[own])
            ]
    assert wrong == []
