"""The command `ablate`: what it writes, how it reads a run, and what it refuses."""

from __future__ import annotations

import csv
import itertools
import json

import numpy as np
import pytest
import torch
from looked_at import read
from transformers import AutoModelForMaskedLM, AutoTokenizer, BartConfig, DebertaV2Config

from attention_guidance.analysis import without_heads
from attention_guidance.commands.annotations.minimal_pairs import read_minimal_pairs
from attention_guidance.commands.objectives.masking import Masking
from attention_guidance.commands.probes.pseudo_likelihood import pseudo_log_likelihoods
from attention_guidance.commands.report.figures.ablation import all_figures
from attention_guidance.commands.studies.ablation.samples import pair_sample
from attention_guidance.commands.studies.ablation.table import conclusion
from attention_guidance.commands.text.blocks import pack

SMALL = ["--tokens", 20 * 24, "--block-size", 24, "-q"]


@pytest.fixture(scope="module")
def ablated(tmp_path_factory, cli, whole_run, corpus):
    folder = tmp_path_factory.mktemp("ablated")
    assert cli("ablate", whole_run, corpus, "-o", folder, *SMALL, "--greedy") == 0
    return folder


def test_what_is_written(ablated):
    content = read(ablated / "ablate.json")
    assert (content["kind"], content["schema_version"], content["to"]) == ("ablate", 1, "zero")
    assert (content["model"], content["task"]) == ("run", "loss")
    assert content["corpus"].endswith("corpus.txt")
    sample = {"sequences": 20, "tokens": 480, "predicted": 20 * 4, "block_size": 24, "seed": 1}
    assert content["sample"] == sample
    assert [(head["layer"], head["head"], head["guided_toward"]) for head in content["heads"]] == [
        (0, 0, "next"), (0, 1, None),
    ]  # fmt: skip
    for head in content["heads"]:
        assert head["difference"]["low"] <= head["difference"]["value"] <= head["difference"]["high"]
        assert head["replaced_by"] is None
        assert (head["mass"] is None) == (head["follows"] is None)
    groups, (guided, other) = content["groups"], content["heads"]
    assert (groups["by"], groups["heads"]) == ("guided_toward", 1)
    assert groups["mean"] == pytest.approx(guided["difference"])
    gap = guided["difference"]["value"] - other["difference"]["value"]
    assert groups["gap"]["value"] == pytest.approx(gap)
    first, second = content["greedy"]
    least = min(content["heads"], key=lambda head: head["difference"]["value"])
    assert (first["layer"], first["head"], first["difference"]) == (least["layer"], least["head"], least["difference"])
    assert second["loss"] == pytest.approx(content["loss"]["value"] + second["difference"]["value"])
    for name in ("worth", "greedy"):
        assert (ablated / f"{name}.svg").read_text().startswith("<?xml")
        assert (ablated / f"{name}.png").stat().st_size > 1000


def test_the_table_has_a_row_for_each_head(ablated):
    content = read(ablated / "ablate.json")
    with (ablated / "ablate.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == [
        "layer", "head", "difference", "difference_low", "difference_high", "follows", "mass", "guided_toward",
        "replaced_by", "removed", "loss_then",
    ]  # fmt: skip
    assert [float(row["difference"]) for row in rows] == [head["difference"]["value"] for head in content["heads"]]
    assert [rows[step["head"]]["removed"] for step in content["greedy"]] == ["1", "2"]
    assert [float(rows[step["head"]]["loss_then"]) for step in content["greedy"]] == [
        step["loss"] for step in content["greedy"]
    ]


@torch.no_grad()
def test_the_loss_is_that_of_a_model_changed_by_hand(ablated, cli, whole_run, corpus, tmp_path):
    """All blocks of the text, masked once for all heads."""
    assert cli("ablate", whole_run, corpus, "-o", tmp_path / "a", "--tokens", 10**6, "--seed", 3, "-q") == 0
    content = read(tmp_path / "a" / "ablate.json")
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    model = AutoModelForMaskedLM.from_pretrained(whole_run / "model").eval()
    blocks = pack(corpus.read_text().splitlines(), tokenizer, 32)
    assert content["sample"]["sequences"] == len(blocks)
    masking, rng = Masking.for_tokenizer(tokenizer), np.random.default_rng(3)
    drawn = [masking(ids, int(length), rng) for ids, length in zip(blocks.ids, blocks.lengths, strict=True)]
    inputs, labels = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
    assert content["loss"]["value"] == pytest.approx(float(model(input_ids=inputs, labels=labels).loss), abs=1e-5)
    output = model.roberta.encoder.layer[0].attention.output.dense
    whole = output.weight.clone()
    for head in content["heads"]:
        output.weight.copy_(whole)
        output.weight[:, 16 * head["head"] : 16 * (head["head"] + 1)] = 0
        without = float(model(input_ids=inputs, labels=labels).loss)
        expected = without - content["loss"]["value"]
        assert head["difference"]["value"] == pytest.approx(expected, abs=1e-5)
    assert max(abs(head["difference"]["value"]) for head in content["heads"]) > 1e-3


@pytest.fixture
def pairs(tmp_path, corpus):
    """Lines of the text, and their words in another order."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    lines = [line.split()[:4] for line in corpus.read_text().splitlines()[:49]]
    orders = [(1, 0, 2, 3), (0, 2, 1, 3)]
    rows = [
        {"sentence_good": " ".join(words), "sentence_bad": " ".join(words[n] for n in order)}
        for words in lines
        for order in orders
    ]
    long = " ".join(["word"] * 40)
    rows += [{"sentence_good": "abe", "sentence_bad": "abe"}, {"sentence_good": long, "sentence_bad": "abe"}]
    (folder / "order.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_minimal_pairs_against_scores_without_a_head(tmp_path, cli, refusal, whole_run, pairs):
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    model = AutoModelForMaskedLM.from_pretrained(whole_run / "model").eval()
    with torch.no_grad():
        attention = model.roberta.encoder.layer[0].attention
        for part in (attention.self.value, attention.output.dense):
            part.weight.mul_(30)  # so small a model hardly looks at other tokens
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "sharp")
    task = [pairs, "--task", "minimal-pairs", "-q"]
    assert cli("ablate", tmp_path / "sharp", *task, "-o", tmp_path / "a", "--batch-size", 40, "--greedy") == 0
    content = read(tmp_path / "a" / "ablate.json")
    assert (content["task"], content["sample"]) == ("minimal-pairs", {"pairs": 99, "seed": 1})  # one is too long
    # The same batches, so that near ties fall the same way.
    drawn = pair_sample(pairs, model, tokenizer, n_pairs=500, batch_size=40, seed=1).given
    kept = [pair for batch in drawn for pair in batch["pairs"]]
    assert sorted(kept, key=str) == sorted(read_minimal_pairs(pairs)[:99], key=str)

    def share_of_wrong_pairs():
        n_wrong = 0.0
        for batch in drawn:
            sentences = [text for pair in batch["pairs"] for text in (pair.good, pair.bad)]
            scores = pseudo_log_likelihoods(model, tokenizer, sentences)
            n_wrong += sum((b > g) + (b == g) / 2 for g, b in zip(scores[::2], scores[1::2], strict=True))
        return n_wrong / 99

    assert content["loss"]["value"] == pytest.approx(share_of_wrong_pairs())
    for head in content["heads"]:
        with without_heads(model, [(head["layer"], head["head"])]):
            without = share_of_wrong_pairs()
        assert head["difference"]["value"] == pytest.approx(without - content["loss"]["value"])
    assert any(head["difference"]["value"] for head in content["heads"])
    assert len(content["greedy"]) == 2
    out = ["-o", tmp_path / "out"]
    said = refusal("ablate", whole_run, *task, *out, "--to", "mean")
    assert "--to 'mean' is the mean over masked text; with --task 'minimal-pairs'" in said
    assert "one file or folder of pairs, not 2" in refusal("ablate", whole_run, pairs, *task, *out)
    assert "9 pairs that the model can read are too few" in refusal("ablate", whole_run, *task, *out, "--pairs", 9)
    assert "--task 'pairs': must be loss or minimal-pairs" in refusal("ablate", whole_run, *out, "--task", "pairs")


def test_the_seed_draws_sample_and_masks(tmp_path, cli, whole_run, corpus):
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert cli("ablate", whole_run, corpus, "-o", tmp_path / name, *SMALL, "--seed", seed) == 0
        found.append(read(tmp_path / name / "ablate.json"))
    assert [content["greedy"] for content in found] == [None] * 3
    losses = [content["loss"]["value"] for content in found]
    assert losses[0] == losses[1] != losses[2]
    assert found[0]["heads"] == found[1]["heads"]


def test_other_things_in_place_of_a_head(tmp_path, cli, whole_run, ablated, corpus):
    differences = {"zero": [head["difference"]["value"] for head in read(ablated / "ablate.json")["heads"]]}
    for to in ("mean", "pattern", "next", "delimiter"):
        assert cli("ablate", whole_run, corpus, "-o", tmp_path / to, *SMALL, "--to", to) == 0
        content = read(tmp_path / to / "ablate.json")
        differences[to] = [head["difference"]["value"] for head in content["heads"]]
        by = [head["replaced_by"] for head in content["heads"]]
        if to == "pattern":
            assert by[0] == "next"  # guided toward it
            assert by[1] in {"next", "previous", "same", "first", "delimiter", "period"}
        else:
            assert by == [None if to == "mean" else to] * 2
    assert differences["pattern"][0] == differences["next"][0]
    for one, other in itertools.combinations(("zero", "mean", "next", "delimiter"), 2):
        assert differences[one] != differences[other]


def test_what_is_printed(tmp_path, cli, whole_run, corpus, capsys):
    arguments = [argument for argument in SMALL if argument != "-q"]
    assert cli("ablate", whole_run, corpus, "-o", tmp_path / "a", *arguments, "--greedy", 1) == 0
    said = " ".join(capsys.readouterr().out.split())
    content = read(tmp_path / "a" / "ablate.json")
    assert len(content["greedy"]) == 1
    assert "run: loss without each head (in its place: zero) minus" in said
    assert f"{content['heads'][1]['difference']['value']:+.4f}" in said
    assert " ".join(conclusion(content).split()) in said
    assert "guided toward this pattern in training" in said


def made_up(differences, guided=(), greedy=None, gap=(0.1, 0.2)):
    """The content of a result, with half of the first difference to each side as interval."""
    heads = [
        {"layer": n // 2, "head": n % 2, "difference": {"value": x, "low": x - 0.05, "high": x + 0.05},
         "follows": "first" if n % 2 else None, "mass": 0.9 if n % 2 else None,
         "guided_toward": "next" if n in guided else None, "replaced_by": None}
        for n, x in enumerate(differences)
    ]  # fmt: skip
    estimate = {"value": sum(gap) / 2, "low": gap[0], "high": gap[1]}
    groups = {"by": "guided_toward" if guided else "follows", "heads": 1} | dict.fromkeys(
        ("mean", "others", "gap"), estimate
    )
    steps = [
        {"layer": n // 2, "head": n % 2, "loss": 4 + x, "difference": {"value": x, "low": x - 0.01, "high": x + 0.01}}
        for n, x in enumerate(greedy or ())
    ]
    loss = {"value": 4.0, "low": 3.9, "high": 4.1}
    return {
        "model": "m",
        "task": "loss",
        "to": "zero",
        "loss": loss,
        "heads": heads,
        "groups": groups,
        "greedy": steps or None,
    }


def test_the_conclusion():
    content = made_up([0.2, 0.01, -0.3, 0.06], guided=[0], greedy=[-0.1, 0.05, 0.2, 1.5])
    said = conclusion(content)
    assert said.startswith("With zeros in place, the loss is shown to rise without 2 of 4 heads, one at a time; ")
    assert "it rises more without guided heads than without others: +0.1500 against +0.1500" in said
    assert "2 can go, the least needed first, before the loss has risen by 0.1 nats (4 gone: 5.500)." in said
    assert "it rises less without guided heads" in conclusion(made_up([0.2, 0.1], guided=[0], gap=(-0.3, -0.1)))
    said = conclusion(made_up([0.2, 0.1], gap=(-0.1, 0.2)))
    assert "no difference between heads that follow a pattern and others is shown" in said
    assert "can go" not in said
    assert conclusion(made_up([0.2, 0.1]) | {"groups": None}).count(";") == 0
    said = conclusion(content | {"task": "minimal-pairs", "to": "next"})
    assert said.startswith("With next in place, the share of wrong pairs")
    assert "1 can go, the least needed first, before the share of wrong pairs has risen by 0.02 of the pairs" in said
    assert "+0.1500 against +0.1500 of the pairs a head" in said
    assert "nats" not in said


def test_the_figures_show_every_head_and_step():
    content = made_up([0.2, 0.01, -0.3, 0.06], guided=[0], greedy=[-0.1, 0.05, 0.2, 1.5])
    figures = all_figures(content)
    assert [*figures] == ["worth", "greedy"]
    texts = [text.get_text() for text in figures["worth"].axes[0].texts]
    assert [text for text in texts if text != "first"] == ["+0.200", "+0.010", "-0.300", "+0.060"]
    assert texts.count("first") == 2
    line = figures["greedy"].axes[0].lines[0]
    assert [*line.get_ydata()] == [4.0, 3.9, 4.05, 4.2, 5.5]
    assert [*all_figures(content | {"greedy": None})] == ["worth"]
    title = figures["greedy"].axes[0].get_title("left")
    assert title == "loss, nats; dashed: with all 4 heads; full marks: guided heads"
    of_pairs = all_figures(content | {"task": "minimal-pairs"})
    assert of_pairs["greedy"].axes[0].get_title("left").startswith("share of pairs that are wrong")


def test_nothing_is_overwritten_unless_asked(ablated, cli, refusal, whole_run, corpus):
    before = (ablated / "ablate.json").read_bytes()
    said = refusal("ablate", whole_run, corpus, "-o", ablated, *SMALL)
    assert "holds ablate.json already; replace it with --overwrite" in said
    assert (ablated / "ablate.json").read_bytes() == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--to", "nxt"), "--to 'nxt': must be zero, mean or a pattern: unknown pattern 'nxt'"),
        (("--to", "offset:24"), "--to 'offset:24': no query has a target of it in layers [0]"),
        (("--to", "up"), "needs the patches of an image"),
        (("--to", "class_token"), "class token"),
        (("--greedy", 3), "--greedy 3: RobertaForMaskedLM has 2 heads to remove"),
    ],
)
def test_what_cannot_be_ablated_is_refused_before_anything_is_measured(
    tmp_path, refusal, whole_run, corpus, monkeypatch, asked, message
):
    monkeypatch.setattr("attention_guidance.commands.studies.ablation.ablate.take_census", None)
    assert message in refusal("ablate", whole_run, corpus, *SMALL, *asked, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_refused(tmp_path, refusal, whole_run, corpus):
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    small = {"vocab_size": len(tokenizer), "pad_token_id": 1}
    deberta = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    bart = {"d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, **layers}
    whole = AutoModelForMaskedLM.from_pretrained(whole_run / "model")
    whole.base_model.save_pretrained(tmp_path / "headless")
    for name, config in (("bart", BartConfig(**small, **bart)), ("deberta", DebertaV2Config(**small, **deberta))):
        AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / name)
    with torch.no_grad():
        next(whole.parameters()).fill_(torch.nan)
    whole.save_pretrained(tmp_path / "nan")
    for name in ("headless", "bart", "deberta", "nan"):
        tokenizer.save_pretrained(tmp_path / name)
    AutoModelForMaskedLM.from_pretrained(whole_run / "model").save_pretrained(tmp_path / "maskless")
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path / "maskless")
    (tmp_path / "short.txt").write_text("abe ace.\n")
    (tmp_path / "empty.txt").write_text("\n")
    cases = {
        "no masked language model head": [tmp_path / "headless", corpus, *SMALL],
        "has a decoder; heads are ablated in a masked language model": [tmp_path / "bart", corpus, *SMALL],
        "attention interface, so it cannot be ablated": [tmp_path / "deberta", corpus, *SMALL],
        "not finite": [tmp_path / "nan", corpus, *SMALL],
        "no mask token": [tmp_path / "maskless", corpus, *SMALL],
        "--tokens 300: intervals need 10 blocks of 32, 320 tokens": [whole_run, corpus, "--tokens", 300],
        "short.txt: 9 tokens are too few: intervals need 10 blocks of 32": [whole_run, tmp_path / "short.txt"],
        "empty.txt": [whole_run, tmp_path / "empty.txt"],
        "--block-size 64: this model takes at most 32 tokens": [whole_run, corpus, "--block-size", 64],
        "no such folder": [tmp_path / "nowhere", corpus],
    }
    for message, arguments in cases.items():
        said = refusal("ablate", *arguments, "-o", tmp_path / "out")
        assert message in said, said
        assert not (tmp_path / "out").exists(), message
