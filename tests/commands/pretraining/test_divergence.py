"""A run that diverges fails, keeps its last finite checkpoint and leaves nothing that looks finished."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from accelerate import accelerator
from accelerate.utils import AutocastKwargs
from safetensors.torch import load_file
from small_runs import one_line
from transformers import AutoModelForMaskedLM, Trainer

from attention_guidance.commands.pretraining.saving.checkpoints import checkpoints, damage


def assert_unfinished(folder: Path) -> None:
    assert not [name for name in ("model", "results.json", "compare.json", "compare.html") if (folder / name).exists()]
    for checkpoint in checkpoints(folder / "checkpoints"):
        assert damage(checkpoint) is None
        weights = load_file(checkpoint / "model.safetensors").values()
        assert all(weight.isfinite().all() for weight in weights), checkpoint


@pytest.fixture
def spoil(monkeypatch):
    """Spoil passes of a run, by their number from 0: what is done to the model and its loss."""

    def begin(which, what):
        original, passes = Trainer.training_step, []

        def step(self, model, *args, **kwargs):
            loss = original(self, model, *args, **kwargs)
            passes.append(0)
            return what(model, loss) if which(len(passes) - 1) else loss

        monkeypatch.setattr(Trainer, "training_step", step)

    return begin


def spoil_gradient(model, loss):
    next(model.parameters()).grad[0, 0] = math.inf
    return loss


@pytest.mark.parametrize(
    "given",
    [
        ["--learning-rate", "1e3", "--max-grad-norm", "0", "--max-steps", "200"],
        ["--learning-rate", "1e6", "--max-grad-norm", "0", "--max-steps", "8"],
        ["--weight", "1e38"],
    ],
)
def test_divergence_is_a_failed_run(arguments, cli, tmp_path, capsys, given):
    assert cli("pretrain", *arguments, *given, "--precision", "fp32", "-o", tmp_path / "run", "-q") == 1
    line = one_line(capsys.readouterr().err)
    assert line.startswith("error: training diverged at step ")
    assert "learning rate " in line
    assert "try a smaller --learning-rate, more --warmup-share or --precision fp32" in line
    assert_unfinished(tmp_path / "run")


def test_a_step_is_skipped_whole(arguments, cli, tmp_path, spoil, capsys):
    """Without an update in its last step, weights and optimizer are those of the step before."""
    given = ["--max-steps", "6", "--save-every", "1", "-o", tmp_path / "run"]
    # The first of the two passes of step 6.
    spoil(lambda n: n == 10, spoil_gradient)
    assert cli("pretrain", *arguments, *given) == 0
    before, after = checkpoints(tmp_path / "run" / "checkpoints")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    states = [torch.load(folder / "optimizer.pt")["state"] for folder in (before, after)]
    for number, moments in states[0].items():
        assert all(torch.equal(value, states[1][number][name]) for name, value in moments.items())
    assert json.loads((tmp_path / "run" / "results.json").read_text())["skipped_steps"] == 1
    assert "skipped" in capsys.readouterr().out
    history = json.loads((after / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "skipped_steps" in entry] == [5]


def test_a_loss_that_is_not_finite_is_enough(arguments, cli, tmp_path, spoil):
    """Also where its gradient is; the figure of the next losses is sound again."""
    spoil(lambda n: n == 3, lambda model, loss: loss * math.inf)
    assert cli("pretrain", *arguments, "--eval-every", "2", "-o", tmp_path / "run", "-q") == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["skipped_steps"] == 1
    newest = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert [math.isfinite(loss) for loss in losses] == [False, *[True] * (len(losses) - 1)]


def test_a_step_that_a_gradient_scaler_skips_is_counted_once(arguments, cli, tmp_path, spoil, monkeypatch):
    """As in fp16, here with the scaler of the CPU: the run is that of one in which the step is skipped without it."""
    given = [*arguments, "--max-steps", "12", "--precision", "fp32", "--eval-every", "3", "-q"]
    # Trainer does not advance the schedule at a step that a scaler skips.
    given += ["--set", "lr_scheduler_type=constant"]

    def spoil_all(model, loss):
        for parameter in model.parameters():
            parameter.grad.fill_(math.inf)
        return loss

    spoil(lambda n: n == 10, spoil_all)
    assert cli("pretrain", *given, "-o", tmp_path / "plain") == 0
    scales = []
    accelerate = accelerator.Accelerator.__init__

    def with_scaler(self, *args, **kwargs):
        accelerate(self, *args, **kwargs)
        # A scale of 2 ** n changes no digit of a gradient that is scaled back.
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        self.native_amp = True
        self.autocast_handler = AutocastKwargs(enabled=False)
        monkeypatch.setattr(type(self), "mixed_precision", "fp16")
        scales.append(self.scaler)

    monkeypatch.setattr(accelerator.Accelerator, "__init__", with_scaler)
    spoil(lambda n: n == 10, spoil_all)
    assert cli("pretrain", *given, "-o", tmp_path / "scaled") == 0
    assert scales[-1].get_scale() == 2.0**15
    ours, theirs = (json.loads((tmp_path / run / "results.json").read_text()) for run in ("scaled", "plain"))
    assert ours["skipped_steps"] == theirs["skipped_steps"] == 1
    losses, expected = ([point["loss"] for point in run["curve"]] for run in (ours, theirs))
    assert losses == expected


def test_only_steps_in_a_row_are_too_many(arguments, cli, tmp_path, spoil, capsys):
    spoil(lambda n: n // 2 % 3 < 2, spoil_gradient)
    assert cli("pretrain", *arguments, "--max-skipped-steps", "3", "-o", tmp_path / "run", "-q") == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["skipped_steps"] == 40
    capsys.readouterr()
    assert cli("pretrain", *arguments, "--max-skipped-steps", "2", "-o", tmp_path / "other", "-q") == 1
    assert "at step 2," in one_line(capsys.readouterr().err)


def test_resume_goes_on_from_the_last_finite_checkpoint(
    arguments, cli, tmp_path, spoil, whole_run, monkeypatch, capsys
):
    def spoil_weight(model, loss):
        with torch.no_grad():
            next(model.parameters())[3, 3] = math.nan
        return loss

    folder = tmp_path / "run"
    # Step 21 is one of those that are kept.
    spoil(lambda n: n == 41, spoil_weight)
    assert cli("pretrain", *arguments, "-o", folder, "-q") == 1
    line = one_line(capsys.readouterr().err)
    assert "training diverged at step 21, " in line
    assert line.endswith(f"the last good checkpoint is {folder}/checkpoints/checkpoint-18")
    assert_unfinished(folder)
    monkeypatch.undo()
    assert cli("pretrain", "-o", folder, "-q", "--resume") == 0
    results = json.loads((folder / "results.json").read_text())
    assert (results["resumed_from"], results["skipped_steps"]) == (18, 0)
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (folder, whole_run))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("setting", ["adam_epsilon=nan", "adam_beta1=2", "adam_epsilon=0"])
def test_what_diverges_in_the_rehearsal_is_bad_input(arguments, cli, tmp_path, capsys, setting):
    for command in ("pretrain", "compare"):
        assert cli(command, *arguments, "--set", setting, "-o", tmp_path / "run", "-q") == 2
        assert one_line(capsys.readouterr().err).startswith(f"error: --set {setting}: ")
        assert not (tmp_path / "run").exists()


def test_a_model_of_nan_is_bad_input(arguments, whole_run, cli, tmp_path, capsys):
    model = AutoModelForMaskedLM.from_pretrained(whole_run / "model")
    with torch.no_grad():
        next(model.parameters())[3, 3] = math.nan
    model.save_pretrained(tmp_path / "nan")
    size = ["--max-steps", "3", "--heads", "next:1", "--tokenizer", whole_run / "tokenizer", "-q"]
    assert cli("pretrain", arguments[0], *size, "--init-from", tmp_path / "nan", "-o", tmp_path / "run") == 2
    assert "has weights that are NaN or infinite" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_an_arm_that_diverges_leaves_the_other(arguments, cli, tmp_path, capsys, monkeypatch):
    given = [*arguments, "--weight", "1e38", "--precision", "fp32", "--max-steps", "20", "-o", tmp_path / "both", "-q"]
    assert cli("compare", *given) == 1
    line = one_line(capsys.readouterr().err)
    assert line.startswith("error: seed 1, guided: training diverged at step 10, ")
    assert "unguided" not in line
    assert_unfinished(tmp_path / "both")
    assert_unfinished(tmp_path / "both" / "seed-1" / "guided")
    other = tmp_path / "both" / "seed-1" / "unguided" / "results.json"
    assert json.loads(other.read_text())["skipped_steps"] == 0
    before = other.stat().st_mtime_ns
    assert cli("compare", *given, "--resume") == 1
    assert one_line(capsys.readouterr().err).startswith("error: seed 1, guided: training diverged at step ")
    assert other.stat().st_mtime_ns == before


def test_the_advice_after_divergence_works(arguments, cli, tmp_path, capsys):
    given = ["--max-grad-norm", "0", "--precision", "fp32", "-o", tmp_path / "run", "-q"]
    assert cli("pretrain", *arguments, "--learning-rate", "1e3", *given) == 1
    assert "fp32, with --overwrite to start again; " in one_line(capsys.readouterr().err)
    smaller = [*arguments, "--learning-rate", "1e-3", *given]
    assert cli("pretrain", *smaller, "--resume") == 2
    assert "replace it with --overwrite" in one_line(capsys.readouterr().err)
    assert cli("pretrain", *smaller, "--overwrite") == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["config"]["learning_rate"] == 1e-3
