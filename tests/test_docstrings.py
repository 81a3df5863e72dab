"""Every public name has type hints, and a docstring with an example that runs and shows what it says."""

from __future__ import annotations

import doctest
import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

import attention_guidance
from attention_guidance import analysis

sys.path.insert(0, str(Path(__file__).parent / "analysis"))
from word_tokenizer import word_tokenizer

NAMES = {name: getattr(module, name) for module in (attention_guidance, analysis) for name in module.__all__}
THINGS = {name: thing for name, thing in NAMES.items() if callable(thing)}


def given():
    """What examples use without making it: a model of 2 layers and 4 heads, a tokenizer, batches, and all names."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16}
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **sizes)).train()
    batches = []
    for _ in range(3):
        ids = torch.randint(5, len(tokenizer), (4, 8))
        labels = ids.masked_fill(torch.rand(4, 8) < 0.7, -100)
        labels[:, 0] = ids[:, 0]
        batches.append({"input_ids": ids, "labels": labels})
    return {"model": model, "tokenizer": tokenizer, "batches": batches, "batch": batches[0], "np": np, "torch": torch}


def members(thing):
    """The public methods and properties that a class defines."""
    for name, member in vars(thing).items() if inspect.isclass(thing) else ():
        function = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", member))
        if not name.startswith("_") and inspect.isfunction(function):
            yield function


def test_what_is_left_out_is_text_alone():
    assert NAMES.keys() - THINGS.keys() == {"__version__"}


@pytest.mark.parametrize("name", THINGS)
def test_its_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder(recurse=True).find(THINGS[name], name, globs={})
    assert any(test.name == name and test.examples for test in found), "no example in its docstring"
    runner, said = doctest.DocTestRunner(), []
    for test in found:
        test.globs.update(NAMES | given())
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


@pytest.mark.parametrize("name", THINGS)
def test_it_has_hints_and_its_members_a_docstring_too(name):
    thing = THINGS[name]
    functions = [*members(thing), *([] if inspect.isclass(thing) else [inspect.unwrap(thing)])]
    for function in functions:
        assert inspect.getdoc(function), function
        named = {p for p in inspect.signature(function).parameters if p not in ("self", "cls")}
        assert named | {"return"} <= function.__annotations__.keys(), function
