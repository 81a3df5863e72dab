"""The README's pictures, of what commands have written.

python docs/picture.py demo/seed-1 docs/demo.png              a folder of compare: its loss curves
python docs/picture.py looks/report/report.html docs/report.png   a page of report: its heads; needs a Chromium
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from attention_guidance.commands.report.figures.compare import loss_curves
from attention_guidance.commands.report.figures.svg import save_png

_SECTIONS = ("#census", ".legend", ".grids", "#look", ".look")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder of compare, or a page of report")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--head", type=int, nargs=2, default=(0, 0), metavar=("LAYER", "HEAD"), help="to look through")
    arguments = parser.parse_args()
    if arguments.source.is_dir():
        compare = json.loads((arguments.source / "compare.json").read_text(encoding="utf-8"))
        save_png(loss_curves(compare), arguments.picture)
    else:
        photograph(arguments.source, arguments.picture, *arguments.head)


def photograph(page: Path, picture: Path, layer: int, head: int) -> None:
    """The census and the look through a head, as a browser shows them; all else is left out."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    binary = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 980, "height": 900}, device_scale_factor=1.5)
        tab.goto(page.resolve().as_uri())
        tab.select_option("#look-layer", str(layer))
        tab.select_option("#look-head", str(head))
        kept = ", ".join(_SECTIONS)
        tab.evaluate(
            """kept => {
              for (const part of document.querySelectorAll("main > *"))
                if (!part.querySelector(kept)) part.remove();
              for (const part of document.querySelectorAll(".drawn, .slider, .note, .detail, details")) part.remove();
              document.querySelector("main").style.padding = "0.2rem 1.2rem 1.2rem";
              for (const title of document.querySelectorAll("h2")) title.style.marginTop = "1rem";
            }""",
            kept,
        )
        tab.locator("main").screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main()
