"""`look`: the files it writes are those of the library, and what is refused writes nothing."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from looked_at import read
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import (
    AutoModel,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from attention_guidance.analysis import look

TEXT = "abc <mask> def ghi."


@pytest.mark.parametrize("options", [[], ["--words", "--hide-special", "--heads", "0.1", "0.0"]])
def test_what_is_written(tmp_path, cli, whole_run, options):
    assert cli("look", whole_run, TEXT, "jk.", "-o", tmp_path / "l", "-q", *options) == 0
    model = AutoModel.from_pretrained(whole_run / "model")
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    how = {"words": True, "hide_special": True, "heads": [(0, 1), (0, 0)]} if options else {}
    expected = look(model, tokenizer, TEXT, "jk.", **how)
    content = read(tmp_path / "l" / "look.json")
    assert (content["kind"], content["schema_version"], content["model"]) == ("look", 1, whole_run.name)
    assert (content["text"], content["pair"]) == (TEXT, "jk.")
    assert (content["words"], content["hide_special"]) == (bool(options), bool(options))
    assert content["tokens"] == expected.tokens
    assert "<mask>" in [token.strip() for token in content["tokens"]]
    assert content["sentences"] == [None if n < 0 else n for n in expected.sentence_T.tolist()]
    assert (content["layers"], content["heads"]) == (1, 2)
    assert [(of["layer"], of["head"]) for of in content["chosen"]] == list(expected.heads)
    for of in content["chosen"]:
        np.testing.assert_allclose(of["weights"], expected.maps_LHTT[of["layer"], of["head"]], atol=6e-6)
    with np.load(tmp_path / "l" / "look.npz") as arrays:
        np.testing.assert_allclose(arrays["maps"], expected.maps_LHTT, atol=1e-7)
    assert (tmp_path / "l" / "look.svg").read_text() == expected.svg()
    assert (tmp_path / "l" / "look.html").read_text() == expected.html()


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_the_encoder_of_an_encoder_decoder_by_its_folder(tmp_path, cli, whole_run, name):
    sizes = {"vocab_size": 300, "d_model": 16}
    models = {
        "t5": lambda: T5ForConditionalGeneration(T5Config(**sizes, d_kv=8, num_layers=2, num_heads=2, d_ff=8)),
        "bart": lambda: BartForConditionalGeneration(
            BartConfig(
                **sizes, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
                encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=64,
            )
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    model = models[name]().eval()
    model.save_pretrained(tmp_path / name)
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    tokenizer.save_pretrained(tmp_path / name)
    assert cli("look", tmp_path / name, "abc def", "-o", tmp_path / "l", "-q") == 0
    with np.load(tmp_path / "l" / "look.npz") as arrays:
        np.testing.assert_allclose(arrays["maps"], look(model, tokenizer, "abc def").maps_LHTT, atol=1e-6)
    assert read(tmp_path / "l" / "look.json")["layers"] == 2


def test_a_decoder_whose_tokenizer_has_no_special_tokens(tmp_path, cli, whole_run):
    """One token is enough."""
    backend = Tokenizer(BPE({"a": 0, "b": 1}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    model = GPT2Model(GPT2Config(vocab_size=2, n_positions=8, n_embd=16, n_layer=1, n_head=2)).eval()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "gpt2")
    for number, text in enumerate(("a", "abba")):
        assert cli("look", tmp_path / "gpt2", text, "-o", tmp_path / str(number), "-q") == 0
        content = read(tmp_path / str(number) / "look.json")
        assert content["tokens"] == list(text)
        weights = np.array(content["chosen"][0]["weights"])
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-4)
        assert not np.triu(weights, 1).any()
    seen = look(model, tokenizer, "a")
    assert seen.maps_LHTT.tolist() == [[[[1.0]], [[1.0]]]]


def test_models_without_a_mask_token_are_measured_too(tmp_path, cli, whole_run, corpus, sentences):
    shutil.copytree(whole_run / "model", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path / "model")
    census = ["census", tmp_path / "model", corpus, "--sequences", 2, "--similarity-rows", 0]
    probe = ["probe", tmp_path / "model", sentences, "--task", "reflexive"]
    report = ["report", tmp_path / "model", "--text", corpus, "--sequences", 2]
    for command in (census, probe, report):
        assert cli(*command, "-o", tmp_path / command[0], "-q") == 0


def test_what_is_refused(tmp_path, refusal, whole_run):
    out = ["-o", tmp_path / "out"]
    cases = {
        "SENTENCE '': give a sentence": [whole_run, "", *out],
        "SECOND '': give a sentence": [whole_run, TEXT, "", *out],
        "SENTENCE 'abe \\udcff': character 5 of the text is not valid Unicode": [whole_run, "abe \udcff", *out],
        "the sequence has": [whole_run, "abc " * 60, *out],
        "layer 3, head 0 does not exist: the model has layers 0 to 0, each with heads 0 to 1": [
            whole_run,
            TEXT,
            *out,
            "--heads",
            "3.0",
        ],
        "'3' must be a layer and a head, such as 0.3": [whole_run, TEXT, *out, "--heads", "3"],
        "no such folder": [tmp_path / "nowhere", TEXT, *out],
    }
    for message, arguments in cases.items():
        assert message in refusal("look", *arguments), message
        assert not (tmp_path / "out").exists(), message


def test_nothing_is_overwritten_unless_asked(tmp_path, cli, refusal, whole_run, capsys):
    arguments = ["look", whole_run, "abc", "-o", tmp_path / "l"]
    assert cli(*arguments) == 0
    assert "look.html" in capsys.readouterr().out.replace("\n", "")  # a long path is broken
    before = (tmp_path / "l" / "look.json").read_bytes()
    assert "holds look.json already; replace it with --overwrite" in refusal(*arguments)
    assert (tmp_path / "l" / "look.json").read_bytes() == before
    assert cli(*arguments, "--overwrite", "-q") == 0
    assert capsys.readouterr().out == ""
