"""The type hints accept the public names as the docs show them, and no mistakes: tests/types, by two type checkers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_examples_have_the_types_of_the_hints(checker):
    """pyproject.toml has the settings, both strict: a mistake that is accepted is an unused ignore, an error."""
    pytest.importorskip(checker)
    arguments = {"mypy": ["tests/types"], "pyright": ["--pythonpath", sys.executable]}[checker]
    command = [sys.executable, "-m", checker, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
