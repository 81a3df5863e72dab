"""Runs of every objective, so small that a step takes milliseconds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.run import Run
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.config import make_config

# A pull so strong and steady that the heads are there within a few hundred steps of milliseconds.
SMALL = {
    "layers": 2, "hidden": 32, "attention_heads": 2, "feed_forward": 64, "block_size": 16, "batch_size": 8,
    "max_steps": 250, "learning_rate": 1e-2, "weight": 5.0, "schedule": "constant", "precision": "fp32",
    "report_to": "none", "eval_every": 250, "save_every": 250, "validation_share": 0.1,
}  # fmt: skip


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Images of waves, each in colours and directions of its own."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    chance = np.random.default_rng(0)
    y, x = np.mgrid[:20, :20] / 20
    for number in range(40):
        waves = [np.sin(5 * (a * x + b * y) + c) for a, b, c in chance.random((3, 3))]
        pixels = ((np.stack(waves, -1) + 1) * 127).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> Path:
    """Noisy recordings of tunes of six notes, half of them with 8,000 samples a second."""
    soundfile = pytest.importorskip("soundfile")
    folder = tmp_path_factory.mktemp("recordings")
    chance = np.random.default_rng(0)
    for number in range(10):
        rate = (8000, 16000)[number % 2]
        time = np.arange(rate // 5) / rate
        notes = [np.sin(2 * np.pi * chance.choice([220, 330, 440, 550, 660, 880]) * time) for _ in range(20)]
        tune = 0.5 * np.concatenate(notes)
        soundfile.write(folder / f"{number}.wav", tune + chance.normal(0, 0.01, len(tune)), rate)
    return folder


@pytest.fixture(scope="session")
def settings(corpus, images, recordings, tmp_path_factory):
    """The settings of a small run of an objective."""
    own = tmp_path_factory.mktemp("own") / "own.py"
    page = Path(__file__).parents[3] / "docs" / "pretraining.md"
    (example,) = re.findall(r"```python\n# reversed.py\n(.+?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    own.write_text(example)

    def of(kind: str, **more):
        special = {
            "mim": {"corpus": [str(images)], "image_size": 16, "patch_size": 4},
            "speech": {"corpus": [str(recordings)], "block_size": 12, "batch_size": 4, "weight": 1.0, "max_steps": 300},
            "mlm+nsp": {"hidden": 48},
            "mlm+sop": {"hidden": 48},
            "own": {"objective": f"{own}:reversed_pieces"},
        }
        text = {"corpus": [str(corpus)], "vocab_size": 280, "heads": "next:1 first@1"}
        if kind in ("mim", "speech"):
            text = {}
        return make_config(SMALL | text | {"objective": kind} | special.get(kind, {}) | more)

    return of


@pytest.fixture(scope="session")
def run_of(settings, tmp_path_factory):
    """A run of an objective, ready to train."""

    def make(objective: str, **more) -> Run:
        config = settings(objective, **more)
        folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
        return Run(config, prepare_data(config, lambda said: None), folder)

    return make
