"""Arguments of transformers' Trainer: each trains, or is refused in one line before anything is written."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from attention_guidance.commands.pretraining.loop.trainer import PretrainingTrainer
from attention_guidance.commands.pretraining.run import Run
from attention_guidance.commands.pretraining.settings import rehearsal
from attention_guidance.commands.pretraining.settings.config import make_config
from benchmarks import forked

# The command line, dead in its first step.
KILLED = """
import os, sys
from attention_guidance.commands.pretraining.loop.trainer import PretrainingTrainer
PretrainingTrainer.training_step = lambda *args, **kwargs: os.kill(os.getpid(), 9)
from attention_guidance.commands.cli import main
main(sys.argv[1:])
"""


# What needs no package that is not installed.
TRAINS = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}
NEEDS = {
    "cosine_with_min_lr": "{min_lr: 0.0001}",
    "cosine_warmup_with_min_lr": "{min_lr_rate: 0.1}",
    "warmup_stable_decay": "{num_decay_steps: 2}",
}


@pytest.fixture
def short(arguments: list[str]) -> list[str]:
    return [*arguments, "--max-steps", "4", "--eval-every", "2", "--save-every", "2", "-q"]


@pytest.fixture
def attempt(short, cli, tmp_path, capfd):
    """A short run with --set of each argument: its exit code and what it said; a refused one writes nothing."""

    def run(*given: str, more: tuple[str, ...] = ()) -> tuple[int, str]:
        folder = tmp_path / "run"
        code = cli("pretrain", *short, *more, "-o", folder, *[part for one in given for part in ("--set", one)])
        said = capfd.readouterr().err
        if code == 0:
            assert json.loads((folder / "results.json").read_text())["steps"] == 4
        else:
            assert code == 2, said
            assert said.startswith("error: ")
            assert said.count("\n") == 1
            assert not folder.exists()
        return code, said

    return run


@pytest.mark.parametrize("optimizer", [name.value for name in OptimizerNames])
def test_every_optimizer(attempt, optimizer):
    code, said = attempt(f"optim={optimizer}")
    if optimizer in TRAINS:
        assert code == 0, said
    elif code:
        assert said.startswith(f"error: --set optim={optimizer}: ")


@pytest.mark.parametrize("schedule", [name.value for name in SchedulerType])
def test_every_schedule_of_the_learning_rate(attempt, schedule):
    code, said = attempt(f"lr_scheduler_type={schedule}")
    assert code == (2 if schedule in NEEDS else 0), said
    if schedule in NEEDS:
        assert said.startswith(f"error: --set lr_scheduler_type={schedule}: ")
        code, said = attempt(f"lr_scheduler_type={schedule}", f"lr_scheduler_kwargs={NEEDS[schedule]}")
        assert code == 0, said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("use_liger_kernel=true",), "--set use_liger_kernel: use the run's own head"),
        (("optim=galore_adamw_layerwise", "optim_target_modules=all-linear"), "its state is not in the checkpoints"),
        (("optim=schedule_free_adamw",), "the weights that it trains are not those to validate"),
        (("push_to_hub=true",), "--set push_to_hub: use hf upload"),
        (("metric_for_best_model=x",), "--set metric_for_best_model: use the validation loss"),
        (("adam_beta1=2",), "--set adam_beta1=2.*Invalid beta parameter"),
        (("optim=sgd", "optim_args=momentum=x"), "--set optim=sgd --set optim_args=momentum=x: could not convert"),
        (("optim_args=foo=1",), "--set optim_args=foo=1 has no effect with optim=adamw_torch; leave it out"),
        (("optim=sgd", "adam_beta1=0.8"), "--set adam_beta1=0.8 has no effect with optim=sgd"),
        (("lr_scheduler_kwargs={a: 1}",), "unexpected keyword argument 'a'"),
        (("lr_scheduler_type=constant", "warmup_steps=2"), "has no effect with lr_scheduler_type=constant"),
        (("lr_scheduler_type=polynomial", "lr_scheduler_kwargs={lr_end: 1.0}"), "must be smaller than initial lr"),
        (("dataloader_persistent_workers=true",), "persistent_workers option needs num_workers > 0"),
        (("dataloader_num_workers=1", "dataloader_multiprocessing_context=nope"), "multiprocessing_context='nope'"),
        (("per_device_eval_batch_size=0",), "per_device_eval_batch_size=0 must be at least 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_seen_before_anything_is_written(attempt, given, message):
    code, said = attempt(*given)
    assert code == 2
    assert re.search(message, said), said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("warmup_steps=2",), "--warmup-share 0.5 is for a run without --set warmup_steps"),
        (("lr_scheduler_type=constant",), "--warmup-share 0.5 is for schedules of the learning rate that warm up"),
        (
            ("lr_scheduler_type=reduce_lr_on_plateau",),
            "--warmup-share 0.5 is for schedules of the learning rate that warm up",
        ),
    ],
)
def test_a_share_of_warming_up_that_would_do_nothing(attempt, given, message):
    assert message in attempt(*given, more=("--warmup-share", "0.5"))[1]
    assert attempt(*given)[0] == 0


@pytest.mark.parametrize("given", ["warmup_steps=2", "lr_scheduler_type=cosine", "lr_scheduler_kwargs={num_cycles: 1}"])
def test_schedules_by_steps_do_not_go_with_a_time(arguments, cli, tmp_path, capfd, given):
    rest = [*arguments]
    for name in ("--save-every", "--eval-every", "--max-steps"):
        place = rest.index(name)
        del rest[place : place + 2]
    assert cli("pretrain", *rest, "--max-time", "2s", "--set", given, "-o", tmp_path / "run", "-q") == 2
    said = capfd.readouterr().err
    assert "with --max-time the learning rate rises for --warmup-share of the time and then falls linearly" in said
    assert not (tmp_path / "run").exists()


def test_the_learning_rate_warms_up_over_the_steps_given(short, cli, tmp_path):
    assert cli("pretrain", *short, "--set", "warmup_steps=4", "--set", "logging_steps=1", "-o", tmp_path / "run") == 0
    state = json.loads((tmp_path / "run/checkpoints/checkpoint-4/trainer_state.json").read_text())
    rates = [entry["learning_rate"] for entry in state["log_history"] if "learning_rate" in entry]
    assert rates == pytest.approx([0.001 * share for share in (0.0, 0.25, 0.5, 0.75)])


def test_a_time_takes_other_optimizers(arguments, cli, tmp_path):
    rest = [*arguments]
    for name in ("--save-every", "--eval-every", "--max-steps"):
        place = rest.index(name)
        del rest[place : place + 2]
    assert cli("pretrain", *rest, "--max-time", "1s", "--set", "optim=adafactor", "-o", tmp_path / "run", "-q") == 0


def test_a_worker_that_dies_in_the_rehearsal_is_a_failed_run(monkeypatch, short, cli, tmp_path, capfd):
    def lose_a_worker(*given):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr("attention_guidance.commands.pretraining.settings.rehearsal._step", lose_a_worker)
    assert cli("pretrain", *short, "--set", "dataloader_num_workers=1", "-o", tmp_path / "run") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: a process that loads data died (DataLoader worker (pid 7) is killed by signal")


def test_settings_alone_are_not_rehearsed(monkeypatch, short, cli, tmp_path):
    """A run without --set pays nothing for them."""
    monkeypatch.setattr(rehearsal, "_step", lambda *args: pytest.fail("rehearsed"))
    assert cli("pretrain", *short, "-o", tmp_path / "run") == 0


class TestARunThatNeverMadeAStep:
    """Its folder is free: the corrected command works, with and without --resume."""

    @pytest.fixture(params=["out of memory", "killed", "in the first validation"])
    def dead(self, request, short, tmp_path, cli, monkeypatch) -> Path:
        folder = tmp_path / "run"
        given = [
            "pretrain",
            *short,
            "-o",
            folder,
            "--batch-size",
            "8",
            "--vocab-size",
            "290",
            "--report-to",
            "tensorboard",
        ]

        def fail(*args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory")

        with monkeypatch.context() as broken:
            if request.param == "killed":
                line = [sys.executable, "-c", KILLED, *map(str, given)]
                assert forked.run(line, timeout=120).returncode == -signal.SIGKILL
            else:
                where = (
                    (Run, "validate")
                    if request.param == "in the first validation"
                    else (PretrainingTrainer, "training_step")
                )
                broken.setattr(*where, fail)
                assert cli(*given) == 1
        assert (folder / "run.yaml").exists()
        assert (folder / "tokenizer").exists()
        return folder

    @pytest.mark.parametrize("again", [[], ["--resume"]])
    def test_another_command_takes_its_place(self, dead, short, cli, whole_run, again):
        assert cli("pretrain", *short, "-o", dead, *again) == 0
        config = make_config({}, dead / "run.yaml")
        assert (config.batch_size, config.vocab_size, config.report_to) == (4, 280, "none")
        # Nothing of what was there before is in it.
        assert not (dead / "logs").exists()
        assert "280" in str(json.loads((dead / "results.json").read_text())["model"]["vocabulary"])

    def test_resumed_alone_it_begins_with_its_settings(self, dead, cli):
        assert cli("pretrain", "-o", dead, "--resume", "-q") == 0
        results = json.loads((dead / "results.json").read_text())
        assert (results["config"]["batch_size"], results["model"]["vocabulary"]) == (8, 290)

    def test_what_others_have_put_there_stays(self, dead, short, cli):
        (dead / "notes.txt").write_text("mine")
        assert cli("pretrain", *short, "-o", dead) == 0
        assert (dead / "notes.txt").read_text() == "mine"


def test_after_a_step_the_folder_is_held(short, cli, tmp_path, capfd, monkeypatch):
    step = PretrainingTrainer.training_step

    def fail_in_the_second(self, *args, **kwargs):
        if self.state.global_step:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(PretrainingTrainer, "training_step", fail_in_the_second)
    assert cli("pretrain", *short, "-o", tmp_path / "run") == 1
    monkeypatch.undo()
    capfd.readouterr()
    assert cli("pretrain", *short, "-o", tmp_path / "run") == 2
    assert "holds a run already" in capfd.readouterr().err
    assert cli("pretrain", *short, "-o", tmp_path / "run", "--resume", "--accumulation", "4") == 0


def test_checkpoints_hold_a_folder_whatever_else_is_missing(whole_run, short, cli, tmp_path, capfd):
    folder = Path(shutil.copytree(whole_run, tmp_path / "run"))
    for name in ("data.json", "results.json"):
        (folder / name).unlink()
    assert cli("pretrain", *short, "-o", folder) == 2
    assert "holds a run already" in capfd.readouterr().err
    assert any((folder / "checkpoints").iterdir())
