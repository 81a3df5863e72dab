"""A hook of mkdocs.yml: the site holds the repository's own pages, at their own paths.

So README.md, DESIGN.md and the pages in docs and benchmarks are written once, and their links to each other lead to the
same place on the site as in the repository.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHOWN = (
    "*.md",
    "docs/**/*.md",
    "docs/*.png",
    "docs/*.svg",
    "examples/*.ipynb",
    "docs/*.js",
    "docs/*.css",
    "benchmarks/**/*.md",
    "benchmarks/results/*.jsonl",
)
_CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)
_FROM_NETWORK = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^\"'\s>]+")


def paths() -> list[str]:
    """Paths of the pages of the site and of the files that they show or link to, relative to the repository."""
    return sorted(path.relative_to(ROOT).as_posix() for pattern in SHOWN for path in ROOT.glob(pattern))


def on_files(files: Any, config: Any) -> Any:
    """Put the files of the repository in the place of those that mkdocs found in docs; keep the theme's."""
    from mkdocs.structure.files import File

    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    for path in paths():
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Remove the backslash before a bar in a cell of a table: forges want it, and Python-Markdown leaves it in code."""
    return _CELL.sub(lambda cell: cell[0].replace("\\|", "|"), html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Warn, which is an error under --strict, of a page that could not be read without a network."""
    for loaded in _FROM_NETWORK.findall(output):
        logging.getLogger("mkdocs.hooks").warning("%s loads from the network: %s", page.file.src_uri, loaded)
    return output
