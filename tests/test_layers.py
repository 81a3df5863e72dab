"""Imports point one way: between layers and between modules, where no circle is left, also for types."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import attention_guidance

ROOT = Path(attention_guidance.__file__).parent
NAME = ROOT.name
COMMANDS = "commands"
# From the bottom up; a part may import from its own layer and those before it.
LIBRARY = [
    {"errors", "files", "printable"},
    {"patterns", "schedules", "models"},
    {"assignment", "loss", "weight"},
    {"adapters"},
    {"forward"},
    {"callback"},
    {"handle"},
    {"attach", "analysis"},
    {"matching"},
    {COMMANDS},
]
IN_COMMANDS = [
    {"memory", "plain", "secrets", "streams"},
    {"printing", "setting"},
    {"reading"},
    {"output_lock"},
    {"results", "text", "workspace"},
    {"annotations", "media", "tokenization", "report"},
    {"objectives", "probes"},
    {"pretraining"},
    {"studies"},
    {"finetuning"},
    {"recipe"},
    {"cli"},
]
# What a person needs who only wants to guide a model of their own.
REQUIRED = {"torch", "transformers", "numpy", "scipy"}
OPTIONAL = {"triton", "matplotlib"}


def modules() -> dict[str, Path]:
    names = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        names[".".join(parts).removesuffix(".__init__")] = path
    return names


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Modules that a file imports: at its top, within functions and for types."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def in_library(name: str) -> bool:
    return name != f"{NAME}.__main__" and not name.startswith(f"{NAME}.{COMMANDS}")


@pytest.mark.parametrize(("root", "layers"), [(NAME, LIBRARY), (f"{NAME}.{COMMANDS}", IN_COMMANDS)])
def test_imports_point_one_way(root, layers):
    rank = {part: number for number, layer in enumerate(layers) for part in layer}

    def part(name: str) -> str | None:
        below = name.removeprefix(f"{root}.").split(".")[0]
        return below if name.startswith(f"{root}.") and below != "__main__" else None

    assert {part(name) for name in MODULES} - {None} == rank.keys()
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if part(name) and part(other) and rank[part(other)] > rank[part(name)]
    ]
    assert wrong == []


def test_no_module_is_in_a_circle():
    own = {name: {other for other in others if other in MODULES} - {name} for name, others in IMPORTS.items()}
    try:
        graphlib.TopologicalSorter(own).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_library_imports_four_packages():
    allowed = REQUIRED | OPTIONAL | {NAME} | sys.stdlib_module_names
    wrong = {
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        if in_library(name)
        for other in others
        if other.split(".")[0] not in allowed or not (other.split(".")[0] != NAME or in_library(other))
    }
    assert wrong == set()


def test_folders_hold_at_most_twelve_modules():
    n_modules = {folder: len(list(folder.glob("*.py"))) for folder in {path.parent for path in MODULES.values()}}
    assert {str(folder.relative_to(ROOT)): n for folder, n in n_modules.items() if n > 12} == {}


def test_the_tree_of_the_readme_is_that_of_the_package():
    """`python docs/tree.py` writes it again."""
    command = [sys.executable, ROOT.parents[1] / "docs" / "tree.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
