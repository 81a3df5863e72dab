"""Models that call a layer's attention several times in a pass: every call counts, or the model is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import towers

from attention_guidance import guide
from attention_guidance.analysis import attention_maps, head_divergence, observing, take_census
from attention_guidance.commands.probes.answers import answer
from attention_guidance.commands.probes.questions import Question, QuestionedText
from attention_guidance.errors import AttachError


@pytest.mark.parametrize("name", list(towers.VISION))
def test_the_census_counts_every_call(name):
    """Once an image, and once a window in some layers: against eager maps, and against what training counts."""
    model, inputs = towers.tower(name)
    maps = towers.maps_by_call(copy.deepcopy(model), inputs)
    census = take_census(model, inputs, ["next", "same"])
    assert census.rows[:, 1].tolist() == [48, 48]
    assert census.rows[:, 0].tolist() == [sum(m.shape[1] - 1 for m in calls) for calls in maps.values()]
    for layer, calls in maps.items():
        calls = [map_HQK.detach() for map_HQK in calls]
        following = torch.cat([map_HQK.diagonal(1, 1, 2) for map_HQK in calls], -1)
        np.testing.assert_allclose(census.mass.value[layer, :, 0], following.mean(-1), atol=1e-6)
        same = torch.cat([map_HQK.diagonal(0, 1, 2) for map_HQK in calls], -1)
        np.testing.assert_allclose(census.mass.value[layer, :, 1], same.mean(-1), atol=1e-6)
        entropy = torch.cat([torch.special.entr(map_HQK).sum(-1) for map_HQK in calls], -1).mean(-1)
        np.testing.assert_allclose(census.entropy.value[layer], entropy, atol=1e-6)
    assert (census.n_sequences, census.n_tokens) == (1, 48)
    handle = guide(model, "next:1", weight=1.0)
    model(**inputs)
    errors = [head.error for head in handle.per_head()]
    np.testing.assert_allclose(census.squared_error.value[:, 0, 0], errors, atol=1e-6)
    assert handle.rows_per_head() == census.rows[:, 0].tolist()


def test_batches_of_passes_of_several_calls_have_an_interval():
    model, inputs = towers.tower("Qwen2VL")
    others = [inputs | {"hidden_states": torch.randn(48, inputs["hidden_states"].shape[1]).double()} for _ in range(3)]
    census = take_census(model, others, "next")
    assert census.n_sequences == 3
    assert (census.mass.low < census.mass.value).all()
    parts = [take_census(model, other, "next").mass.value for other in others]
    np.testing.assert_allclose(census.mass.value, np.mean(parts, 0), atol=1e-9)


def test_heads_are_compared_over_every_call():
    model, inputs = towers.tower("Qwen2VL")
    maps = towers.maps_by_call(copy.deepcopy(model), inputs)
    found = head_divergence(model, inputs, rows=10_000)
    total, n_rows = np.zeros((8, 8)), 0
    generator = torch.Generator().manual_seed(1)
    for call in range(2):
        map_NQK = torch.cat([maps[layer][call] for layer in maps]).detach()
        rows = torch.randperm(map_NQK.shape[1], generator=generator)[:16]
        p, q = map_NQK[:, None, rows], map_NQK[None, :, rows]
        entropy = [torch.special.entr(x).sum(-1) for x in ((p + q) / 2, p, q)]
        total += (entropy[0] - (entropy[1] + entropy[2]) / 2).sum(-1).numpy()
        n_rows += len(rows)
    np.testing.assert_allclose(found, total / n_rows, atol=1e-6)


def test_heads_of_windows_are_not_compared_with_those_of_the_whole():
    model, inputs = towers.tower("Qwen2_5_VL")
    with pytest.raises(AttachError, match="layer 1 attends within windows of a different size than earlier layers"):
        head_divergence(model, inputs)


def test_every_patch_of_an_image_may_be_among_the_rows():
    """Not only as many as it has colours."""
    import encoders

    model, inputs = encoders.make("ViT")
    found = head_divergence(model, inputs, rows=10_000)
    model = copy.deepcopy(model).eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = torch.stack(model(**inputs, output_attentions=True).attentions)
    generator = torch.Generator().manual_seed(1)
    rows = []
    for sequence in range(maps.shape[1]):
        at = torch.randperm(17, generator=generator)[:16]
        rows.append(maps[:, sequence].flatten(0, 1)[:, at])
    rows_NRK = torch.cat(rows, 1)
    p, q = rows_NRK[:, None], rows_NRK[None]
    entropy = [torch.special.entr(x).sum(-1) for x in ((p + q) / 2, p, q)]
    np.testing.assert_allclose(found, (entropy[0] - (entropy[1] + entropy[2]) / 2).mean(-1), atol=1e-6)


def test_targets_of_the_batch_do_not_say_which_call_they_are_for():
    model, inputs = towers.tower("Qwen2VL")
    inputs = {"hidden_states": inputs["hidden_states"][:32], "grid_thw": torch.tensor([(1, 4, 4), (1, 4, 4)])}
    given = inputs | {"guidance_targets": torch.ones(1, 16, 16, dtype=torch.bool)}
    with pytest.raises(AttachError, match="called more than once in a forward pass"):
        take_census(model, given, "given")


def test_observers_see_every_call_or_refuse_the_second():
    model, inputs = towers.tower("Qwen2VL")
    seen = []
    with observing(model, lambda layer, call: seen.append((layer, call.query_BHQD.shape[2]))) as watched:
        watched(inputs)
    assert seen == [(0, 16), (0, 32), (1, 16), (1, 32)]
    with observing(model, lambda layer, call: None, once=True) as watched:
        with pytest.raises(AttachError, match="layer 0 is called more than once in a forward pass"):
            watched(inputs)
        watched({"hidden_states": inputs["hidden_states"][:16], "grid_thw": torch.tensor([(1, 4, 4)])})
    with pytest.raises(AttachError, match=r"not \[1, heads, T, T\] per layer"):
        attention_maps(model, inputs)


@pytest.mark.parametrize(
    ("cut", "first", "message"),
    [
        (2, 2, "layer 0 attends from 2 to 2 positions, but the texts have 5 tokens"),
        (5, 0, "layer 0 is called more than once in a forward pass"),
    ],
)
def test_probes_refuse_a_model_that_reads_its_text_in_pieces(model, tokenizer, cut, first, message):
    """Its last piece would have been asked about the whole text."""
    model = copy.deepcopy(model)
    attention = model.encoder.layer[0].attention
    whole = attention.forward

    def pieces(hidden, *rest, **more):
        parts = [whole(part) for part in (hidden[:, :cut], hidden[:, first:])]
        return torch.cat([part[0] for part in parts], 1)[:, :5], None

    attention.forward = pieces
    asked = QuestionedText("the king saw", ((0, 3), (4, 8), (9, 12)), (Question(2, frozenset([0])),))
    with pytest.raises(AttachError, match=message):
        answer(model, tokenizer, [asked])
