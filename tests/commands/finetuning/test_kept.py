"""Saved results of a fine-tuning: a later one resumes from them, and results of other requests are never lost."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from finetunings import read
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from attention_guidance.commands.finetuning.fits.fit import fit
from attention_guidance.commands.finetuning.fits.kept import request_of
from attention_guidance.commands.finetuning.settings import FinetuneSettings, FitSettings
from attention_guidance.commands.pretraining.loop.shortfalls import UNGUIDED

ONE = ["--task", "classify", "--epochs", "1", "--learning-rates", "5e-3", "--seeds", "1", "-q"]


def test_a_stopped_fine_tuning_goes_on(tmp_path, cli, whole_run, table, monkeypatch, capsys, caplog):
    rates = ["--learning-rates", "1e-3", "5e-3", "--epochs", "2", "--seeds", "2"]
    command = ["finetune", whole_run, "--task", "classify", *table(["x", "y"], n=24), *rates]
    assert cli(*command, "-o", tmp_path / "whole", "-q") == 0
    fitted = []

    def stopping(*args, learning_rate, seed, **kwargs):
        if len(fitted) == 2:
            raise KeyboardInterrupt
        fitted.append((learning_rate, seed))
        return fit(*args, learning_rate=learning_rate, seed=seed, **kwargs)

    monkeypatch.setattr("attention_guidance.commands.finetuning.fits.runner.fit", stopping)
    out = tmp_path / "out"
    assert cli(*command, "-o", out) == 130
    assert len([*(out / "fits").glob("*/*/fit.json")]) == 2
    # A damaged fit is repeated.
    (damaged,) = (out / "fits").glob("*/0.005-seed-1/fit.json")
    damaged.write_text("{}")
    fitted.clear()
    assert cli(*command, "-o", out) == 2
    assert "already; continue it with --resume, replace it with --overwrite" in capsys.readouterr().err
    assert cli(*command, "-o", out, "--resume") == 0
    assert fitted == [(5e-3, 1), (read(out)["learning_rate"], 2)]
    assert f"the fit {damaged.parent} is damaged (fit.json has changed); fitting again" in caplog.text
    assert "learning rate 0.001, seed 1: already fitted" in capsys.readouterr().out
    assert not (out / "fits").exists()
    whole, halved = read(tmp_path / "whole"), read(out)
    assert halved["scores"] == whole["scores"]
    assert halved["learning_rates"] == whole["learning_rates"]
    for name in ("predictions/test-seed-1.tsv", "predictions/test-seed-2.tsv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # Finished scores are kept, and scores of other settings are not replaced.
    before = (out / "finetune.json").read_bytes()
    assert cli(*command, "-o", out, "--resume") == 0
    assert "out: already scored" in capsys.readouterr().out
    assert cli(*command, "--seed", "7", "-o", out, "--resume") == 2
    assert "holds scores of another model, other files or settings" in capsys.readouterr().err
    assert (out / "finetune.json").read_bytes() == before


def test_fits_are_taken_up_whatever_their_number():
    settings = FinetuneSettings("classify", {})
    asked = request_of("model", settings)
    assert request_of("model", replace(settings, seeds=9, seed=4, learning_rates=(1e-3,))).of_fit == asked.of_fit
    assert request_of("model", replace(settings, seeds=9)).whole != asked.whole
    for other in (replace(settings, max_length=9), replace(settings, fit=FitSettings(epochs=9))):
        assert request_of("model", other).of_fit != asked.of_fit


def test_another_model_in_the_same_place_is_fine_tuned_again(tmp_path, cli, whole_run, table):
    arguments = ["--task", "classify", *table(["x", "y"], n=24), "--epochs", "1", "--learning-rates", "5e-3"]
    model = shutil.copytree(whole_run / "model", tmp_path / "model")
    command = ["finetune", model, *arguments, "--seeds", "1", "-o", tmp_path / "out", "-q"]
    assert cli(*command) == 0
    assert cli(*command, "--resume") == 0
    weights = load_file(model / "model.safetensors")
    save_file({name: -weight for name, weight in weights.items()}, model / "model.safetensors", {"format": "pt"})
    assert cli(*command, "--resume") == 2
    before = read(tmp_path / "out")["request"]
    assert cli(*command, "--resume", "--overwrite") == 0
    assert read(tmp_path / "out")["request"] != before


def no_fit(*args, **kwargs):
    raise AssertionError("fitted again")


def test_a_baseline_is_added_to_scores_that_are_there(tmp_path, cli, whole_run, table, monkeypatch):
    """Of a task for which that is all: numbers are not combined."""
    arguments = [*table([1, 5], "text\tscore", n=24), "--epochs", "1", "--learning-rates", "5e-3", "--seeds", "1"]
    command = ["finetune", whole_run, "--task", "regress", *arguments, "-o", tmp_path / "out"]
    assert cli(*command, "--no-baseline") == 0
    without = read(tmp_path / "out")
    monkeypatch.setattr("attention_guidance.commands.finetuning.fits.runner.fit", no_fit)
    assert cli(*command, "--resume") == 0
    whole = read(tmp_path / "out")
    assert whole["baseline"]["test"]["pearson"] > 0.9
    assert whole["over_baseline"]["second"] == pytest.approx(whole["baseline"]["test"]["pearson"])
    assert whole | {"baseline": None, "over_baseline": None} == without


def test_a_baseline_that_fits_would_be_combined_with_is_not_added_alone(tmp_path, cli, whole_run, table, capsys):
    command = ["finetune", whole_run, *ONE, *table(["x", "y"], n=24), "-o", tmp_path / "out"]
    assert cli(*command, "--no-baseline") == 0
    before = (tmp_path / "out" / "finetune.json").read_bytes()
    assert cli(*command, "--resume", "--no-baseline") == 0
    assert cli(*command, "--resume") == 2
    said = "holds scores without a baseline, and the fits to combine with one are gone; replace it with --overwrite"
    assert said in capsys.readouterr().err
    assert (tmp_path / "out" / "finetune.json").read_bytes() == before
    assert cli(*command, "--resume", "--overwrite") == 0
    both = read(tmp_path / "out")
    assert both["baseline"] is not None
    assert both["combined"]["over_model"] is not None
    # Scores with a baseline serve those who ask for none.
    assert cli(*command, "--resume", "--no-baseline") == 0
    assert read(tmp_path / "out") == both


def truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [truncate, flip, Path.unlink, lambda file: shutil.rmtree(file.parent)])
def test_a_damaged_model_is_fine_tuned_again(tmp_path, cli, whole_run, table, harm, caplog):
    command = ["finetune", whole_run, *ONE, *table(["x", "y"], n=24), "-o", tmp_path / "out"]
    assert cli(*command) == 0
    weights, scores = (tmp_path / "out" / "model" / "model.safetensors"), read(tmp_path / "out")["scores"]
    before = weights.read_bytes()
    # A card is for people to edit.
    (weights.parent / "README.md").write_text("My model.")
    assert cli(*command, "--resume") == 0
    assert (weights.parent / "README.md").read_text() == "My model."
    harm(weights)
    assert cli(*command, "--resume") == 0
    (said,) = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert said.startswith(f"{weights.parent} is damaged (")
    assert said.endswith("); fine-tuning again")
    assert weights.read_bytes() == before
    assert read(tmp_path / "out")["scores"] == scores


def test_without_a_baseline_that_can_be_fitted_the_rest_is_kept(tmp_path, cli, whole_run, table, monkeypatch):
    arguments = table(["x", "y"], n=8)
    train = tmp_path / "train.tsv"
    train.write_text("text\tlabel\n" + "".join(f" \t{label}\n" for label in "xyxyxyxy"))
    command = ["finetune", whole_run, "--task", "classify", *arguments, "--epochs", "1", "--learning-rates", "5e-3"]
    assert cli(*command, "--seeds", "1", "-o", tmp_path / "out") == 0
    content = read(tmp_path / "out")
    assert content["baseline"] is None
    assert any(
        "baseline without pre-training could not be fitted (empty vocabulary" in note for note in content["notes"]
    )
    assert content["combined"] is None
    monkeypatch.setattr("attention_guidance.commands.finetuning.fits.runner.fit", no_fit)
    assert cli(*command, "--seeds", "1", "-o", tmp_path / "out", "--resume") == 0
    assert read(tmp_path / "out") == content


def test_fits_of_other_settings_are_not_lost(tmp_path, cli, whole_run, table, monkeypatch, capsys):
    command = ["finetune", whole_run, *ONE, *table(["x", "y"], n=24), "--seeds", "2", "-o", tmp_path / "out"]

    def stopping(*args, seed, **kwargs):
        if seed == 2:
            raise KeyboardInterrupt
        return fit(*args, seed=seed, **kwargs)

    monkeypatch.setattr("attention_guidance.commands.finetuning.fits.runner.fit", stopping)
    assert cli(*command) == 130
    kept = [*(tmp_path / "out" / "fits").glob("*/*/fit.json")]
    assert len(kept) == 1
    assert cli(*command, "--epochs", "2", "--resume") == 2
    assert "holds unfinished fits of another model, other files or settings" in capsys.readouterr().err
    assert kept[0].is_file()
    monkeypatch.undo()
    assert cli(*command, "--epochs", "2", "--resume", "--overwrite") == 0
    assert not (tmp_path / "out" / "fits").exists()


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_a_folder_called_fits_that_is_not_ours_stays(tmp_path, cli, whole_run, table, flag):
    mine = tmp_path / "out" / "fits" / "mine" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    command = ["finetune", whole_run, *ONE, *table(["x", "y"], n=24), "-o", tmp_path / "out"]
    assert cli(*command, flag) == (2 if flag == "--resume" else 0)
    assert mine.read_text() == "mine"


def test_unfinished_fits_of_more_seeds_outlive_a_look_at_the_scores(tmp_path, cli, whole_run, table, monkeypatch):
    command = ["finetune", whole_run, *ONE, *table(["x", "y"], n=24), "-o", tmp_path / "out"]
    assert cli(*command) == 0

    def stopping(*args, seed, **kwargs):
        if seed == 2:
            raise KeyboardInterrupt
        return fit(*args, seed=seed, **kwargs)

    monkeypatch.setattr("attention_guidance.commands.finetuning.fits.runner.fit", stopping)
    assert cli(*command, "--seeds", "2", "--overwrite") == 130
    assert cli(*command, "--resume") == 0
    assert len([*(tmp_path / "out" / "fits").glob("*/*/fit.json")]) == 1


def test_predictions_of_what_is_replaced_are_removed(tmp_path, cli, whole_run, table):
    command = ["finetune", whole_run, *ONE, *table(["x", "y"], n=24), "-o", tmp_path / "out"]
    assert cli(*command, "--seeds", "2") == 0
    (tmp_path / "out" / "predictions" / "mine.tsv").write_text("mine")
    (tmp_path / "out" / "confusion.txt").write_text("mine")
    assert cli(*command, "--overwrite", "--seed", "3", "--no-baseline") == 0
    there = sorted(file.name for file in (tmp_path / "out" / "predictions").iterdir())
    assert there == ["dev-seed-3.tsv", "mine.tsv", "test-seed-3.tsv"]
    assert (tmp_path / "out" / "confusion.txt").read_text() == "mine"


@pytest.mark.parametrize("content", ["mine", '"mine"', "{}"])
def test_scores_that_are_not_ours_or_damaged_are_not_replaced(tmp_path, cli, whole_run, table, capsys, content):
    out = tmp_path / "out"
    out.mkdir()
    (out / "finetune.json").write_text(content)
    assert cli("finetune", whole_run, *ONE, *table(["x", "y"], n=24), "-o", out, "--resume") == 2
    assert "holds scores of another model, other files or settings" in capsys.readouterr().err
    assert (out / "finetune.json").read_text() == content


def test_a_full_disk_is_one_line(tmp_path, cli, whole_run, table, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    assert cli("finetune", whole_run, *ONE, *table(["x", "y"], n=24), "-o", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "run the same command with --resume" in said
    assert said.count("\n") == 1


def test_a_comparison_of_others_is_not_replaced(tmp_path, cli, whole_run, many_models, table, capsys):
    out, task = tmp_path / "out", [*ONE, *table(["x", "y"], n=24), "--no-baseline"]
    assert cli("downstream", whole_run, many_models, *task, "-o", out) == 0
    before = (out / "downstream.json").read_bytes()
    third = shutil.copytree(many_models, tmp_path / "third")
    assert cli("downstream", whole_run, third, *task, "-o", out, "--resume") == 2
    assert "holds a downstream.json of other models, checkpoints or another task" in capsys.readouterr().err
    assert (out / "downstream.json").read_bytes() == before
    # Adding a model, or repeating the command, loses nothing.
    assert cli("downstream", whole_run, many_models, third, *task, "-o", out, "--resume") == 0
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "downstream.json").write_text('"mine"')
    assert cli("downstream", whole_run, many_models, *task, "-o", foreign, "--resume") == 2
    assert (foreign / "downstream.json").read_text() == '"mine"'
    (foreign / "downstream.json").rename(foreign / "notes.json")
    assert cli("downstream", whole_run, many_models, *task, "-o", foreign, "--resume") == 2
    assert "is not empty" in capsys.readouterr().err


def test_scores_of_another_model_are_found_before_the_first_is_fitted(
    tmp_path, cli, whole_run, many_models, table, monkeypatch, capsys
):
    out, task = tmp_path / "out", [*ONE, *table(["x", "y"], n=24), "--no-baseline"]
    assert cli("downstream", whole_run, many_models, *task, "-o", out) == 0
    shutil.rmtree(out / whole_run.name)
    weights = load_file(many_models / "model.safetensors")
    save_file({name: -weight for name, weight in weights.items()}, many_models / "model.safetensors", {"format": "pt"})
    monkeypatch.setattr("attention_guidance.commands.finetuning.fits.runner.fit", no_fit)
    assert cli("downstream", whole_run, many_models, *task, "-o", out, "--resume") == 2
    assert "other holds scores of another model" in capsys.readouterr().err


def test_unfinished_fits_of_others_are_found_before_the_first_is_fitted(
    tmp_path, cli, whole_run, many_models, table, monkeypatch, capsys
):
    command = ["downstream", whole_run, many_models, *ONE, *table(["x", "y"], n=24), "--no-baseline"]
    (tmp_path / "out" / "other" / "fits" / ("0" * 32)).mkdir(parents=True)
    monkeypatch.setattr("attention_guidance.commands.finetuning.fits.runner.fit", no_fit)
    assert cli(*command, "-o", tmp_path / "out", "--resume") == 2
    assert "other holds unfinished fits of another model" in capsys.readouterr().err


def test_a_fine_tuning_may_become_a_comparison(tmp_path, cli, whole_run, many_models, table):
    """As if a recipe is repeated with --compare, or a compare with more seeds."""
    task = [*ONE, *table(["x", "y"], n=24), "--no-baseline", "-o", tmp_path / "out"]
    assert cli("finetune", whole_run, *task) == 0
    assert cli("downstream", whole_run, many_models, *task, "--resume") == 0
    comparison = tmp_path / "compare"
    for arm in ("unguided", "guided"):
        shutil.copytree(whole_run, comparison / "seed-1" / arm)
    of_compare = [*task[:-1], tmp_path / "of-compare"]
    assert cli("downstream", comparison, *of_compare) == 0
    (tmp_path / "of-compare" / "downstream.json").unlink()
    shutil.copytree(comparison / "seed-1", comparison / "seed-2")
    assert cli("downstream", comparison, *of_compare, "--resume") == 0


def test_a_weight_of_0_is_noted(tmp_path, cli, whole_run, table):
    command = ["finetune", whole_run, *ONE, *table(["x", "y"], n=24), "--no-baseline", "--heads", "next:1"]
    assert cli(*command, "--weight", "0", "-o", tmp_path / "out") == 0
    assert UNGUIDED in read(tmp_path / "out")["notes"]
