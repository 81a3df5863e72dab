"""Write the tree of the package into README.md, from the first line of each module: python docs/tree.py [--check].

Library modules have a line each; of the commands, folders have one.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PACKAGE = ROOT / "src" / "attention_guidance"
BEGIN, END = "<!-- tree: python docs/tree.py -->\n```\n", "```\n<!-- end of tree -->"
_WIDTH = 28


def main() -> None:
    """Write the tree, or fail with --check where README.md holds another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if README.md is out of date")
    check = parser.parse_args().check
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        sys.exit(f"{README} has no markers of the tree: {BEGIN.strip()!r}, {END!r}")
    written = f"{before}{BEGIN}{tree()}{END}{after}"
    if check and written != text:
        sys.exit(f"the tree of {README.name} is out of date: run python docs/tree.py")
    if not check:
        README.write_text(written, encoding="utf-8")


def tree() -> str:
    """The tree as text: a line for each module of the library, and for each folder of the commands."""
    lines = [f"{PACKAGE.relative_to(ROOT)}/", *_entries(PACKAGE, 1, with_modules=True)]
    return "\n".join(lines) + "\n"


def _entries(folder: Path, depth: int, *, with_modules: bool) -> Iterator[str]:
    modules = [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("__")]
    for path in modules if with_modules else ():
        yield _line(path.name, path, depth)
    packages = sorted(path.parent for path in folder.glob("*/__init__.py"))
    for package in sorted(packages, key=lambda path: (path.name == "commands", path.name)):
        yield _line(f"{package.name}/", package / "__init__.py", depth)
        yield from _entries(
            package, depth + 1, with_modules=with_modules and package.name not in ("commands", "triton")
        )


def _line(name: str, path: Path, depth: int) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not docstring:
        sys.exit(f"{path.relative_to(ROOT)} has no docstring")
    return f"{'  ' * depth + name:<{_WIDTH}}  {docstring.splitlines()[0]}"


if __name__ == "__main__":
    main()
