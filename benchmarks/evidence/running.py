"""Make the runs of a study with the product's own trainer, and keep each result as soon as it is known."""

from __future__ import annotations

import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data import flags_of, prepared, unigram_entropy
from .defaults import defaults_of
from .study import BASE, Kept, Record, Spec, Study, append


@dataclass(frozen=True)
class Place:
    """Where runs read and write.

    Attributes:
        work: Folder for the files of runs that are being made; nothing is left there.
        data: Folder of texts.
        results: File of results.
    """

    work: Path
    data: Path
    results: Path


def run_study(study: Study, kept: Kept, seeds: Sequence[int] | None, jobs: int, place: Place) -> None:
    """Make the runs of a study that are not kept.

    Raises:
        GuidanceError: The data are not there.
    """
    place.work.mkdir(parents=True, exist_ok=True)
    # The results of some runs decide which others are made.
    while left := study.left(kept, seeds):
        print(f"{study.name}: {len(left)} runs to make", file=sys.stderr, flush=True)
        for record in _made(left, jobs, place):
            append(place.results, record)
            kept.add(record)
            loss = "diverged" if record["loss"] is None else f"{record['loss']:.3f}"
            print(f"{loss} in {record['cpu_seconds']:.0f} s: {_named(record)}", file=sys.stderr, flush=True)


def _made(specs: list[Spec], jobs: int, place: Place) -> Iterator[Record]:
    if jobs == 1:
        yield from (train(spec, place) for spec in specs)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for made in as_completed([pool.submit(train, spec, place) for spec in specs]):
            yield made.result()


def _named(record: Record) -> str:
    of_run = {name: value for name, value in record["settings"].items() if BASE.get(name, ...) != value}
    return " ".join(f"{name}={value}" for name, value in {**of_run, "seed": record["seed"]}.items()) + (
        f" change={record['change']}" if record["change"] else ""
    )


def train(spec: Spec, place: Place) -> Record:
    """Make one run; a run that diverges has a result without a loss.

    Raises:
        GuidanceError: The data are not there, or a setting is wrong.
    """
    import torch
    from transformers.utils import logging

    from attention_guidance.commands.pretraining.run import Run
    from attention_guidance.commands.pretraining.saving.folder import RunFolder
    from attention_guidance.commands.pretraining.settings.config import make_config
    from attention_guidance.commands.results import header
    from attention_guidance.errors import DivergedError

    from .changes import CHANGES
    from .watches import WATCHES

    logging.set_verbosity_error()
    torch.set_num_threads(1)
    began = time.process_time()
    with tempfile.TemporaryDirectory(dir=place.work) as folder:
        given = flags_of(spec, place.data, Path(folder))
        config = make_config(given | {"report_to": "none", "save_every": given["max_steps"]})
        data = prepared(spec, config)
        run = Run(config, data, RunFolder(Path(folder) / "run"))
        if spec.change:
            run.trainer.add_callback(CHANGES[spec.change](run))
        watch = WATCHES[spec.watch](run, place.data) if spec.watch else None
        if watch is not None:
            run.trainer.add_callback(watch)
        try:
            run.train()
            summary = run.summary()
            run.trainer.check_finite(summary["final_loss"])
            found = _found(summary)
        except DivergedError:
            found = {"loss": None, "accuracy": None, "curve": _curve(run.curve())}
    return {
        **{name: value for name, value in header("evidence").items() if name != "command"},
        **spec.identity,
        "defaults": defaults_of(spec.flags),
        "unigram_entropy": unigram_entropy(data),
        **found,
        **({"watched": watch.found} if watch is not None else {}),
        "cpu_seconds": round(time.process_time() - began, 2),
    }


def _found(summary: dict[str, Any]) -> dict[str, Any]:
    """What is kept of `results.json`."""
    by_pattern: dict[str, list[float]] = {}
    for head in summary["guidance"]:
        by_pattern.setdefault(head["pattern"], []).append(head["error"])
    return {
        "loss": round(summary["final_loss"], 5),
        "accuracy": summary["final_accuracy"],
        "means": summary["final_means"],
        "model": summary["model"],
        "precision": summary["precision"],
        "train_tokens": summary["data"]["train_tokens"],
        "skipped_steps": summary["skipped_steps"],
        "train_seconds": round(summary["train_seconds"], 2),
        "guidance_error": {name: round(sum(errors) / len(errors), 5) for name, errors in by_pattern.items()},
        "curve": _curve(summary["curve"]),
    }


def _curve(curve: list[dict[str, Any]]) -> list[list[float]]:
    return [[point["step"], round(point["loss"], 4)] for point in curve if math.isfinite(point["loss"])]
