"""What a census costs in time and memory, and how fast the page of a report is; for looking.py."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from attention_guidance import get_pattern
from attention_guidance.analysis.census import take_census
from attention_guidance.patterns import Pattern, TokenClass

from ..turns import step_time, take_turns


def big_model() -> tuple[BertModel, torch.Tensor, list[Pattern]]:
    """A random BERT-base, sequences of 512 tokens with a full stop every twenty, and the usual patterns."""
    torch.manual_seed(0)
    model = BertModel(BertConfig(), add_pooling_layer=False).eval()
    ids_BT = torch.randint(1000, 30_000, (64, 512))
    ids_BT[:, ::20], ids_BT[:, -1] = 7, 8
    classes = [TokenClass("period", (7,)), TokenClass("delimiter", (8,))]
    return model, ids_BT, [*map(get_pattern, ("next", "previous", "same", "first")), *classes]


class Plain:
    """Forward passes alone."""

    def __init__(self, model: BertModel, inputs: Sequence[Mapping[str, torch.Tensor]]) -> None:
        self.model, self.inputs = model, inputs

    def step(self) -> float:
        """Once; the seconds it took."""
        begin = time.perf_counter()
        with torch.no_grad():
            for batch in self.inputs:
                self.model(**batch)
        return time.perf_counter() - begin


class Counted(Plain):
    """The same with a census."""

    def __init__(
        self, model: BertModel, inputs: Sequence[Mapping[str, torch.Tensor]], patterns: Sequence[Pattern]
    ) -> None:
        super().__init__(model, inputs)
        self.patterns = patterns

    def step(self) -> float:
        """Once; the seconds it took."""
        begin = time.perf_counter()
        take_census(self.model, self.inputs, self.patterns)
        return time.perf_counter() - begin


def census_cost(rounds: int, sequences: int) -> Iterator[dict[str, Any]]:
    model, ids_BT, patterns = big_model()
    inputs = [{"input_ids": ids_BT[:sequences]}]
    times = take_turns({"plain": Plain(model, inputs), "census": Counted(model, inputs, patterns)}, rounds, 400)
    yield {
        "part": "census time",
        "tokens": 512,
        "heads": "12 x 12",
        "sequences": sequences,
        "rounds": len(times["plain"]),
    } | {
        "seconds": float(np.median(times["census"])),
        **step_time(times["census"], times["plain"]),
    }
    peaks = {
        n: int(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.heads.looking", "memory", "--sequences", str(n)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for n in (8, 64)
    }
    yield {"part": "census memory", "peak_mib": peaks, "ratio": peaks[64] / peaks[8]}


def peak_of_census(sequences: int) -> int:
    """The process's peak memory in MiB after a census of so many sequences, eight at a time."""
    model, ids_BT, patterns = big_model()
    take_census(model, ({"input_ids": ids_BT[i : i + 8]} for i in range(0, sequences, 8)), patterns)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def page() -> Iterator[dict[str, Any]]:
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    binary = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if binary is None:
        raise SystemExit(f"error: no browser ({', '.join(names)}); install one or set CHROMIUM")
    with tempfile.TemporaryDirectory() as folder:
        run, made = Path(folder) / "run", Path(folder) / "report"
        size = "--layers 12 --attention-heads 12 --hidden 96 --feed-forward 96 --block-size 64 --batch-size 8"
        kept = "--max-steps 20 --save-every 1 --keep-checkpoints 20 --eval-every 20 --report-to none --quiet"
        _command("pretrain", "-o", str(run), *size.split(), *kept.split())
        _command("report", str(run), "-o", str(made), "--sequences", "8", "--quiet")
        file = made / "report.html"
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=binary, args=["--no-sandbox", "--disable-gpu"])
            opened = []
            for _ in range(5):
                tab = browser.new_page(viewport={"width": 1280, "height": 800})
                begin = time.perf_counter()
                tab.goto(file.as_uri(), wait_until="load")
                opened.append(time.perf_counter() - begin)
            # Every step of the slider, from the change to the next frame that shows it.
            moved = tab.evaluate(_MOVE_THE_SLIDER)
            version = browser.version
            browser.close()
    yield {
        "part": "page", "checkpoints": 20, "heads": "12 x 12", "bytes": moved["bytes"], "browser": version,
        "open_seconds": float(np.median(opened)), "open_seconds_worst": max(opened),
        "slider_steps": len(moved["frames"]), "slider_milliseconds": float(np.median(moved["work"])),
        "slider_milliseconds_worst": max(moved["work"]), "frame_milliseconds_worst": max(moved["frames"]),
    }  # fmt: skip


_MOVE_THE_SLIDER = """async () => {
  const slider = document.getElementById("training"), work = [], frames = [];
  for (let step = 0; step <= Number(slider.max); step++) {
    const begin = performance.now();
    slider.value = step;
    slider.dispatchEvent(new Event("input"));
    document.body.getBoundingClientRect();
    work.push(performance.now() - begin);
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    frames.push(performance.now() - begin);
  }
  return { work, frames, bytes: document.documentElement.outerHTML.length };
}"""


def _command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "attention_guidance", *arguments], check=True)
