"""Minimal pairs are scored as by a plain loop over masked tokens, whatever is batched; accuracies are BLiMP's."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.normalizers import BertNormalizer, Replace
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BartConfig,
    BertConfig,
    ConvBertConfig,
    DebertaV2Config,
    ElectraConfig,
    FNetConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
)

from attention_guidance.commands.probes import pseudo_likelihood
from attention_guidance.commands.probes.pseudo_likelihood import n_tokens, pseudo_log_likelihoods
from attention_guidance.commands.studies.minimal_pairs import _accuracy

SENTENCES = ["Cats sleep.", "Unbelievable cats sleep.", "x", "Cats sleep ."]


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = ["cats sleep unbelievable x ab Cats . sleep"] * 5
WORDPIECE = Tokenizer(WordPiece(unk_token="[UNK]")), BertNormalizer(), BertPreTokenizer(), WordPieceTrainer
UNIGRAM = Tokenizer(Unigram()), None, Metaspace(), UnigramTrainer
# Without pre-tokenization, as in Gemma's: the whole sentence has one word number.
UNSPLIT = Tokenizer(Unigram()), Replace(" ", "▁"), None, UnigramTrainer
BYTES = Tokenizer(BPE()), None, ByteLevel(add_prefix_space=False), BpeTrainer
TOKENIZERS = {"wordpiece": WORDPIECE, "unigram": UNIGRAM, "unsplit": UNSPLIT, "bytes": BYTES}


def tokenizer_of(kind, side="right"):
    backend, normalizer, pre_tokenizer, trainer = TOKENIZERS[kind]
    backend = Tokenizer.from_str(backend.to_str())
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    more = {"unk_token": "[UNK]"} if trainer is UnigramTrainer else {}
    size = 300 if kind == "bytes" else 40
    backend.train_from_iterator(TEXTS, trainer(vocab_size=size, special_tokens=SPECIAL, **more))
    ends = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, padding_side=side, **{f"{name}_token": token for name, token in names.items()}
    )


def plain(model, tokenizer, sentence):
    """One token a forward pass, with the later tokens of its word masked too."""
    encoded = tokenizer(
        sentence,
        return_tensors="pt",
        return_special_tokens_mask=True,
        return_offsets_mapping=True,
        split_special_tokens=True,
    )
    special, offsets = encoded.pop("special_tokens_mask")[0], encoded.pop("offset_mapping")[0].tolist()
    ids = encoded["input_ids"][0]
    # White space belongs to the word after it.
    words = [
        (word, len(re.findall(r"\s+", sentence[:end])))
        for word, (_, end) in zip(encoded.word_ids(0), offsets, strict=True)
    ]
    total = 0.0
    for at in range(len(ids)):
        if special[at]:
            continue
        masked = ids.clone()
        for other in range(at, len(ids)):
            if words[other] == words[at] and not special[other]:
                masked[other] = tokenizer.mask_token_id
        logits = model(input_ids=masked[None]).logits[0, at]
        total += float(logits.log_softmax(-1)[ids[at]])
    return total


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
@torch.no_grad()
def test_scores_are_those_of_a_plain_loop(whole_run, side, batch_tokens):
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    model = AutoModelForMaskedLM.from_pretrained(whole_run / "model").eval()
    tokenizer.padding_side = side
    done = []
    found = pseudo_log_likelihoods(model, tokenizer, SENTENCES, batch_tokens=batch_tokens, progress=done.append)
    assert found == pytest.approx([plain(model, tokenizer, sentence) for sentence in SENTENCES], abs=1e-4)
    assert done[-1] == sum(n_tokens(tokenizer, SENTENCES, special=False)) > 20
    # Its head predicts at all positions again.
    assert model(**tokenizer("a b", return_tensors="pt")).logits.dim() == 3


WIDE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "pad_token_id": 0,
}
FAMILIES = {
    "bert": (BertConfig, {}),
    "modernbert": (ModernBertConfig, {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}),
    "electra": (ElectraConfig, {"embedding_size": 16}),
    "deberta": (DebertaV2Config, {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    # What these predict depends on padding.
    "convbert": (ConvBertConfig, {"embedding_size": 32}),
    "fnet": (FNetConfig, {}),
}


@pytest.mark.parametrize(
    ("family", "kind", "side"),
    [
        *(("bert", kind, "right") for kind in TOKENIZERS),
        *((family, "unigram", side) for family in FAMILIES for side in ("right", "left")),
    ],
)
@torch.no_grad()
def test_scores_of_other_families_and_tokenizers(family, kind, side):
    torch.manual_seed(0)
    make, more = FAMILIES[family]
    model = AutoModelForMaskedLM.from_config(make(**WIDE, **more)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(4)  # random models hardly look at other tokens
    tokenizer = tokenizer_of(kind, side)
    sentences = [*SENTENCES, SENTENCES[0], "a  b \U0001f600 [MASK] é", "\u200b", "cats sleep unbelievable cats"]
    wanted = [plain(model, tokenizer, sentence) for sentence in sentences]
    assert pseudo_log_likelihoods(model, tokenizer, sentences) == pytest.approx(wanted, abs=2e-3)


def test_words_of_several_tokens_are_masked_from_the_left(whole_run):
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    words = tokenizer(SENTENCES[1]).word_ids(0)
    assert max(words.count(word) for word in set(words) - {None}) > 2


def test_accuracy_is_the_mean_over_paradigms():
    found = _accuracy([[1.0, 1.0, 0.5, 0.0], [1.0, 0.0]])
    assert found["value"] == pytest.approx((0.625 + 0.5) / 2)
    half = 1.96 * np.sqrt(np.var([1, 1, 0.5, 0], ddof=1) / 4 + np.var([1, 0], ddof=1) / 2) / 2
    assert (found["low"], found["high"]) == pytest.approx((found["value"] - half, 1))
    assert np.isnan(_accuracy([[1.0]])["low"])


def test_the_command_scores_a_folder_and_checkpoints(tmp_path, cli, whole_run, pairs, capsys):
    out = tmp_path / "out"
    assert cli("probe", whole_run, pairs, "--task", "minimal-pairs", "-o", out) == 0
    content = json.loads((out / "minimal_pairs.json").read_text())
    assert (content["kind"], content["pairs"]) == ("minimal_pairs", 9)
    (last,) = content["snapshots"]
    assert {row["name"]: row["pairs"] for row in last["paradigms"]} == {"agreement": 6, "b": 3}
    assert [row["value"] for row in last["paradigms"] if row["name"] == "b"] == [0.5]  # ties
    assert [row["name"] for row in last["fields"]] == ["morphology"]
    assert last["accuracy"]["value"] == pytest.approx(np.mean([row["value"] for row in last["paradigms"]]))
    rows = (out / "minimal_pairs.csv").read_text().splitlines()
    assert len(rows) == 10
    good = [float(row.split(",")[-2]) > float(row.split(",")[-1]) for row in rows[1:7]]
    assert [row["value"] for row in last["paradigms"] if row["name"] == "agreement"] == [pytest.approx(np.mean(good))]
    assert (out / "minimal_pairs.svg").exists()
    assert "all paradigms" in capsys.readouterr().out
    assert cli("probe", whole_run, pairs, "--task", "minimal-pairs", "-o", tmp_path / "c", "--checkpoints", "-q") == 0
    steps = [s["step"] for s in json.loads((tmp_path / "c" / "minimal_pairs.json").read_text())["snapshots"]]
    assert len(steps) >= 1
    assert steps == sorted(steps)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"sentence_good": "a"}', "a.jsonl:2: no text in sentence_bad"),
        ('{"sentence_good": 3, "sentence_bad": "b"}', "a.jsonl:2: no text in sentence_good"),
        ("[]", "a.jsonl:2: not a JSON object"),
        (r'{"sentence_good": "a\ud800", "sentence_bad": "b"}', "a.jsonl:2: a lone surrogate"),
        (r'{"sentence_good": "a", "sentence_bad": "b", "UID": "\udfff"}', "a.jsonl:2: a lone surrogate"),
        ("[" * 20_000, "a.jsonl:2: not JSON (nested too deeply)"),
        ('{"sentence_good": ' + "9" * 5000 + "}", "a.jsonl:2: not JSON ("),
    ],
)
def test_a_bad_line_is_named(tmp_path, cli, whole_run, capsys, line, said):
    file = tmp_path / "a.jsonl"
    file.write_text('{"sentence_good": "a", "sentence_bad": "b"}\n' + line)
    assert cli("probe", whole_run, file, "--task", "minimal-pairs", "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def _bert(n_tokens):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertConfig(vocab_size=n_tokens, max_position_embeddings=32, **sizes)


@pytest.mark.parametrize("command", ["probe", "skill"])
def test_the_batch_size_is_that_of_forward_passes(
    tmp_path, cli, whole_run, many_checkpoints, pairs, command, monkeypatch
):
    sizes = []
    scored = pseudo_likelihood._log_probabilities
    monkeypatch.setattr(
        pseudo_likelihood,
        "_log_probabilities",
        lambda model, tokenizer, rows: sizes.append(len(rows)) or scored(model, tokenizer, rows),
    )
    given = [whole_run, pairs] if command == "probe" else [many_checkpoints, "--data", pairs]
    run = [command, *given, "--task", "minimal-pairs", "-q", "--batch-size", 3]
    assert cli(*run, "-o", tmp_path / "out") == 0
    assert max(sizes) == 3


def test_a_token_a_sentence_is_enough(tmp_path, cli):
    model, tokenizer = AutoModelForMaskedLM.from_config(_bert(60)).eval(), tokenizer_of("wordpiece")
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "bert")
    lines = [json.dumps({"sentence_good": "x", "sentence_bad": "."})] * 10
    (tmp_path / "one.jsonl").write_text("\n".join(lines))
    task = ["--task", "minimal-pairs", "-q"]
    assert cli("probe", tmp_path / "bert", tmp_path / "one.jsonl", *task, "-o", tmp_path / "p") == 0
    good, bad = (tmp_path / "p" / "minimal_pairs.csv").read_text().splitlines()[1].split(",")[-2:]
    with torch.no_grad():
        assert float(good) == pytest.approx(plain(model, tokenizer, "x"), abs=1e-5)
        assert float(bad) == pytest.approx(plain(model, tokenizer, "."), abs=1e-5)
    assert cli("ablate", tmp_path / "bert", tmp_path / "one.jsonl", *task, "-o", tmp_path / "a") == 0


def test_what_does_not_fit_is_refused(tmp_path, cli, whole_run, pairs, capsys):
    out = ["-o", tmp_path / "out"]
    assert cli("probe", whole_run, pairs, "--task", "minimal-pairs", *out, "--protocol", "authors") == 2
    assert "--distractors and --protocol are for --task reflexive" in capsys.readouterr().err
    assert cli("probe", whole_run, pairs, "--task", "reflexive", *out, "--checkpoints") == 2
    assert "--checkpoints is for --task minimal-pairs" in capsys.readouterr().err
    encoder = tmp_path / "encoder"
    AutoModelForMaskedLM.from_pretrained(whole_run / "model").base_model.save_pretrained(encoder)
    AutoTokenizer.from_pretrained(whole_run / "model").save_pretrained(encoder)
    assert cli("probe", encoder, pairs, "--task", "minimal-pairs", *out) == 2
    assert "has no masked language model head" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert cli("probe", whole_run, tmp_path / "empty", "--task", "minimal-pairs", *out) == 2
    assert "no minimal pairs; expected .jsonl files" in capsys.readouterr().err
    bart = BartConfig(
        **{"vocab_size": 320, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32},
        **{"decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
    )
    AutoModelForMaskedLM.from_config(bart).save_pretrained(tmp_path / "bart")
    tokenizer_of("bytes").save_pretrained(tmp_path / "bart")
    assert cli("probe", tmp_path / "bart", pairs, "--task", "minimal-pairs", *out) == 2
    assert "has a decoder; pairs are scored by a masked language model" in capsys.readouterr().err
    (tmp_path / "blank.jsonl").write_text(json.dumps({"sentence_good": "cats", "sentence_bad": "\u200b"}))
    AutoModelForMaskedLM.from_config(_bert(60)).save_pretrained(tmp_path / "bert")
    tokenizer_of("wordpiece").save_pretrained(tmp_path / "bert")
    for command in ("probe", "ablate"):
        assert cli(command, tmp_path / "bert", tmp_path / "blank.jsonl", "--task", "minimal-pairs", *out) == 2
        assert r"the tokenizer finds no token in the sentence '\u200b'; correct or remove" in capsys.readouterr().err
    maskless = AutoTokenizer.from_pretrained(whole_run / "model")
    maskless.mask_token = None
    shutil.copytree(whole_run / "model", tmp_path / "maskless")
    maskless.save_pretrained(tmp_path / "maskless")
    for command in ("probe", "ablate"):
        assert cli(command, tmp_path / "maskless", pairs, "--task", "minimal-pairs", *out) == 2
        said = capsys.readouterr().err
        assert "no mask token; give the tokenizer of a masked language model" in said
        assert said.count("\n") == 1
    broken = AutoModelForMaskedLM.from_pretrained(whole_run / "model")
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    broken.save_pretrained(tmp_path / "nan")
    AutoTokenizer.from_pretrained(whole_run / "model").save_pretrained(tmp_path / "nan")
    assert cli("probe", tmp_path / "nan", pairs, "--task", "minimal-pairs", *out) == 2
    assert "its scores are NaN" in capsys.readouterr().err


def test_a_model_in_half_precision_scores_in_single(tmp_path, cli, whole_run, pairs):
    half = AutoModelForMaskedLM.from_pretrained(whole_run / "model").to(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    tokenizer.save_pretrained(tmp_path / "half")
    assert cli("probe", tmp_path / "half", pairs, "--task", "minimal-pairs", "-o", tmp_path / "out", "-q") == 0
    row = (tmp_path / "out" / "minimal_pairs.csv").read_text().splitlines()[1].split(",")
    with torch.no_grad():
        assert float(row[-1]) == pytest.approx(plain(half.float().eval(), tokenizer, row[-3]), abs=1e-4)
