"""The pages that are written by commands name what the tests hold, and what the pages link to is there."""

import re
import subprocess
import sys
from pathlib import Path

import encoders
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "DESIGN.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_support_names_every_encoder():
    page = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")
    encoders_part, ways_part = page.split("## Ways of training")
    rows = re.findall(r"^\| (\w+) \| (yes|NO)", encoders_part, re.MULTILINE)
    assert "NO" not in ways_part
    assert [name for name, _ in rows] == [*encoders.GUIDABLE, *encoders.OUTSIDE]
    assert {answer for _, answer in rows} == {"yes"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_settings_are_those_declared():
    """`python docs/settings.py` writes the page again."""
    command = [sys.executable, str(ROOT / "docs" / "settings.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tables_of_convergence_are_what_is_kept():
    command = [sys.executable, str(ROOT / "benchmarks" / "convergence.py"), "--show"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    pages = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/pretraining.md"))
    assert len(shown) > 8
    assert [line for line in shown if line not in pages] == []
