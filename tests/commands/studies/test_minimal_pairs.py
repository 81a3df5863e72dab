"""Minimal pairs are scored as by a plain loop over masked tokens, whatever is batched; accuracies are BLiMP's."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from attention_guidance.commands.probes.pseudo_likelihood import n_predictions, pseudo_log_likelihoods
from attention_guidance.commands.studies.minimal_pairs import _accuracy

SENTENCES = ["Cats sleep.", "Unbelievable cats sleep.", "x", "Cats sleep ."]


def plain(model, tokenizer, sentence):
    """One token a forward pass, with the later tokens of its word masked too."""
    encoded = tokenizer(sentence, return_tensors="pt", return_special_tokens_mask=True)
    special, words, ids = encoded.pop("special_tokens_mask")[0], encoded.word_ids(0), encoded["input_ids"][0]
    total = 0.0
    for at in range(len(ids)):
        if special[at]:
            continue
        masked = ids.clone()
        for other in range(at, len(ids)):
            if words[other] == words[at]:
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
    if side == "left" and batch_tokens > 1:
        pytest.skip("learned positions move with padding on the left")
    found = pseudo_log_likelihoods(model, tokenizer, SENTENCES, batch_tokens=batch_tokens)
    assert found == pytest.approx([plain(model, tokenizer, sentence) for sentence in SENTENCES], abs=1e-4)
    assert n_predictions(tokenizer, SENTENCES) > 20
    # Its head predicts at all positions again.
    assert model(**tokenizer("a b", return_tensors="pt")).logits.dim() == 3


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


@pytest.fixture
def pairs(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows = [
        {"sentence_good": f"Cat {n} sleeps.", "sentence_bad": f"Cat {n} sleep.", "UID": "agreement",
         "linguistics_term": "subject_verb", "field": "morphology"}
        for n in range(6)
    ]  # fmt: skip
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    same = {"sentence_good": "The same.", "sentence_bad": "The same."}
    (folder / "b.jsonl").write_text("\n".join([json.dumps(same)] * 3))
    return folder


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
        ("[" * 20_000, "a.jsonl:2: not a JSON object"),
        ('{"sentence_good": ' + "9" * 5000 + "}", "a.jsonl:2: not a JSON object"),
    ],
)
def test_a_bad_line_is_named(tmp_path, cli, whole_run, capsys, line, said):
    file = tmp_path / "a.jsonl"
    file.write_text('{"sentence_good": "a", "sentence_bad": "b"}\n' + line)
    assert cli("probe", whole_run, file, "--task", "minimal-pairs", "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


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
