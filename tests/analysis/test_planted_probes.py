"""Every probe from its data to its score: a head built to be right scores 1, an even one the chance counted by hand."""

from __future__ import annotations

import pytest
import torch
from planted import Planted

from attention_guidance.commands.annotations.conll2012 import read_conll2012
from attention_guidance.commands.annotations.gap import GapExample
from attention_guidance.commands.annotations.reflexives import ReflexiveSentence
from attention_guidance.commands.annotations.treebanks import Tree
from attention_guidance.commands.probes.answers import answer
from attention_guidance.commands.probes.scores import score
from attention_guidance.commands.probes.tasks import (
    coreference_texts,
    dependency_texts,
    gap_texts,
    reflexive_texts,
)


def reflexives(tmp_path):
    # [CLS] the king saw him: `him` (token 4) refers to `the king`; it looks at `king`. Two of three words are right.
    return reflexive_texts([ReflexiveSentence(("the", "king", "saw", "him"), 3, (0, 1))] * 30), {4: 2}, 2 / 3


def dependencies(tmp_path):
    # the -> king, king -> saw, him -> saw: each of three questions has one right word among the three others.
    tree = Tree(("the", "king", "saw", "him"), (1, 2, -1, 2), ("det", "nsubj", "root", "obj"), (False,) * 4, "")
    return dependency_texts([tree] * 30), {1: 2, 2: 3, 4: 3}, 1 / 3


def gap(tmp_path):
    # `him` (token 5) is `king`, and not `x`; one of two names is right.
    example = GapExample("the king saw x him", (15, 18), ((4, 8), (13, 14)), (True, False), "")
    return gap_texts([example] * 30), {5: 2}, 1 / 2


def coreference(tmp_path):
    # king and him are one, x another: `him` looks at `king`, among `king` and `x`; the second `x` looks at the first,
    # among king, x and him. Neither is what is nearest.
    rows = [
        "the DT (TOP(S(NP* (1", "king NN *) 1)", "saw VBD (VP* -", "x NN (NP*))) (2)", "",
        "saw VBD (TOP(S(VP* -", "him PRP (NP*) (1)", "x NN (NP*)))) (2)", "",
    ]  # fmt: skip
    lines, number = ["#begin document (made/up); part 000"], 0
    for row in rows:
        if not row:
            lines.append("")
            number = 0
        else:
            word, pos, parse, chain = row.split()
            lines.append(f"made/up 0 {number} {word} {pos} {parse} - - - - * {chain}")
            number += 1
    (tmp_path / "a_conll").write_text("\n".join([*lines, "#end document", ""]))
    texts = list(coreference_texts(read_conll2012(tmp_path / "a_conll"), len, 1000)) * 30
    # [CLS] the king saw x saw him x
    return texts, {6: 2, 7: 4}, (1 / 2 + 1 / 3) / 2


@pytest.mark.parametrize("make", [reflexives, dependencies, gap, coreference])
def test_a_planted_head_scores_one_and_an_even_one_chance(make, model, tokenizer, tmp_path):
    texts, looks, chance = make(tmp_path)
    scores = torch.zeros(12, 12)
    for token, target in looks.items():
        scores[token, target] = 60
    with Planted(model, 1, 1, scores):
        answers = answer(model, tokenizer, texts, directions=["forward"])
    everything = score(answers)[0]
    assert everything.best == (1, 1, "forward")
    assert everything.heads[1, 1, 0].tolist() == [1, 1, 1]
    assert everything.best_accuracy.value == everything.max == 1
    assert everything.chance == pytest.approx(chance)
    assert everything.heads[0, 0, 0, 0] == pytest.approx(chance)
    assert everything.mean == pytest.approx((1 + 3 * chance) / 4)
