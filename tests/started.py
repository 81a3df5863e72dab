"""Benchmarks as commands, from the root of the project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import forked

ROOT = Path(__file__).parents[1]


def benchmark(name: str, *arguments: object, **given: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m benchmarks.NAME` to its end."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    return forked.run(command, capture_output=True, text=True, cwd=ROOT, **given)
