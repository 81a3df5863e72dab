"""Functions of the user's as objectives: what they may do, and what is said where they do something else."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from attention_guidance.commands.objectives.base import Draws
from attention_guidance.commands.objectives.own import load_own
from attention_guidance.commands.pretraining.preparation.objective import objective_of
from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.pretrain import pretrain
from attention_guidance.commands.pretraining.settings.config import write_yaml
from attention_guidance.errors import ConfigError
from benchmarks import forked

OWN = """
import numpy as np

def wrong_shape(ids, places, tokenizer, generator):
    return ids[:3], ids

def no_labels(ids, places, tokenizer, generator):
    return ids, np.full_like(ids, -100)

def no_pair(ids, places, tokenizer, generator):
    return None

def failing(ids, places, tokenizer, generator):
    return 1 / 0

def too_few(ids):
    return ids, ids

def leaving(ids, places, tokenizer, generator):
    raise SystemExit(0)

def deep(ids, places, tokenizer, generator):
    return np.zeros(3).reshape(2, 2)

def encoding(ids, places, tokenizer, generator):
    labels = np.full_like(ids, -100)
    labels[places[:3]] = ids[places[:3]]
    rows = tokenizer.backend_tokenizer.encode_batch(["a b", "b", "c d"])
    ids[places[:3]] = [row.ids[0] for row in rows][: len(places)]
    return ids, labels

def unknown_ids(ids, places, tokenizer, generator):
    return ids + 1000, ids

def drawing(ids, places, chance):
    labels = np.full_like(ids, -100)
    chosen = places[chance.permutation(len(places))[:3]]
    labels[chosen] = ids[chosen]
    return ids, labels

def of_numpy(ids, places, tokenizer, generator):
    return drawing(ids, places, np.random)

def of_its_own(ids, places, tokenizer, generator, chance=np.random.default_rng()):
    return drawing(ids, places, chance)

def counting(ids, places, tokenizer, generator, seen=[]):
    seen.append(1)
    return drawing(np.roll(ids, len(seen)), places, generator)

def as_given(ids, places, tokenizer, generator):
    return drawing(ids, places, generator)

def unknown_labels(ids, places, tokenizer, generator):
    return ids, ids - 1000
"""


@pytest.fixture
def with_function(settings, tmp_path):
    """The settings of a run whose objective is one of these functions."""
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return lambda name: settings("own", objective=f"{file}:{name}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong_shape", r"shape \(3,\)"),
        ("no_labels", "returned no label"),
        ("no_pair", "NoneType"),
        ("failing", r"fails at .*own.py:\d+: ZeroDivisionError: division by zero"),
        ("deep", r"fails at .*own.py:\d+: ValueError: cannot reshape"),
        ("leaving", r"fails at .*own.py:\d+: SystemExit: 0"),
        ("unknown_ids", r"returned ids from 1\d\d\d to 1\d\d\d; the vocabulary has ids 0 to 279"),
        ("unknown_labels", r"returned labels from -\d+ to -\d+; the vocabulary has ids 0 to 279"),
        ("too_few", r"fails: TypeError: too_few\(\) takes 1 positional argument but 4 were given"),
    ],
)
def test_functions_of_ones_own(with_function, name, said):
    config = with_function(name)
    data = prepare_data(config, lambda text: None)
    with pytest.raises(ConfigError, match=said):
        Draws(data.train, objective_of(config, data.tokenizer), 4, 1)[0]


@pytest.mark.parametrize("name", ["of_numpy", "of_its_own", "counting", "as_given"])
def test_the_same_text_makes_the_same_example(with_function, tmp_path, name):
    """Else no loss could be held against another, nor a run go on exactly."""
    config = dataclasses.replace(with_function(name), max_steps=2, eval_every=2, save_every=2)
    if name == "as_given":
        pretrain(config, tmp_path / "run", quiet=True)
        return
    with pytest.raises(ConfigError, match=f"own.py:{name}' is not deterministic: two calls on the same text differ"):
        pretrain(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_files_of_ones_own(tmp_path, settings):
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_the_kind\n")
    leaving = tmp_path / "leaving.py"
    leaving.write_text("raise SystemExit(0)\n")
    data = prepare_data(settings("mlm"), lambda text: None)
    for objective, said in (
        (f"{tmp_path}/none.py:f", "no such file"),
        (f"{broken}:f", "fails: ModuleNotFoundError"),
        (f"{leaving}:f", "fails: SystemExit: 0"),
        (f"{Path(__file__)}:nothing", "has no function 'nothing'"),
    ):
        with pytest.raises(ConfigError, match=said):
            objective_of(settings("mlm", objective=objective), data.tokenizer)


def test_a_file_of_ones_own_imports_what_lies_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_of_test.py").write_text("def f(ids, places, tokenizer, generator): return ids, ids\n")
    (tmp_path / "main.py").write_text("from beside_of_test import f\n")
    assert callable(load_own(f"{tmp_path}/main.py:f"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_function_may_encode_text_where_workers_load_data(with_function, tmp_path, workers):
    """What was forked has no threads of the tokenizer's, and would wait for them."""
    settings = {"max_steps": 3, "eval_every": 3, "arguments": {"dataloader_num_workers": workers}}
    write_yaml(dataclasses.replace(with_function("encoding"), **settings), tmp_path / "config.yaml")
    line = ["pretrain", "--config", tmp_path / "config.yaml", "--trust-objective", "-o", tmp_path / "run", "-q"]
    forked.run([sys.executable, "-m", "attention_guidance", *map(str, line)], check=True, timeout=100)


def test_rates_are_for_others(settings):
    with pytest.raises(ConfigError, match=r"final_masking_rate=0.3 is for objectives that mask tokens; leave it out"):
        settings("own", final_masking_rate=0.3)


def test_a_failing_function_is_seen_before_anything_is_written(with_function, tmp_path):
    for name in ("failing", "nothing"):
        with pytest.raises(ConfigError, match=name):
            pretrain(with_function(name), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
