"""The documentation site (`make site`) shows every page, and its reference every public name."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from test_docs import IMPORTS

ROOT = Path(__file__).parents[1]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
REFERENCE = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
DIRECTIVES = re.findall(r"^::: (\S+)$", REFERENCE, re.MULTILINE)
PUBLIC = ["attention_guidance", *(f"attention_guidance.{name}" for name in ("analysis", "models", "patterns"))]


def leaves(nav):
    """The paths in a navigation, at any depth."""
    for entry in nav:
        target = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from leaves(target) if isinstance(target, list) else [target]


@pytest.fixture
def site_files(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("site_files")


def test_every_page_is_in_the_navigation(site_files):
    pages = [path for path in site_files.paths() if path.endswith(".md")]
    assert {"README.md", "DESIGN.md", "docs/guide.md", "docs/reference/guide.md", "benchmarks/cost/README.md"} <= set(
        pages
    )
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")} <= set(pages)
    assert sorted(leaves(SITE["nav"])) == sorted(pages)


def test_the_evidence_lists_every_file_of_results():
    folder = ROOT / "benchmarks"
    links = re.findall(r"\]\(results/(\w+\.jsonl)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert sorted(links) == sorted(path.name for path in folder.glob("results/*.jsonl"))


def test_the_reference_has_each_name_once():
    assert len(DIRECTIVES) > 40
    assert len(set(DIRECTIVES)) == len(DIRECTIVES)
    for path in DIRECTIVES:
        pkgutil.resolve_name(path)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_the_reference(module):
    names = importlib.import_module(module).__all__
    assert [name for name in names if not is_shown(f"{module}.{name}")] == []


@pytest.mark.parametrize("line", [line for line in IMPORTS.values() if line.startswith("from attention_guidance")])
def test_names_that_the_guides_import_are_in_the_reference(line):
    module, names = re.fullmatch(r"from (\S+) import (.+)", line).groups()
    assert [name for name in names.split(", ") if not is_shown(f"{module}.{name}")] == []


@pytest.mark.parametrize("path", DIRECTIVES)
def test_docstrings_describe_one_name_an_entry(path):
    """The site's parser would take the second name of an entry `first, second: ...` for a type."""
    docstring = inspect.getdoc(pkgutil.resolve_name(path)) or ""
    sections = re.findall(r"^(?:Args|Attributes):\n((?:(?: .*)?\n?)+)", docstring, re.MULTILINE)
    entries = re.findall(r"^    (\S.*?):", "\n".join(sections), re.MULTILINE)
    assert [entry for entry in entries if not re.fullmatch(r"\*{0,2}\w+", entry)] == []


def is_shown(path):
    """Whether the reference shows an object, under this path or another one."""
    return any(pkgutil.resolve_name(other) is pkgutil.resolve_name(path) for other in DIRECTIVES)


def test_links_are_checked():
    assert {rule for rules in SITE["validation"].values() for rule in rules.values()} == {"warn"}
    assert SITE["validation"]["links"].keys() >= {"not_found", "anchors"}


@pytest.mark.parametrize(
    ("page", "n_warnings"),
    [
        ('<script src="https://cdn.example/x.js"></script>', 1),
        ('<link rel="stylesheet" href="//fonts.example/x.css"><img alt="" src=http://example/x.png>', 2),
        ('<a href="https://example.org">x</a><script src="assets/x.js"></script><img src="data:image/png;,">', 0),
    ],
)
def test_pages_that_need_a_network_are_warned_of(page, n_warnings, site_files, caplog):
    of_page = SimpleNamespace(file=SimpleNamespace(src_uri="README.md"))
    assert site_files.on_post_page(page, of_page, None) == page
    assert len(caplog.records) == n_warnings


def test_bars_in_cells_of_tables_lose_their_backslash(site_files):
    html = "<p><code>a\\|b</code></p><td><code>a\\|b</code>,\nc</td>"
    assert site_files.on_page_content(html, None, None, None) == html.replace("<td><code>a\\|b", "<td><code>a|b")
