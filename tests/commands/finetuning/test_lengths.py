"""What fine-tuning requires of a tokenizer, how long texts may be, and how the tokenizer is saved."""

from __future__ import annotations

import random

import pytest
import torch
from finetunings import read
from seqeval.metrics import f1_score
from tokenizers import processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    pipeline,
)

from attention_guidance.commands.finetuning.fits.kept import write_fine_tuned
from attention_guidance.commands.studies.models import longest_sequence
from attention_guidance.commands.tokenization.byte_level import load_tokenizer
from attention_guidance.errors import ConfigError

FAST = ["--epochs", "1", "--batch-size", "8", "--learning-rates", "1e-2", "--seeds", "1", "--no-baseline", "-q"]


@pytest.fixture
def long_model(tmp_path, whole_run):
    """A model with 8,192 positions, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    tokenizer.model_max_length = 8192
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=8192, **sizes))
    model.save_pretrained(tmp_path / "long")
    tokenizer.save_pretrained(tmp_path / "long")
    return tmp_path / "long"


def test_a_long_model_takes_what_it_has_positions_for(tmp_path, cli, long_model, capsys):
    model, tokenizer = BertModel.from_pretrained(long_model), AutoTokenizer.from_pretrained(long_model)
    assert longest_sequence(model, tokenizer) == 8192
    assert longest_sequence(model, tokenizer, 9000) == 8192
    tokenizer.model_max_length = 2048
    assert longest_sequence(model, tokenizer) == 2048
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(f"{'b d ' * 290}{x}\t{x}\n" for x in "xyxyxy"))
    files = ["--train", tmp_path / "a.tsv", "--dev", tmp_path / "a.tsv"]
    command = ["finetune", long_model, "--task", "classify", *files, "-o", tmp_path / "out", *FAST]
    assert cli(*command, "--max-length", "8193") == 2
    assert "--max-length 8193: this model takes at most 8192 tokens" in capsys.readouterr().err
    assert cli(*command, "--max-length", "700") == 0
    content = read(tmp_path / "out")
    assert content["settings"]["max_length"] == 700
    assert content["data"]["train"]["cut"] == 0
    saved = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    assert saved.model_max_length == 700
    assert cli(*command, "--overwrite") == 0
    content = read(tmp_path / "out")
    assert content["data"]["train"]["cut"] == 6
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "model").model_max_length == 512


@pytest.mark.parametrize("longest", [8, 24, 512])
@pytest.mark.parametrize("before", [32, int(1e30)])
def test_a_saved_model_is_given_no_more_than_it_was_fine_tuned_on(tmp_path, long_model, longest, before):
    tokenizer = AutoTokenizer.from_pretrained(long_model)
    tokenizer.model_max_length = before
    model = AutoModelForSequenceClassification.from_pretrained(long_model)
    write_fine_tuned(tmp_path / "out", model, tokenizer, longest, lambda folder: None)
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (saved.model_max_length, tokenizer.model_max_length) == (longest, before)
    assert len(saved("b d " * 500, truncation=True)["input_ids"]) == longest
    named = f"b {tokenizer.mask_token} d {tokenizer.eos_token}"
    assert saved(named)["input_ids"] == tokenizer(named, split_special_tokens=True)["input_ids"]
    assert saved(named)["input_ids"] != tokenizer(named)["input_ids"]


def without_mask(tokenizer, **others):
    """A tokenizer like T5's: an end token, but no mask and no beginning token."""
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", model_max_length=64, **{"pad_token": "<pad>"} | others
    )


@pytest.fixture
def t5_encoder(tmp_path, whole_run):
    tokenizer = without_mask(AutoTokenizer.from_pretrained(whole_run / "model"), eos_token="</s>")
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(tokenizer), eos_token_id=2, pad_token_id=1, decoder_start_token_id=1, **sizes)
    T5EncoderModel(config).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    return tmp_path / "t5"


def test_an_encoder_of_t5_needs_no_mask(tmp_path, cli, t5_encoder, table):
    files, out = table(["x", "y"], n=160), tmp_path / "out"
    assert cli("finetune", t5_encoder, "--task", "classify", *files, "-o", out, *FAST, "--epochs", "4") == 0
    assert read(out)["scores"]["accuracy"]["mean"] > 0.9
    say = pipeline("text-classification", model=str(out / "model"))
    assert say.model.config.num_decoder_layers == 1
    for line in (out / "predictions" / "test-seed-1.tsv").read_text().splitlines()[1:]:
        text, _, predicted = line.split("\t")
        assert say(text)[0]["label"] == predicted


def test_an_encoder_of_t5_labels_words_by_those_around_them(tmp_path, cli, t5_encoder):
    """The word before `bc` determines its label, but every tenth label is wrong: the best possible F1 is 0.9."""
    chance, files, out = random.Random(0), [], tmp_path / "out"
    for split, n in (("train", 600), ("dev", 40), ("test", 60)):
        sentences = []
        for number in range(n):
            first, kind = chance.choice([("aa", "xy"), ("eed", "yx")])
            kind = kind[number % 10 == 9]
            after = chance.choice(["cd", "dg f"])
            sentences.append(
                f"{first} O\nbc B-{kind}\ngg I-{kind}\n" + "".join(f"{word} O\n" for word in after.split())
            )
        (tmp_path / f"{split}.txt").write_text("\n".join(sentences))
        files += [f"--{split}", tmp_path / f"{split}.txt"]
    assert cli("finetune", t5_encoder, "--task", "ner", *files, "-o", out, *FAST, "--epochs", "4") == 0
    blocks = (out / "predictions" / "test-seed-1.txt").read_text().strip("\n").split("\n\n")
    rows = [[line.split(" ") for line in block.split("\n")] for block in blocks]
    gold, predicted = ([[row[place] for row in sentence] for sentence in rows] for place in (1, 2))
    assert f1_score(gold, predicted) == pytest.approx(read(out)["scores"]["f1"]["mean"])
    assert f1_score(gold, predicted) == pytest.approx(0.9)
    assert all((one[1] == "B-x") == (sentence[0][0] == "aa") for one, sentence in zip(predicted, rows, strict=True))
    say = pipeline("ner", model=str(out / "model"), ignore_labels=[])
    assert type(say.model).__name__ == "T5ForTokenClassification"
    for sentence, labels in zip(rows, predicted, strict=True):
        text, end = " ".join(word for word, *_ in sentence), -1
        tokens = say(text)
        for (word, *_), label in zip(sentence, labels, strict=True):
            start, end = end + 1, end + 1 + len(word)
            assert next(token["entity"] for token in tokens if start < token["end"] <= end) == label, (text, word)


def test_what_has_no_limit_takes_the_length_that_is_asked_for(tmp_path, cli, t5_encoder):
    tokenizer = AutoTokenizer.from_pretrained(t5_encoder)
    tokenizer.model_max_length = int(1e30)
    tokenizer.save_pretrained(t5_encoder)
    model = T5EncoderModel.from_pretrained(t5_encoder)
    assert longest_sequence(model, tokenizer) == 512
    assert longest_sequence(model, tokenizer, 700) == 700
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(f"{'b d ' * 290}{x}\t{x}\n" for x in "xyxyxy"))
    command = ["finetune", t5_encoder, "--task", "classify", "--train", tmp_path / "a.tsv", "--dev", tmp_path / "a.tsv"]
    for length, expected, cut in ((["--max-length", "700"], 700, 0), ([], 512, 6)):
        assert cli(*command, "-o", tmp_path / f"out{expected}", *FAST, *length) == 0
        content = read(tmp_path / f"out{expected}")
        assert (content["settings"]["max_length"], content["data"]["train"]["cut"]) == (expected, cut)


def test_a_tokenizer_is_asked_for_what_is_needed(tmp_path, cli, whole_run, t5_encoder, table, capsys):
    with pytest.raises(ConfigError, match="no mask and no cls or bos token; give the tokenizer of a masked language"):
        load_tokenizer(str(t5_encoder))
    assert load_tokenizer(str(t5_encoder), ["pad", "sep or eos"]).mask_token is None
    # A task does not need an end token, but batches need padding.
    bare = without_mask(AutoTokenizer.from_pretrained(whole_run / "model"))
    bare.save_pretrained(tmp_path / "bare")
    assert load_tokenizer(str(tmp_path / "bare"), ["pad"]).eos_token is None
    without_mask(AutoTokenizer.from_pretrained(whole_run / "model"), pad_token=None).save_pretrained(t5_encoder)
    command = ["finetune", t5_encoder, "--task", "classify", *table(["x", "y"], n=24), "-o", tmp_path / "out"]
    assert cli(*command) == 2
    assert "no pad token; give the tokenizer of the model, or train one" in capsys.readouterr().err
