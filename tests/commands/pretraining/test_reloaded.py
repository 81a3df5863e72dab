"""The model as it is loaded from the disk is the one that was validated, or the run has failed."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_objectives import SMALL
from transformers import AutoModelForMaskedLM, AutoTokenizer

from attention_guidance.commands.objectives import OBJECTIVES
from attention_guidance.commands.objectives.base import validate, validation_batches
from attention_guidance.commands.objectives.masked_lm import MaskedTokens
from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.run import Run
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.saving.reloaded import check_reloaded
from attention_guidance.commands.pretraining.settings.config import make_config
from attention_guidance.commands.tokenization.kinds import train_kind
from attention_guidance.errors import FailedRunError, SaveError


def loss_from_disk(run: Run) -> float:
    """In batches of the run's: units of speech and tokens of a generator are drawn for a batch at a time."""
    loaded = run.objective.trained_model(str(run.folder.path / "model"))
    batches = validation_batches(run.data.validation, run.objective, run.config.batch_size)
    return validate(loaded, run.objective, batches).loss


@pytest.mark.parametrize("objective", [*OBJECTIVES, "own"])
def test_the_model_on_the_disk_has_the_loss_that_is_printed(run_of, objective):
    run = run_of(objective, max_steps=3, save_every=3, eval_every=3)
    assert run.train()
    summary = run.finish()
    assert loss_from_disk(run) == pytest.approx(summary["final_loss"], rel=1e-6)


@pytest.mark.parametrize("arch", ["bert", "albert", "modernbert", "electra", "distilbert", "esm", "attention-only"])
def test_of_several_architectures_too(run_of, arch):
    run = run_of("mlm", arch=arch, max_steps=2, save_every=2, eval_every=2, pad_vocab=64)
    assert run.train()
    summary = run.finish()
    assert loss_from_disk(run) == pytest.approx(summary["final_loss"], rel=1e-6)
    assert summary["model"]["vocabulary"] == 320


def lose_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("attention.self.query.weight"))
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def change_the_padding(folder):
    config = json.loads((folder / "config.json").read_text())
    config["pad_token_id"] = 0
    (folder / "config.json").write_text(json.dumps(config))


def scale_the_embeddings(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name] = weights[name] * 1.1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture
def spoilt(monkeypatch):
    """Have models spoilt in some way after they were written."""

    def spoil(how, times: int = 1_000):
        save, left = MaskedTokens.save, [times]

        def saved(self, model, folder):
            save(self, model, folder)
            left[0] -= 1
            if left[0] >= 0:
                how(folder)

        monkeypatch.setattr(MaskedTokens, "save", saved)

    return spoil


@pytest.mark.parametrize("how", [lose_a_weight, change_the_padding, scale_the_embeddings])
def test_a_model_that_has_changed_fails_the_run(run_of, spoilt, how):
    run = run_of("mlm", max_steps=40, save_every=40, eval_every=40)
    assert run.train()
    spoilt(how)
    with pytest.raises(SaveError, match=r"the saved model has a validation loss of \d.*, but \d.*checkpoint-40"):
        run.finish()
    assert not run.folder.results.exists()
    assert not (run.folder.path / "model").exists()
    assert not (run.folder.path / "partial").exists()


def test_it_is_said_in_one_line_and_can_be_made_good(arguments, cli, tmp_path, capsys, spoilt):
    run = [*arguments, "--max-steps", "3", "-o", tmp_path / "run", "-q", "--resume"]
    spoilt(lambda folder: (folder / "model.safetensors").write_bytes(b"nothing"), times=1)
    assert cli("pretrain", *run) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "could not save the model" in line
    assert "the saved model cannot be loaded" in line
    assert cli("pretrain", *run) == 0
    assert (tmp_path / "run" / "model" / "config.json").is_file()


@pytest.mark.parametrize("times", [1, 2])
def test_either_side_of_a_comparison_is_looked_at(arguments, cli, tmp_path, capsys, monkeypatch, times):
    saved = MaskedTokens.save
    done = []

    def save(self, model, folder):
        saved(self, model, folder)
        done.append(folder)
        if len(done) == times:
            scale_the_embeddings(folder)

    monkeypatch.setattr(MaskedTokens, "save", save)
    run = [*arguments, "--max-steps", "3", "--precision", "fp32", "-o", tmp_path / "both", "-q"]
    assert cli("compare", *run) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"seed-1/{('guided', 'unguided')[times - 1]}: the saved model has a validation loss of" in line


def test_a_model_that_has_diverged_is_no_other(run_of, tmp_path):
    run = run_of("mlm", max_steps=1)
    with torch.no_grad():
        run.model.get_input_embeddings().weight.fill_(math.nan)
    run.objective.save(run.model, tmp_path)

    def check(loss):
        batches = validation_batches(run.data.validation, run.objective, 8)
        check_reloaded(run.objective, tmp_path, torch.device("cpu"), batches, loss, half_precision=False)

    check(math.nan)
    with pytest.raises(FailedRunError, match="validation loss of nan, but 3 in training"):
        check(3.0)


@pytest.fixture(scope="session")
def wordpiece(corpus, tmp_path_factory):
    """A tokenizer whose padding is 0, where that of the runs is 1."""
    folder = tmp_path_factory.mktemp("tokenizer") / "wordpiece"
    train_kind("wordpiece", [corpus.read_text()], 280, max_length=32).save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).pad_token_id == 0
    return folder


@pytest.mark.parametrize("arch", ["roberta", "xlm-roberta", "attention-only", "bert", "esm"])
@pytest.mark.parametrize("line_by_line", [False, True])
def test_a_tokenizer_with_other_special_ids(run_of, settings, wordpiece, tmp_path, arch, line_by_line):
    """The model goes on with positions that begin elsewhere, as it will be loaded."""
    begun = run_of("mlm", arch=arch, max_steps=1)
    for name, parameter in begun.model.named_parameters():
        if "position_embeddings" in name:
            parameter.data.normal_()
    begun.objective.save(begun.model, tmp_path / "bare")
    sizes = ("layers", "hidden", "attention_heads", "feed_forward")
    config = make_config(
        {name: value for name, value in SMALL.items() if name not in sizes}
        | {"corpus": settings("mlm").corpus, "init_from": str(tmp_path / "bare"), "tokenizer": str(wordpiece)}
        | {"max_steps": 3, "learning_rate": 1e-9, "heads": "next:1", "line_by_line": line_by_line}
    )
    said = []
    run = Run(config, prepare_data(config, said.append), RunFolder(tmp_path / "run"))
    assert any("has no usable tokenizer" in line for line in said)
    assert run.train()
    summary = run.finish()
    assert loss_from_disk(run) == pytest.approx(summary["final_loss"], rel=1e-6)
    made = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    names = {"pad_token_id": "pad", "cls_token_id": "cls", "sep_token_id": "sep", "mask_token_id": "mask"}
    ids = {field: getattr(run.data.tokenizer, f"{name}_token_id") for field, name in names.items()}
    assert {name: made[name] for name in ids} == ids
    assert (made["bos_token_id"], made["eos_token_id"]) == (made["cls_token_id"], made["sep_token_id"])
    assert {m.padding_idx for m in run.model.modules() if isinstance(m, torch.nn.Embedding)} <= {0, None}


def test_weights_in_half_precision_are_trained_in_full(whole_run, tmp_path):
    """As small steps would round away."""
    half = tmp_path / "half"
    AutoModelForMaskedLM.from_pretrained(whole_run / "model", dtype=torch.bfloat16).save_pretrained(half)
    for file in (whole_run / "tokenizer").iterdir():
        shutil.copy(file, half)
    stated = json.loads((whole_run / "model" / "config.json").read_text()) | {"dtype": "float16"}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    for given in ({"init_from": str(half)}, {"arch_config": str(tmp_path / "config.json")}):
        config = make_config({"corpus": [str(whole_run.parent)], "block_size": 32, **given})
        assert {p.dtype for p in made(config).parameters()} == {torch.float32}


def made(config):
    from attention_guidance.commands.objectives.masking import Masking
    from attention_guidance.commands.pretraining.model import new_model

    known = {"vocab_size": 280, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return new_model(config, MaskedTokens(Masking(0.15, 4, frozenset(range(5)), 280)), known)
