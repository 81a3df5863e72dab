"""Benchmarks, a package for each question; README.md lists them with their results.

Each is run from the root of the project: `python -m benchmarks.cost.product --show`.
"""

from pathlib import Path

BENCHMARKS = Path(__file__).parent
# Not part of the project.
DATA = BENCHMARKS.parents[1] / "shared" / "data"
