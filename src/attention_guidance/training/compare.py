"""`attention-guidance compare`: the same run with and without guidance, and what the difference is."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from attention_guidance import results
from attention_guidance.errors import ConfigError, RunError
from attention_guidance.report.compare_page import write_compare_page
from attention_guidance.training.config import CONFIG_FILE, RunConfig, check_same_run, write_yaml
from attention_guidance.training.in_turn import GiveTurn, train_in_turn
from attention_guidance.training.peak_memory import peak_memory
from attention_guidance.training.prepare import PreparedData, prepare_data
from attention_guidance.training.pretrain import Stopped
from attention_guidance.training.progress import ProgressCallback, progress_bars
from attention_guidance.training.run import Run, RunFolder
from attention_guidance.training.signals import StopOnRequest, StopRequest
from attention_guidance.training.snapshots import AttentionSnapshots, chosen_heads

COMPARE_FILE = "compare.json"
PAGE_FILE = "compare.html"
MAPS_FILE = "attention_maps.json"
ARMS = ("guided", "unguided")
_STRETCH = 10


def compare(
    config: RunConfig, output: Path, *, seeds: Sequence[int], resume: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Train guided and unguided on the same data, order and initial weights, and compare.

    Args:
        config: the guided run; the unguided one is the same without `heads`.
        output: the folder of the comparison; each run has its own in it.
        seeds: one pair of runs is trained for each.
        resume: go on with the comparison in that folder.
        quiet: print nothing.

    Returns:
        The comparison, as in the folder's `compare.json`.

    Raises:
        GuidanceError: bad input, before anything is written.
        Stopped: a signal asked to stop.
    """
    if not config.heads:
        raise ConfigError("compare needs heads to guide; heads='' leaves nothing to compare")
    console = Console(quiet=quiet)
    _claim(config, output, resume)
    tokenizer_folder = output / "tokenizer"
    data = prepare_data(config, console.print, tokenizer_folder)
    stop = StopRequest()
    pairs: list[dict[str, dict[str, Any]]] = []
    snapshots: dict[str, Any] | None = None
    with progress_bars(console, quiet) as bars:
        for seed in seeds:
            pair = _Pair(dataclasses.replace(config, seed=seed), data, output / f"seed-{seed}")

            def watchers(arm: str, label: str = f"seed {seed} ") -> list[Any]:
                return [ProgressCallback(bars, f"{label}{arm:9}", quiet), StopOnRequest(stop)]

            pair.make_runs(watchers)
            if not tokenizer_folder.exists():
                # Nothing is written before all that can be wrong with the input has been looked at.
                output.mkdir(parents=True, exist_ok=True)
                write_yaml(config, output / CONFIG_FILE)
                data.tokenizer.save_pretrained(tokenizer_folder)
            with stop.listening():
                pairs.append(pair.train(stop))
            snapshots = snapshots or pair.attention_maps()
    console.print("measuring peak memory")
    memory = _memory(config, tokenizer_folder)
    comparison = _comparison(config, data, list(seeds), pairs, memory)
    if snapshots is not None:
        results.write_json(output / MAPS_FILE, snapshots)
    results.write_json(output / COMPARE_FILE, comparison)
    write_compare_page(comparison, snapshots, output / PAGE_FILE)
    _report(console, comparison, output)
    return comparison


def _claim(config: RunConfig, output: Path, resume: bool) -> None:
    """Make sure that the folder is free, or holds this comparison to be resumed (perhaps with more seeds)."""
    if (output / CONFIG_FILE).exists():
        if not resume:
            raise RunError(f"--output {output} holds a run already: go on with --resume, or give another folder")
        check_same_run(config, output / CONFIG_FILE)
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RunError(f"--output {output} is not an empty folder and holds no comparison; give another")


class _Pair:
    """The guided and the unguided run of one seed."""

    def __init__(self, config: RunConfig, data: PreparedData, folder: Path) -> None:
        self.data = data
        self.configs = {"guided": config, "unguided": dataclasses.replace(config, heads="")}
        self.folders = {arm: RunFolder(folder / arm) for arm in ARMS}
        self.runs: dict[str, Run] = {}
        self.snapshots: dict[str, AttentionSnapshots] = {}

    def make_runs(self, watchers: Callable[[str], list[Any]]) -> None:
        """Prepare the runs that have not ended yet."""
        shown: list[dict[str, Any]] = []
        for arm in ARMS:
            config, folder = self.configs[arm], self.folders[arm]
            folder.claim(config, resume=True)
            if folder.finished is not None:
                continue
            run = self.runs[arm] = Run(config, self.data, folder, watchers(arm))
            if run.guidance is not None:
                shown = chosen_heads(run.guidance.heads, config.layers, config.attention_heads)
        for arm, run in self.runs.items():
            pictures = AttentionSnapshots(
                self.folders[arm].path / "attention",
                self.data.sample,
                self.data.tokenizer,
                shown,
                run.config.max_steps,
            )
            self.snapshots[arm] = pictures
            run.trainer.add_callback(pictures)
            run.trainer.add_callback(GiveTurn(_STRETCH))

    def train(self, stop: StopRequest) -> dict[str, dict[str, Any]]:
        """Train what has not ended, and give the results of both arms."""
        for arm, run in self.runs.items():
            self.folders[arm].begin(run.config, self.data)
        ended = train_in_turn(list(self.runs.values()))
        if not all(ended):
            step = min(run.trainer.state.global_step for run in self.runs.values())
            raise Stopped(step, stop.signal or 15)
        for run in self.runs.values():
            run.finish()
        finished = {arm: self.folders[arm].finished for arm in ARMS}
        return {arm: summary for arm, summary in finished.items() if summary is not None}

    def attention_maps(self) -> dict[str, Any]:
        """The snapshots of both arms, for `attention_maps.json` and the page."""
        snapshots = []
        for arm in ARMS:
            taken = AttentionSnapshots.load(self.folders[arm].path / "attention")
            snapshots += [{"arm": arm} | snapshot for snapshot in taken]
        ids_T = AttentionSnapshots.shown_ids(self.data.sample, self.data.tokenizer)
        return {
            "schema_version": results.SCHEMA_VERSION,
            "text": self.data.tokenizer.decode(ids_T, skip_special_tokens=True),
            "tokens": self.data.tokenizer.convert_ids_to_tokens(ids_T.tolist()),
            "snapshots": snapshots,
        }


def _memory(config: RunConfig, tokenizer: Path) -> dict[str, float]:
    guided = peak_memory(config, tokenizer)
    unguided = peak_memory(dataclasses.replace(config, heads=""), tokenizer)
    return {"guided_mib": guided, "unguided_mib": unguided, "ratio": guided / unguided}


def _comparison(
    config: RunConfig,
    data: PreparedData,
    seeds: list[int],
    pairs: list[dict[str, dict[str, Any]]],
    memory: dict[str, float],
) -> dict[str, Any]:
    """The content of `compare.json`; its keys are described in the docs."""
    by_seed = [_compare_pair(seed, pair, config.max_steps) for seed, pair in zip(seeds, pairs, strict=True)]
    return {
        **results.header("compare"),
        "config": dataclasses.asdict(config),
        "corpus": data.name,
        "heads": config.heads,
        "weight": config.weight,
        "model": pairs[0]["guided"]["model"],
        "steps": config.max_steps,
        "tokens_per_step": config.batch_size * config.block_size,
        "seeds": by_seed,
        "peak_memory": memory,
        "verdict": verdict(by_seed, config.max_steps),
    }


def _compare_pair(seed: int, pair: dict[str, dict[str, Any]], max_steps: int) -> dict[str, Any]:
    guided, unguided = pair["guided"], pair["unguided"]
    kept = (
        "curve",
        "final_loss",
        "final_perplexity",
        "final_accuracy",
        "train_seconds",
        "step_seconds_p50",
        "guidance",
        "resumed_from",
    )
    match = next((p for p in guided["curve"] if p["loss"] is not None and p["loss"] <= unguided["final_loss"]), None)
    return {
        "seed": seed,
        **{arm: {key: pair[arm][key] for key in kept} for arm in ARMS},
        "steps_to_match": match["step"] if match else None,
        "steps_ratio": match["step"] / max_steps if match else None,
        "final_loss_difference": guided["final_loss"] - unguided["final_loss"],
        "step_time_ratio": guided["step_seconds_p50"] / unguided["step_seconds_p50"],
        "wall_clock_ratio": match["seconds"] / unguided["train_seconds"] if match else None,
    }


def verdict(seeds: Sequence[dict[str, Any]], max_steps: int) -> str:
    """What the comparison shows, in a sentence or two; the same care for all outcomes."""
    difference = statistics.mean(seed["final_loss_difference"] for seed in seeds)
    of_seeds = "" if len(seeds) == 1 else f" (mean of {len(seeds)} seeds)"
    end = (
        f"At the end its loss is {abs(difference):.2f} nats {'lower' if difference < 0 else 'higher'} than unguided's"
        f"{of_seeds}."
    )
    ratios = [seed["steps_ratio"] for seed in seeds]
    if all(ratio is None for ratio in ratios):
        return f"Guided did not reach unguided's final validation loss within {max_steps:,} steps. {end}"
    reached = [ratio for ratio in ratios if ratio is not None]
    steps = statistics.mean(reached) * max_steps
    some = "" if len(reached) == len(ratios) else f" in {len(reached)} of {len(ratios)} seeds"
    return (
        f"Guided reached unguided's final validation loss{some} after {steps:,.0f} of {max_steps:,} steps "
        f"({statistics.mean(reached):.2f} of the steps{of_seeds}). {end}"
    )


def _report(console: Console, comparison: dict[str, Any], output: Path) -> None:
    table = Table(title=f"Validation loss after {comparison['steps']:,} steps", caption=comparison["verdict"])
    for heading in ("seed", "unguided", "guided", "difference", "steps ratio", "step time ratio", "wall clock ratio"):
        table.add_column(heading, justify="right")
    for seed in comparison["seeds"]:
        table.add_row(
            str(seed["seed"]),
            f"{seed['unguided']['final_loss']:.3f}",
            f"{seed['guided']['final_loss']:.3f}",
            f"{seed['final_loss_difference']:+.3f}",
            *(
                "never" if seed[key] is None else f"{seed[key]:.2f}"
                for key in ("steps_ratio", "step_time_ratio", "wall_clock_ratio")
            ),
        )
    console.print(table)
    memory = comparison["peak_memory"]
    console.print(
        f"peak memory: guided {memory['guided_mib']:.0f} MiB, unguided {memory['unguided_mib']:.0f} MiB "
        f"(ratio {memory['ratio']:.2f})",
        highlight=False,
    )
    console.print(f"figures {output / COMPARE_FILE}   page {output / PAGE_FILE}", highlight=False)
