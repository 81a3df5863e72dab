"""`attention-guidance compare`: train with and without guidance, and report the difference."""

from __future__ import annotations

import dataclasses
import os
import signal
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from attention_guidance.analysis.tokens import token_texts
from attention_guidance.commands import results
from attention_guidance.commands.memory import names_batch_size
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.pretraining.loop.in_turn import GiveTurn, train_in_turn
from attention_guidance.commands.pretraining.loop.peak_memory import peak_memory
from attention_guidance.commands.pretraining.loop.progress import ProgressCallback, progress_bars
from attention_guidance.commands.pretraining.loop.signals import StopOnRequest, StopRequest
from attention_guidance.commands.pretraining.loop.snapshots import AttentionSnapshots, chosen_heads
from attention_guidance.commands.pretraining.matching import with_matched_heads
from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.preparation.prepared import PreparedData
from attention_guidance.commands.pretraining.pretrain import figure
from attention_guidance.commands.pretraining.run import Run
from attention_guidance.commands.pretraining.saving.folder import RESULTS_FILE, RunFolder
from attention_guidance.commands.pretraining.settings.checks import check_heads, check_settings, guided_heads
from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.commands.pretraining.stopped import Stopped
from attention_guidance.commands.printing import Console, Table
from attention_guidance.commands.report.compare_page import write_compare_page
from attention_guidance.commands.setting import for_user
from attention_guidance.commands.workspace import COMPARISON, State
from attention_guidance.errors import ConfigError, DivergedError, RunError

COMPARE_FILE = COMPARISON.finished
PAGE_FILE = "compare.html"
MAPS_FILE = "attention_maps.json"
ARMS = ("guided", "unguided")
STRETCH = 10


@until_done()
@names_batch_size
def compare(
    config: RunConfig,
    output: Path,
    *,
    seeds: Sequence[int] | None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train guided and unguided on the same data, order and initial weights, and compare.

    Args:
        config: Settings of the guided run; the unguided run is the same without `heads`.
        output: Folder of the comparison, with a subfolder for each run.
        seeds: Seeds, with a pair of runs for each; None for the seeds of the comparison to resume.
        resume: Continue with the comparison in the folder.
        overwrite: Replace the comparison in the folder, after the new one has passed all checks; with `resume`, only if
            it has other settings.
        quiet: Print nothing.

    Returns:
        The comparison, as in `compare.json`.

    Raises:
        GuidanceError: The input is invalid; nothing was written.
        DivergedError: A run diverged; the other run of its pair is kept.
        Stopped: A signal stopped the comparison.
    """
    if not config.heads:
        raise ConfigError("compare needs heads to guide; heads='' leaves nothing to compare")
    if not config.guidance_weight:
        raise ConfigError("compare needs a weight above 0; weight=0 leaves nothing to compare")
    if config.max_time is not None:
        raise ConfigError(
            f"compare needs a number of steps; max_time={config.max_time!r} is for pretrain, give `max_steps` instead"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError(
            "compare trains in one process; under torchrun or accelerate launch use pretrain, once with and once "
            "without guidance"
        )
    folder = RunFolder(output, COMPARISON)
    begins = folder.claim(config, resume=resume, overwrite=overwrite) is State.NOTHING
    # Finished seeds stay in the comparison, even if fewer are requested now.
    continues = resume and (seeds is None or not begins)
    existing = _seeds_in(output, finished=seeds is not None) if continues else []
    seeds = sorted({*(seeds or ()), *existing}) or [config.seed]
    console = Console(quiet=quiet)

    def say(note: str) -> None:
        console.print(for_user(note))

    check_settings(config, folder)
    data = prepare_data(config, say, folder.known_tokenizer)
    check_heads(config, data.tokenizer)
    config = with_matched_heads(config, data, folder, say)
    configs = [dataclasses.replace(config, seed=seed) for seed in seeds]
    pairs = [_Pair(seeded, data, output / f"seed-{seeded.seed}", begins) for seeded in configs]
    # Nothing is written before the input has passed all checks.
    folder.begin(config, data.processor)
    for seed in seeds:
        (output / f"seed-{seed}").mkdir(exist_ok=True)
    stop = StopRequest()
    with progress_bars(console, quiet) as bars, stop.listening():
        for pair, seed in zip(pairs, seeds, strict=True):

            def watchers(arm: str, label: str = f"seed {seed} ") -> list[Any]:
                return [ProgressCallback(bars, f"{label}{arm:9}", quiet), StopOnRequest(stop)]

            pair.train(watchers, stop)
    console.print("measuring peak memory")
    memory = _memory(config, folder.tokenizer, console)
    comparison = _comparison(config, data, list(seeds), [pair.results() for pair in pairs], memory)
    snapshots = pairs[0].attention_maps()
    results.write_json(output / MAPS_FILE, snapshots)
    results.write_json(output / COMPARE_FILE, comparison)
    write_compare_page(comparison, snapshots, output / PAGE_FILE)
    _report(console, comparison, output)
    return comparison


def _seeds_in(output: Path, finished: bool) -> list[int]:
    """The seeds of a comparison, all or only those with both runs finished."""
    return [
        int(number)
        for folder in output.glob("seed-*")
        if (number := folder.name.removeprefix("seed-")).isdecimal()
        and (not finished or all((folder / arm / RESULTS_FILE).is_file() for arm in ARMS))
    ]


class _Pair:
    """The guided and the unguided run of one seed."""

    def __init__(self, config: RunConfig, data: PreparedData, folder: Path, begins: bool) -> None:
        self.data = data
        self.configs = {"guided": config, "unguided": dataclasses.replace(config, heads="")}
        self.folders = {arm: RunFolder(folder / arm) for arm in ARMS}
        for arm in ARMS:
            self.folders[arm].claim(self.configs[arm], resume=not begins, overwrite=begins)
            self.folders[arm].check_text(data)

    def train(self, watchers: Callable[[str], list[Any]], stop: StopRequest) -> None:
        """Train the runs that are not finished.

        Args:
            watchers: Creates the callbacks for an arm.
            stop: The stop request that the callbacks check.

        Raises:
            DivergedError: A run diverged; the other was trained and kept.
            Stopped: A stop was requested.
        """
        unfinished = [arm for arm in ARMS if self.folders[arm].finished is None]
        runs = {arm: Run(self.configs[arm], self.data, self.folders[arm], watchers(arm)) for arm in unfinished}
        for arm, run in runs.items():
            if self.data.tokenizer is not None:
                run.trainer.add_callback(self._snapshots(arm, run, self.data.tokenizer))
            run.trainer.add_callback(GiveTurn(STRETCH))
        isolated = {arm: _IsolatedRun(run) for arm, run in runs.items()}
        if not all(train_in_turn(list(isolated.values()))):
            step = min(run.trainer.state.global_step for run in runs.values())
            raise Stopped(step, stop.signal or signal.SIGTERM)
        for each in isolated.values():
            each.finish()
        seed = self.configs["guided"].seed
        diverged = [f"seed {seed}, {arm}: {each.diverged}" for arm, each in isolated.items() if each.diverged]
        if diverged:
            raise DivergedError("; ".join(diverged))

    def results(self) -> dict[str, dict[str, Any]]:
        """The results of both arms, once they are finished."""
        finished = {arm: self.folders[arm].finished for arm in ARMS}
        return {arm: summary for arm, summary in finished.items() if summary is not None}

    def _snapshots(self, arm: str, run: Run, tokenizer: PreTrainedTokenizerBase) -> AttentionSnapshots:
        config = run.config
        encoder = next(iter(run.objective.guided_parts(run.model).values()))
        n_heads = encoder.config.num_attention_heads
        guided = guided_heads(self.configs["guided"], tokenizer, n_heads)
        folder = self.folders[arm].path / "attention"
        ids_T = AttentionSnapshots.shown_ids(self.data.sample, tokenizer, config.block_size)
        return AttentionSnapshots(
            folder, encoder, ids_T, chosen_heads(guided, config.layers, n_heads), config.max_steps
        )

    def attention_maps(self) -> dict[str, Any]:
        """The snapshots of both arms, for `attention_maps.json` and the page."""
        if self.data.tokenizer is None:
            return {"schema_version": results.SCHEMA_VERSION, "text": "", "tokens": [], "snapshots": []}
        snapshots = []
        for arm in ARMS:
            taken = AttentionSnapshots.load(self.folders[arm].path / "attention")
            snapshots += [{"arm": arm} | snapshot for snapshot in taken]
        block_size = self.configs["guided"].block_size
        ids_T = AttentionSnapshots.shown_ids(self.data.sample, self.data.tokenizer, block_size)
        return {
            "schema_version": results.SCHEMA_VERSION,
            "text": self.data.tokenizer.decode(ids_T, skip_special_tokens=True),
            "tokens": token_texts(self.data.tokenizer, ids_T.tolist()),
            "snapshots": snapshots,
        }


class _IsolatedRun:
    """A run whose divergence does not stop the other run of its pair.

    Attributes:
        diverged: The error if the run diverged, else None.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.diverged: DivergedError | None = None

    def train(self) -> bool:
        """Train; return whether the run finished or diverged, rather than being stopped."""
        try:
            return self.run.train()
        except DivergedError as error:
            self.diverged = error
            return True

    def finish(self) -> None:
        """Save the model and results, unless the run diverged."""
        if self.diverged is None:
            try:
                self.run.finish()
            except DivergedError as error:
                self.diverged = error


def _memory(config: RunConfig, tokenizer: Path, console: Console) -> dict[str, float | None]:
    """Peak memory of each arm; None if measuring failed, which must not lose the comparison."""
    arms = {"guided_mib": config, "unguided_mib": dataclasses.replace(config, heads="")}
    memory: dict[str, float | None] = dict.fromkeys((*arms, "ratio"))
    try:
        memory |= {name: peak_memory(arm, tokenizer) for name, arm in arms.items()}
    except (RuntimeError, OSError) as error:
        console.print(str(error))
    return memory | {"ratio": _ratio(memory["guided_mib"], memory["unguided_mib"])}


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _comparison(
    config: RunConfig,
    data: PreparedData,
    seeds: list[int],
    pairs: list[dict[str, dict[str, Any]]],
    memory: dict[str, float | None],
) -> dict[str, Any]:
    """The content of `compare.json`; its keys are described in the docs."""
    by_seed = [_compare_pair(seed, pair, config.max_steps) for seed, pair in zip(seeds, pairs, strict=True)]
    return {
        **results.header("compare"),
        "config": dataclasses.asdict(config),
        "corpus": data.name,
        "heads": config.heads,
        "weight": None if config.relative_weight else config.weight,
        "relative_weight": config.relative_weight,
        "model": pairs[0]["guided"]["model"],
        "predicts": pairs[0]["guided"].get("predicts", "masked tokens"),
        "gives_perplexity": pairs[0]["guided"].get("gives_perplexity", True),
        "steps": config.max_steps,
        "tokens_per_step": config.batch_size * data.train.width,
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
        "guidance_weight",
        "resumed_from",
    )
    goal, end = unguided["final_loss"], guided["final_loss"]
    reached = (p for p in guided["curve"] if None not in (goal, p["loss"]) and p["loss"] <= goal)
    match = next(reached, None)
    return {
        "seed": seed,
        **{
            arm: {key: pair[arm].get(key) for key in kept} | {"warnings": pair[arm].get("warnings", [])} for arm in ARMS
        },
        "steps_to_match": match["step"] if match else None,
        "steps_ratio": match["step"] / max_steps if match else None,
        "final_loss_difference": None if None in (goal, end) else end - goal,
        "step_time_ratio": _ratio(guided["step_seconds_p50"], unguided["step_seconds_p50"]),
        "wall_clock_ratio": _ratio(match["seconds"], unguided["train_seconds"]) if match else None,
    }


def verdict(seeds: Sequence[dict[str, Any]], max_steps: int) -> str:
    """Describe the result of the comparison in a few sentences, whichever arm is better.

    Args:
        seeds: Results by seed, as in `compare.json`.
        max_steps: Steps of each run.
    """
    comparable = [seed for seed in seeds if seed["unguided"]["final_loss"] is not None]
    sentences = [_reached([seed["steps_ratio"] for seed in comparable], max_steps)] if comparable else []
    differences = [d for seed in seeds if (d := seed["final_loss_difference"]) is not None]
    if differences:
        sentences.append(_end(differences))
    for arm in ARMS:
        n_diverged = sum(seed[arm]["final_loss"] is None for seed in seeds)
        if n_diverged:
            some = "" if len(seeds) == 1 else f" in {n_diverged} of {len(seeds)} seeds"
            sentences.append(f"{arm.capitalize()} training diverged{some}: its final loss is not a number.")
    return " ".join(sentences)


def _reached(ratios: list[float | None], max_steps: int) -> str:
    reached = [ratio for ratio in ratios if ratio is not None]
    if not reached:
        return f"Guided did not reach unguided's final validation loss within {max_steps:,} steps."
    mean = statistics.mean(reached)
    some = "" if len(reached) == len(ratios) else f" in {len(reached)} of {len(ratios)} seeds"
    return (
        f"Guided reached unguided's final validation loss{some} after {mean * max_steps:,.0f} of {max_steps:,} steps "
        f"({mean:.2f} of the steps{_mean_of(reached, ', {}')})."
    )


def _end(differences: list[float]) -> str:
    mean = statistics.mean(differences)
    if abs(mean) < 0.005:
        return f"At the end the two losses are level{_mean_of(differences)}."
    direction = "lower" if mean < 0 else "higher"
    return f"At the end its loss is {abs(mean):.2f} nats {direction} than unguided's{_mean_of(differences)}."


def _mean_of(values: list[float], form: str = " ({})") -> str:
    return "" if len(values) == 1 else form.format(f"mean of {len(values)} seeds")


def _report(console: Console, comparison: dict[str, Any], output: Path) -> None:
    table = Table(title=f"Validation loss after {comparison['steps']:,} steps", caption=comparison["verdict"])
    for heading in ("seed", "unguided", "guided", "difference", "steps ratio", "step time ratio", "wall clock ratio"):
        table.add_column(heading, justify="right")
    for seed in comparison["seeds"]:
        unmatched = "–" if seed["unguided"]["final_loss"] is None else "never"
        table.add_row(
            str(seed["seed"]),
            figure(seed["unguided"]["final_loss"], "{:.3f}"),
            figure(seed["guided"]["final_loss"], "{:.3f}"),
            figure(seed["final_loss_difference"], "{:+.3f}", "–"),
            figure(seed["steps_ratio"], "{:.2f}", unmatched),
            figure(seed["step_time_ratio"], "{:.2f}", "–"),
            figure(seed["wall_clock_ratio"], "{:.2f}", unmatched),
        )
    console.print(table)
    for seed in comparison["seeds"]:
        for arm in ARMS:
            for warning in seed[arm]["warnings"]:
                console.print(f"warning: seed {seed['seed']}, {arm}: {for_user(warning)}")
    memory = comparison["peak_memory"]
    guided, unguided, ratio = (
        figure(memory[key], form, "not measured")
        for key, form in (("guided_mib", "{:.0f} MiB"), ("unguided_mib", "{:.0f} MiB"), ("ratio", "{:.2f}"))
    )
    console.print(f"peak memory: guided {guided}, unguided {unguided} (ratio {ratio})")
    console.print(f"figures {output / COMPARE_FILE}   page {output / PAGE_FILE}")
