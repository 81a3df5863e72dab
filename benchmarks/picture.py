"""The README's picture, drawn from a comparison's figures: python benchmarks/picture.py demo/seed-1 docs/demo.png."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from attention_guidance.report.compare_figures import loss_curves
from attention_guidance.report.svg import save_png


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comparison", type=Path, help="a folder that `attention-guidance compare` wrote")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    arguments = parser.parse_args()
    compare = json.loads((arguments.comparison / "compare.json").read_text(encoding="utf-8"))
    save_png(loss_curves(compare), arguments.picture)


if __name__ == "__main__":
    main()
