"""What was asked, the abstract's claims and the defaults, as the evidence page has them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def evidence(monkeypatch):
    """A module of the package by its name."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.evidence.{name}")


def result(spec, loss, curve=(), seconds=10.0):
    n_steps = spec.flags["max_steps"]
    points = [[round(share * n_steps), value] for share, value in curve]
    return spec.identity | {"loss": loss, "curve": points, "unigram_entropy": 5.6, "cpu_seconds": seconds}


def met(rows, start):
    """The last cell of the rows that begin so."""
    return [row[-1] for row in rows if row[0].startswith(start)]


def test_ratios_are_met_if_every_seed_reaches_them(evidence):
    asked, objectives, study = evidence("asked"), evidence("studies.objectives"), evidence("study")
    kept = study.Kept()
    for objective, shares in ("mlm", (0.3, 0.33, 0.1)), ("whole-word", (0.3, 0.34, 0.1)), ("span", (0.6, 0.6)):
        for guided, share in zip(objectives.guided(objective, study.SEEDS), shares, strict=False):
            kept.add(result(guided, 4.0, [(0.0, 7.0), (share, 5.0), (1.0, 4.0)]))
            kept.add(result(guided.unguided, 5.0))
    rows = asked.rows(kept)
    assert met(rows, "`mlm`:") == ["met"]
    assert met(rows, "`whole-word`") == ["**missed**"]
    assert met(rows, "`span`:") == met(rows, "`rtd`:") == ["not measured yet"]


@pytest.mark.parametrize(
    ("n_guided", "n_unguided", "expected"), [(22, 11, "met"), (21, 3, "**missed**"), (24, 13, "**missed**")]
)
def test_guided_has_to_leave_the_plateau_at_nine_of_ten_settings(evidence, n_guided, n_unguided, expected):
    asked, grid = evidence("asked"), evidence("studies.hyperparameters").grid(1)
    kept = evidence("study").Kept()
    for number, (_, arms) in enumerate(grid):
        kept.add(result(arms["guided"], 5.0 if number < n_guided else 5.5))
        kept.add(result(arms["unguided"], 5.0 if number < n_unguided else 5.5))
    rows = asked.rows(kept)
    assert met(rows, "guided off the plateau") == [expected]
    # The grid has small batches first, of which all leave the plateau.
    assert next(row[1] for row in rows if row[0].startswith("trained on")) == "5.000 against 5.000"
    assert met(rows, "trained on")[0] == "met"


def test_kinds_are_compared_where_the_fastest_has_ended(evidence):
    asked, convergence, study = evidence("asked"), evidence("studies.convergence"), evidence("study")
    kept = study.Kept()
    curve = [(0.0, 7.0), (0.5, 5.0), (1.0, 4.0)]
    for name in ("roberta", "bert", "modernbert", "attention-only"):
        case = ("bible", name, "short")
        # RoBERTa takes 10 seconds; at that time the others are at half of their steps, and it is at its end.
        seconds, last = (10.0, 4.5) if name == "roberta" else (20.0, 4.0)
        for spec in convergence.grid(case):
            kept.add(result(spec, last, [*curve[:2], (1.0, last)], seconds))
        for seed in study.SEEDS:
            assert asked.at_equal_time(kept, "short") is None
            kept.add(result(convergence.tuned(case, seed, kept), last, [*curve[:2], (1.0, last)], seconds))
    for seed in study.SEEDS:
        kept.add(
            result(convergence.guided(("bible", "modernbert", "short"), seed), 3.0, [(0.5, 4.2), (1.0, 3.0)], 20.0)
        )
    gap = asked.at_equal_time(kept, "short")
    assert (gap.mean, gap.n) == (pytest.approx(4.2 - 4.5), 3)
    assert met(asked.rows(kept), "ModernBERT, guided") == ["met", "not measured yet"]


def test_architectures_are_held_to_their_tuned_arm(evidence):
    asked, convergence, study = evidence("asked"), evidence("studies.convergence"), evidence("study")
    kept = study.Kept()
    # The share of the steps after which guided runs are as good as the unguided ones are in the end, and their gain.
    for name, budget, share, gain in (
        ("modernbert", "short", 0.4, 1.0), ("modernbert", "four times", 1.0, 0.5), ("bert", "four times", 0.5, -0.5),
    ):  # fmt: skip
        case = ("bible", name, budget)
        for number, spec in enumerate(convergence.grid(case)):
            kept.add(result(spec, 5.0 + number))
        for seed in study.SEEDS:
            kept.add(result(convergence.tuned(case, seed, kept), 5.0 + seed / 100))
            rows = asked.rows(kept)
            assert met(rows, f"`{name}`, 1,200") == ["not measured yet"]
            loss = 5.0 - gain + seed / 50
            kept.add(result(convergence.guided(case, seed), loss, [(0.0, 7.0), (share, loss), (1.0, loss)]))
    rows = asked.rows(kept)
    assert met(rows, "ModernBERT, 300") == ["met"]
    assert met(rows, "ModernBERT, 1,200") == ["**missed**"], "as good at the last step alone"
    assert met(rows, "`modernbert`, 1,200") == ["met"]
    assert met(rows, "`bert`, 1,200") == ["**missed**"]
    assert met(rows, "`roberta`, 1,200") == ["not measured yet"]


def test_verdicts_of_other_benchmarks_follow_from_their_newest_results(evidence, monkeypatch, tmp_path):
    abstract = evidence("abstract")
    monkeypatch.setattr(abstract, "RESULTS", tmp_path)
    kept = {
        "cost_product": [{"name": "a", "ratio": 1.2}, {"name": "a", "ratio": 1.04}, {"name": "b", "ratio": 0.9}],
        "downstream": [
            {"study": "short", "text": "english", "task": task, "differences": {"guided": {"low": low}}}
            for task, low in (("cola", 0.1), ("sst2", 0.0))
        ],
        "low_resource": [
            {"language": language, "seed": 1, "steps": 9, "combined": [{"mean": 0.9}, {"mean": mean}]}
            for language, mean in (("swahili", 0.8), ("yoruba", 0.85), ("english", 0.99))
        ],
    }
    for name, records in kept.items():
        lines = [json.dumps({"kind": name} | record) for record in records]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    verdicts = [row[2] for row in abstract.rows(lambda name: f"<{name}>")[1:]]
    assert verdicts == [
        "<heads>",
        "holds: a step takes 0.90 to 1.04 times as long",
        "<objectives>; <images>",
        "<convergence>; <hyperparameters>",
        "holds in part: better than unguided in 1 of 2 comparisons, by the 95 % interval",
        "does not hold here: points of entity F1 minus AfroXLMR base's, as published: Swahili -12.3, Yoruba -3.3",
        "<skill>",
    ]


def test_confirmation_asks_each_finding_of_the_small_runs_again(evidence):
    confirmation, study = evidence("studies.confirmation"), evidence("study")
    kept = study.Kept()
    losses = {"unguided": 6.0, "guided": 5.5, "guided without `first`": 5.0, "heads always fixed to the pattern": 5.2}
    for name, loss in losses.items():
        for spec in confirmation.arm(name, study.SEEDS):
            kept.add(result(spec, loss + spec.seed / 100, [(0.0, 7.0), (0.5, 5.5), (1.0, loss)]))
    section = confirmation.section(kept)
    assert section.verdict == "holds in part"
    assert [(row[0].split(" − ")[0], row[2], row[3][:6]) for row in section.tables[1][1:]] == [
        ("guided", "–", "-0.500"),
        ("guided without `first`", "–", "-0.500"),
        ("heads always fixed to the pattern", "–", "+0.200"),
    ]
    assert [spec.flags for spec in confirmation.arm("guided", (1,))] == [{"preset": "mini", "max_steps": 400}]


def test_defaults_stand_beside_what_is_lower(evidence):
    which, study = evidence("studies.which_guidance"), evidence("study")
    losses = {"default": 5.0, "weight 0.3": 4.0, "weight 1": 4.5, "without `first`": 5.5}
    kept = study.Kept(
        result(spec, loss + spec.seed / 100) for name, loss in losses.items() for spec in which.arm(name, (1, 2))
    )
    by_setting = {row[0]: row for row in evidence("page").default_rows(kept) if row[1] == "–"}
    assert by_setting["`weight`"][2:] == [
        "`0.1`", "[which-guidance](#which-guidance)", "weight 0.3", "-1.000 (-1.000 to -1.000)", "weight 0.3; weight 1",
    ]  # fmt: skip
    assert by_setting["`heads`"][4:] == ["without `first`", "+0.500 (+0.500 to +0.500)", "none"]
    assert by_setting["`loss`"][4:] == ["–", "–", "–"]
