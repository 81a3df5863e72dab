from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from attention_guidance.commands.pretraining import compare as compare_module
from attention_guidance.commands.pretraining.compare import ARMS, verdict
from attention_guidance.commands.pretraining.saving.checkpoints import checkpoints, step_of
from attention_guidance.commands.pretraining.settings.config import make_config

HEADER = {"schema_version", "kind", "date", "versions", "device", "command", "config", "corpus", "model", "steps"}
OF_OBJECTIVE = {"final_means", "predicts", "gives_perplexity"}
ARM = {
    "curve",
    "final_loss",
    "final_perplexity",
    "final_accuracy",
    "train_seconds",
    "step_seconds_p50",
    "guidance",
    "guidance_weight",
    "resumed_from",
    "warnings",
}


def strict_json(path: Path) -> dict[str, Any]:
    """NaN and Infinity are no JSON."""
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in {path}"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same(folder: Path, other: Path) -> bool:
    ours, theirs = weights(folder), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def state_of(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory, arguments: list[str], cli: Callable[..., int]) -> Path:
    """The folder of a comparison of one seed, peak memory measured in earnest."""
    folder = tmp_path_factory.mktemp("comparison") / "compare"
    folder.mkdir()  # an empty folder that is there already will do
    ballast = b"x" * (400 << 20)
    assert cli("compare", *arguments, "-o", folder, "-q") == 0
    assert ballast
    return folder


@pytest.fixture
def copied(comparison: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(comparison, tmp_path / "compare"))


@pytest.fixture
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "peak_memory", lambda config, tokenizer: 150.0 if config.heads else 100.0)


def test_what_a_comparison_leaves(comparison):
    assert {path.name for path in comparison.iterdir()} == {
        *("run.yaml", "tokenizer", "seed-1", "compare.json", "compare.html", "attention_maps.json")
    }
    result = strict_json(comparison / "compare.json")
    assert set(result) == HEADER | {
        "heads",
        "weight",
        "relative_weight",
        "predicts",
        "gives_perplexity",
        "tokens_per_step",
        "seeds",
        "peak_memory",
        "verdict",
    }
    assert (result["schema_version"], result["kind"], result["steps"], result["heads"]) == (1, "compare", 60, "next:1")
    (seed,) = result["seeds"]
    assert set(seed) == {
        *("seed", *ARMS, "steps_to_match", "steps_ratio", "final_loss_difference"),
        *("step_time_ratio", "wall_clock_ratio"),
    }
    for arm in ARMS:
        assert set(seed[arm]) == ARM
        assert [set(point) for point in seed[arm]["curve"]] == [{"step", "loss", "accuracy", "seconds"}] * 7
        assert [point["step"] for point in seed[arm]["curve"]] == [0, 10, 20, 30, 40, 50, 60]
        assert seed[arm]["curve"][-1]["loss"] == seed[arm]["final_loss"]
        assert seed[arm]["final_perplexity"] == pytest.approx(math.exp(seed[arm]["final_loss"]))
    assert seed["guided"]["curve"][0]["loss"] == seed["unguided"]["curve"][0]["loss"]
    assert [set(head) for head in seed["guided"]["guidance"]] == [{"layer", "head", "pattern", "error"}]
    assert seed["unguided"]["guidance"] == []
    assert [seed[arm]["guidance_weight"] for arm in ("guided", "unguided")] == [{"model": result["weight"]}, {}]
    assert (result["weight"], result["relative_weight"]) == (0.1, None)


def test_results_of_each_run(comparison):
    for arm in ARMS:
        run = strict_json(comparison / "seed-1" / arm / "results.json")
        assert (
            set(run)
            == HEADER | ARM | {"data", "new_tokens", "tokens_per_step", "precision", "skipped_steps"} | OF_OBJECTIVE
        )
        assert set(run["data"]) == {
            *("documents", "train_tokens", "validation_tokens", "validation_in_training", "fingerprint")
        }
        assert set(run["model"]) == {"type", "layers", "hidden", "heads", "parameters", "vocabulary"}
        assert run["config"]["heads"] == ("next:1" if arm == "guided" else "")


def test_peak_memory_is_that_of_training_alone(comparison):
    memory = strict_json(comparison / "compare.json")["peak_memory"]
    assert set(memory) == {"guided_mib", "unguided_mib", "ratio"}
    # The process that asked held more than 400 MiB.
    assert 0 < memory["unguided_mib"] < 200
    assert 0 < memory["guided_mib"] < 200


def test_peak_memory_of_a_run_with_a_setting_that_does_nothing(comparison):
    """As a file of settings may have."""
    config = make_config({}, comparison / "seed-1" / "guided" / "run.yaml")
    idle = dataclasses.replace(config, generator_share=0.25)
    assert compare_module.peak_memory(idle, comparison / "tokenizer") > 0


def test_attention_is_kept_at_the_beginning_at_1_percent_and_at_the_end(comparison):
    maps = strict_json(comparison / "attention_maps.json")
    assert {(shot["arm"], shot["step"], shot["share"]) for shot in maps["snapshots"]} == {
        (arm, step, share) for arm in ARMS for step, share in ((0, 0.0), (1, 0.01), (60, 1.0))
    }
    heads = [(0, 0, "next"), (0, 1, None)]
    for shot in maps["snapshots"]:
        assert [(head["layer"], head["head"], head["pattern"]) for head in shot["maps"]] == heads
        for head in shot["maps"]:
            sums = torch.tensor(head["weights"]).sum(-1)
            assert sums.shape == (len(maps["tokens"]),)
            torch.testing.assert_close(sums, torch.ones_like(sums), atol=2e-3, rtol=0)


def test_the_arms_are_what_they_are_alone(comparison, whole_run, arguments, cli, tmp_path):
    assert same(comparison / "seed-1" / "guided", whole_run)
    assert cli("pretrain", *arguments, "--heads", "", "-o", tmp_path / "unguided", "-q") == 0
    assert same(comparison / "seed-1" / "unguided", tmp_path / "unguided")
    assert not same(comparison / "seed-1" / "guided", comparison / "seed-1" / "unguided")


@pytest.mark.usefixtures("no_measuring")
def test_more_seeds_are_added(copied, arguments, cli, capsys):
    before = state_of(copied / "seed-1")
    assert cli("compare", *arguments, "-o", copied, "--resume", "--seeds", 2) == 0
    assert state_of(copied / "seed-1") == before
    result = strict_json(copied / "compare.json")
    assert [seed["seed"] for seed in result["seeds"]] == [1, 2]
    one, two = result["seeds"]
    assert one["guided"]["final_loss"] != two["guided"]["final_loss"]
    assert result["peak_memory"] == {"guided_mib": 150.0, "unguided_mib": 100.0, "ratio": 1.5}
    said = capsys.readouterr().out
    assert "seed 2 guided" in said
    assert "seed 1 guided" not in said
    # Both stay, also when one is asked for.
    assert cli("compare", *arguments, "-o", copied, "--resume", "--seeds", 1, "-q") == 0
    assert [seed["seed"] for seed in strict_json(copied / "compare.json")["seeds"]] == [1, 2]


@pytest.mark.usefixtures("no_measuring")
def test_stopped_and_resumed(comparison, arguments, cli, tmp_path, capfd):
    folder = tmp_path / "compare"
    guided = folder / "seed-1" / "guided"

    def terminate() -> None:
        while not any(step_of(path) >= 33 for path in checkpoints(guided / "checkpoints")):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    code = cli("compare", *arguments, "-o", folder, "-q")
    thread.join()
    assert code == 143
    assert capfd.readouterr().err.startswith("error: stopped by SIGTERM after step 3")
    taken = state_of(guided / "attention")
    assert {path.name for path in taken} == {"step-0.json", "step-1.json"}
    assert cli("compare", *arguments, "-o", folder, "-q", "--resume") == 0
    assert {path: state for path, state in state_of(guided / "attention").items() if path in taken} == taken
    for arm in ARMS:
        assert same(folder / "seed-1" / arm, comparison / "seed-1" / arm)
    (seed,) = strict_json(folder / "compare.json")["seeds"]
    (whole,) = strict_json(comparison / "compare.json")["seeds"]
    for arm in ARMS:
        assert seed[arm]["resumed_from"] >= 30
        assert [p["loss"] for p in seed[arm]["curve"]] == [p["loss"] for p in whole[arm]["curve"]]
        seconds = [point["seconds"] for point in seed[arm]["curve"]]
        assert sorted(set(seconds)) == seconds
    assert (folder / "attention_maps.json").read_bytes() == (comparison / "attention_maps.json").read_bytes()


@pytest.mark.usefixtures("no_measuring")
def test_a_damaged_model_is_made_again(comparison, copied, cli, caplog):
    model = copied / "seed-1" / "guided" / "model"
    with (model / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    assert cli("compare", "-o", copied, "--resume", "-q") == 0
    assert [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()] == [
        f"{model} is damaged (model.safetensors has changed); it is made again from the last checkpoint"
    ]
    assert same(copied / "seed-1" / "guided", comparison / "seed-1" / "guided")


def test_resumed_alone_it_takes_its_own_settings_and_seeds(copied, arguments, cli, tmp_path, capsys):
    """Two seeds were asked for; stopped after the first, with its corpus moved meanwhile."""
    (copied / "seed-2").mkdir()
    for name in ("compare.json", "compare.html", "attention_maps.json"):
        (copied / name).unlink()
    corpus = tmp_path / "moved.txt"
    shutil.copy(arguments[0], corpus)
    given = [corpus, "--keep-checkpoints", "1", "--set", "dataloader_num_workers=1"]
    assert cli("compare", *given, "-o", copied, "--resume", "-q") == 0
    assert [seed["seed"] for seed in strict_json(copied / "compare.json")["seeds"]] == [1, 2]
    assert cli("compare", "-o", copied, "--resume", "-q") == 0
    assert strict_json(copied / "compare.json")["config"]["corpus"] == [str(corpus)]
    capsys.readouterr()
    assert cli("compare", "-o", copied, "--resume", "--max-steps", "80") == 2
    assert "let it finish, then continue training its model in another --output with --init-from one of its runs" in (
        capsys.readouterr().err
    )


@pytest.mark.usefixtures("no_measuring")
def test_a_comparison_that_never_made_a_step_holds_no_folder(arguments, cli, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as broken:
        broken.setattr("attention_guidance.commands.pretraining.loop.trainer.PretrainingTrainer.training_step", fail)
        assert cli("compare", *arguments, "--seed", "7", "--batch-size", "8", "-o", tmp_path / "run", "-q") == 1
    assert (tmp_path / "run" / "seed-7" / "guided" / "attention").exists()
    short = ["--max-steps", "4", "--save-every", "4", "--eval-every", "4"]
    assert cli("compare", *arguments, *short, "-o", tmp_path / "run", "-q") == 0
    assert [seed["seed"] for seed in strict_json(tmp_path / "run" / "compare.json")["seeds"]] == [1]
    assert not (tmp_path / "run" / "seed-7").exists()


def test_memory_that_cannot_be_measured_costs_nothing_else(copied, arguments, cli, capsys, monkeypatch):
    def fail(config: object, tokenizer: Path) -> float:
        raise RuntimeError("measuring peak memory failed: MemoryError")

    monkeypatch.setattr(compare_module, "peak_memory", fail)
    assert cli("compare", *arguments, "-o", copied, "--resume") == 0
    memory = strict_json(copied / "compare.json")["peak_memory"]
    assert memory == {"guided_mib": None, "unguided_mib": None, "ratio": None}
    said = capsys.readouterr().out
    assert "measuring peak memory failed: MemoryError" in said
    assert "guided not measured" in said


@pytest.mark.usefixtures("no_measuring")
def test_runs_that_diverge(arguments, cli, tmp_path, capsys):
    wild = [*arguments, "--learning-rate", "1e6", "--max-grad-norm", "0", "--max-steps", "8", "-q", "-o"]
    for again in ([], ["--resume"]):
        assert cli("compare", *wild, tmp_path / "compare", *again) == 1
        (line,) = capsys.readouterr().err.splitlines()
        for arm in ARMS:
            assert f"seed 1, {arm}: training diverged at step " in line
        assert not list(tmp_path.rglob("*.html"))
        assert not [path for name in ("compare", "results") for path in tmp_path.rglob(f"{name}.json")]
    for again in ([], ["--resume"]):
        assert cli("pretrain", *wild, tmp_path / "run", *again) == 1
        assert "diverged" in capsys.readouterr().err


def test_what_compare_refuses(copied, comparison, arguments, corpus, cli, capsys, tmp_path):
    before = state_of(copied)
    for given, message in (
        ([*arguments, "--heads", "", "-o", tmp_path / "new"], "compare needs heads to guide"),
        ([*arguments, "--heads", " ", "-o", tmp_path / "new"], "guides no head"),
        ([*arguments, "--seed", 2**32 - 1, "--seeds", 2, "-o", tmp_path / "new"], "--seed 4294967296"),
        ([*arguments, "--seeds", 0, "-o", tmp_path / "new"], "must be an integer of at least 1"),
        ([*arguments, "-o", copied], "holds a comparison already"),
        ([*arguments, "-o", copied, "--resume", "--weight", "1"], "--weight 0.1, not 1.0"),
    ):
        assert cli("compare", *given) == 2
        assert message in capsys.readouterr().err
    assert cli("pretrain", *arguments, "-o", copied, "--resume") == 2
    assert "holds a comparison; give another folder" in capsys.readouterr().err
    text = corpus.read_text()
    try:
        corpus.write_text(text.replace("a", "b", 1))
        assert cli("compare", *arguments, "-o", copied, "--resume", "--seeds", 2) == 2
    finally:
        corpus.write_text(text)
    assert "has changed since the run" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert state_of(copied) == before


def made(guided: list[float | None], unguided: float | None, seed: int = 1) -> dict[str, Any]:
    """A seed's part of compare.json, from guided's losses at steps 0, 10, 20, ... and unguided's last."""
    rest = {"final_perplexity": 1.0, "final_accuracy": 0.5, "guidance": [], "resumed_from": None}
    curve = [{"step": 10 * n, "loss": loss, "accuracy": 0.5, "seconds": 3.0 * n} for n, loss in enumerate(guided)]
    arms = {
        "guided": rest | {"curve": curve, "final_loss": guided[-1], "train_seconds": 12.0, "step_seconds_p50": 0.3},
        "unguided": rest | {"curve": [], "final_loss": unguided, "train_seconds": 8.0, "step_seconds_p50": 0.2},
    }
    return compare_module._compare_pair(seed, arms, 40)


def figures(pair: dict[str, Any]) -> Iterator[Any]:
    for key in ("steps_to_match", "steps_ratio", "final_loss_difference", "step_time_ratio", "wall_clock_ratio"):
        yield None if pair[key] is None else round(pair[key], 6)


REACHED = [7.0, 6.0, 5.0, 4.0, 3.0]
NEVER = [7.0, 6.9, 6.8, 6.7, 6.6]


def test_figures_and_verdict_when_reached():
    pair = made(REACHED, 5.0)
    assert list(figures(pair)) == [20, 0.5, -2.0, 1.5, 0.75]
    assert verdict([pair], 40) == (
        "Guided reached unguided's final validation loss after 20 of 40 steps (0.50 of the steps). "
        "At the end its loss is 2.00 nats lower than unguided's."
    )


def test_reached_and_lost_again():
    pair = made([7.0, 4.9, 7.0, 7.0, 7.0], 5.0)
    assert list(figures(pair)) == [10, 0.25, 2.0, 1.5, 0.375]
    assert "2.00 nats higher" in verdict([pair], 40)


def test_figures_and_verdict_when_never_reached():
    pair = made(NEVER, 5.0)
    assert list(figures(pair)) == [None, None, 1.6, 1.5, None]
    assert verdict([pair], 40) == (
        "Guided did not reach unguided's final validation loss within 40 steps. "
        "At the end its loss is 1.60 nats higher than unguided's."
    )


def test_verdict_when_reached_in_some_seeds():
    seeds = [made(REACHED, 5.0), made(NEVER, 5.0), made(REACHED, 6.0)]
    assert verdict(seeds, 40) == (
        "Guided reached unguided's final validation loss in 2 of 3 seeds after 15 of 40 steps "
        "(0.38 of the steps, mean of 2 seeds). At the end its loss is 1.13 nats lower than unguided's "
        "(mean of 3 seeds)."
    )


def test_verdict_when_level():
    assert verdict([made([7.0, 5.001], 5.0)], 40).endswith("At the end the two losses are level.")


@pytest.mark.parametrize(
    ("guided", "unguided", "expected"),
    [
        ([7.0, 6.0, None], None, "Guided training diverged: .* Unguided training diverged: its final loss"),
        (REACHED, None, "^Unguided training diverged: its final loss is not a number.$"),
        ([7.0, 4.0, None], 5.0, "^Guided reached .* after 10 of 40 steps .*Guided training diverged: "),
        ([7.0, None, None], 5.0, "^Guided did not reach .*Guided training diverged: "),
    ],
)
def test_verdict_when_diverged(guided, unguided, expected):
    pair = made(guided, unguided)
    assert pair["final_loss_difference"] is None
    assert re.search(expected, verdict([pair], 40))
    both = verdict([pair, made(REACHED, 5.0, seed=2)], 40)
    assert "diverged in 1 of 2 seeds" in both
    assert "At the end its loss is 2.00 nats lower than unguided's." in both


def test_no_step_was_timed():
    pair = made(REACHED, 5.0)
    arms = {arm: pair[arm] | {"step_seconds_p50": 0.0, "train_seconds": 0.0} for arm in ARMS}
    again = compare_module._compare_pair(1, arms, 40)
    assert (again["step_time_ratio"], again["wall_clock_ratio"]) == (None, None)
