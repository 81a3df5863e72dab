"""What the commands that look refuse, and that they leave files alone."""

from __future__ import annotations

import shutil

import torch
from transformers import AutoModel, AutoTokenizer


def test_nothing_is_overwritten_unless_asked(tmp_path, cli, refusal, whole_run, corpus):
    arguments = [whole_run, corpus, "-o", tmp_path / "c", "--sequences", 2, "--similarity-rows", 0, "-q"]
    assert cli("census", *arguments) == 0
    before = (tmp_path / "c" / "census.json").read_bytes()
    assert "holds census.json already; replace it with --overwrite" in refusal("census", *arguments)
    assert (tmp_path / "c" / "census.json").read_bytes() == before
    assert cli("census", *arguments, "--overwrite") == 0


def test_what_is_refused(tmp_path, refusal, whole_run, many_checkpoints, corpus, sentences):
    out = ["-o", tmp_path / "out"]
    reflexive = ["--task", "reflexive"]
    cases = {
        "no such folder": ["census", tmp_path / "nowhere", *out],
        "neither a model": ["census", tmp_path, *out],
        "has no checkpoints": ["census", whole_run / "model", *out, "--checkpoints"],
        "must lie between 0 and 1": ["census", whole_run, *out, "--threshold", "1.5"],
        "at most 32 tokens": ["census", whole_run, corpus, *out, "--block-size", "64"],
        "unknown pattern 'nxt'": ["census", whole_run, corpus, *out, "--patterns", "nxt"],
        "--task 'reflex'": ["probe", whole_run, sentences, *out, "--task", "reflex"],
        "--protocol 'word'": ["probe", whole_run, sentences, *out, *reflexive, "--protocol", "word"],
        "works only with --task reflexive": ["probe", whole_run, sentences, *out, "--task", "gap", "--distractors"],
        "cannot be read": ["probe", whole_run, tmp_path / "none.txt", *out, *reflexive],
        "fields separated by tabs": ["probe", whole_run, corpus, *out, *reflexive],
        "10, separated by tabs": ["probe", whole_run, corpus, *out, "--task", "dependency"],
        "no column ID": ["probe", whole_run, corpus, *out, "--task", "gap"],
        "#begin document": ["probe", whole_run, corpus, *out, "--task", "coreference"],
        "given twice": ["skill", whole_run, whole_run, *out, "--data", sentences, *reflexive],
        "2 checkpoints with a known validation loss": ["skill", whole_run, *out, "--data", sentences, *reflexive],
        "holds no result of probe, skill or finetune": ["report", whole_run, *out, "--include", corpus.parent],
        "the grammar can generate": ["reflexives", *out, "--sentences", 10**9],
    }
    for message, arguments in cases.items():
        assert message in refusal(*arguments), message
        assert not (tmp_path / "out").exists(), message


def test_what_would_do_nothing_is_refused(tmp_path, refusal, whole_run, corpus, sentences, pairs):
    of_pairs = ["--task", "minimal-pairs"]
    reading = {"--text-field": "x", "--documents": "line", "--errors": "replace"}
    commands = {
        # A value equal to the default too: whoever gives it expects that it matters.
        ("probe", whole_run, pairs, *of_pairs): {"--resamples": 1000, "--seed": 1, "--protocol": "words"},
        ("probe", whole_run, sentences, "--task", "dependency"): {"--protocol": "authors"},
        ("skill", whole_run, "--data", pairs, *of_pairs): {"--protocol": "authors"},
        ("ablate", whole_run, pairs, *of_pairs): {"--tokens": 20_000, "--block-size": 16, **reading},
        ("ablate", whole_run, corpus): {"--pairs": 200},
        ("ablate", whole_run): reading,
        ("census", whole_run): reading,
        ("census", whole_run, corpus, "--patterns", "next|first"): {"--token-class": "comma=,"},
        ("report", whole_run): reading,
        ("tokenizer", "inspect", whole_run): reading,
        ("tokenizer", "train"): reading,
        ("recipe", "low-resource"): reading,
    }
    for command, flags in commands.items():
        for flag, value in flags.items():
            message = refusal(*command, flag, value, "-o", tmp_path / "out")
            assert flag in message, (command, message)
            assert not (tmp_path / "out").exists(), command


def test_files_of_others_are_not_overwritten(tmp_path, refusal, whole_run, corpus):
    (tmp_path / "census.csv").write_text("mine")
    assert "is not empty" in refusal("census", whole_run, corpus, "-o", tmp_path)
    assert (tmp_path / "census.csv").read_text() == "mine"


def test_models_that_do_not_fit_their_tokenizer_or_are_not_finite(tmp_path, refusal, long_model, corpus, sentences):
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    models = {
        "small": BertModel(BertConfig(**sizes, vocab_size=20)),
        "vit": ViTModel(ViTConfig(**sizes)),
        "nan": AutoModel.from_pretrained(long_model),
    }
    with torch.no_grad():
        models["nan"].encoder.layer[0].attention.self.query.weight.fill_(float("nan"))
    for name, message in (("small", "knows 20 tokens"), ("vit", "reads no tokens"), ("nan", "not finite")):
        models[name].save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(long_model).save_pretrained(tmp_path / name)
        probe = ["probe", tmp_path / name, sentences, "--task", "reflexive", "-o", tmp_path / "out"]
        assert message in refusal(*probe), name
        assert message in refusal("census", tmp_path / name, corpus, "-o", tmp_path / "out"), name
    assert "an integer from 0" in refusal(*probe, "--seed", "-1")


def test_a_comparisons_folder_names_its_runs(tmp_path, refusal, whole_run):
    shutil.copytree(whole_run, tmp_path / "compare" / "seed-1" / "guided")
    assert "give one of its runs" in refusal("census", tmp_path / "compare", "-o", tmp_path / "out")


def test_a_model_without_maps_to_see(tmp_path, refusal, whole_run, corpus):
    from transformers import XLMConfig, XLMModel

    XLMModel(XLMConfig(n_words=300, emb_dim=16, n_layers=1, n_heads=2)).save_pretrained(tmp_path / "xlm")
    AutoTokenizer.from_pretrained(whole_run / "model").save_pretrained(tmp_path / "xlm")
    said = refusal("census", tmp_path / "xlm", corpus, "-o", tmp_path / "out")
    assert "attention interface" in said
