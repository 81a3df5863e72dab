"""Patterns of the user's own and patterns for some queries only, in models that are copied and saved."""

import copy
import io
import random

import eager_maps
import encoders
import pytest
import torch

from attention_guidance import Pattern, Sequences, get_guidance, get_pattern, guide
from attention_guidance.errors import AttachError, PatternError
from attention_guidance.patterns import Custom, Offset, Targets, TokenClass

STOPS = TokenClass("stops", tuple(range(5, 25)))


# Functions at module level can be pickled, and with them the guided model.


def same_token(sequences: Sequences) -> torch.Tensor:
    """A map: other places of the same token."""
    ids = sequences.input_ids_BT
    return (ids[:, :, None] == ids[:, None]) & ~torch.eye(ids.shape[1], dtype=torch.bool)


def small_ids(sequences: Sequences) -> torch.Tensor:
    """Keys for every query: tokens with an id below 12."""
    return sequences.input_ids_BT < 12


def mirror(sequences: Sequences) -> Targets:
    """Single keys: the place as far from the end as the query is from the beginning."""
    return Targets(torch.arange(sequences.valid_BT.shape[1]).flip(0)[None, :, None])


class Alternate(Pattern):
    """A class of one's own: the neighbour on the left of every second token."""

    name = "alternate"

    def targets(self, sequences: Sequences) -> Targets:
        key_T = torch.arange(sequences.valid_BT.shape[1]) - 1
        return Targets(torch.where(key_T % 2 == 0, key_T, -1)[None, :, None])


PATTERNS = {
    "twin": Custom("twin", same_token),
    "small": Custom("small", small_ids),
    "mirror": Custom("mirror", mirror),
    "alternate": Alternate(),
    "stopped": Offset(-1).where(STOPS.members_of),
}
HEADS = {"0": "twin:1 small:1 mirror:1 alternate:1", "1": "stopped:1 small|mirror:1 twin|next:1 stopped|first:1"}


def definitions(inputs):
    """For each guided head its targets, from the ids and the mask."""
    ids, mask = inputs["input_ids"].tolist(), inputs["attention_mask"].tolist()

    def listed(keep):
        return lambda b, i: [j for j in range(10) if mask[b][j] and keep(b, i, j)]

    def twin(b, i, j):
        return ids[b][i] == ids[b][j] and i != j

    def stopped(b, i, j):
        return ids[b][i] in STOPS.token_ids and j == i - 1

    return {
        (0, 0): listed(twin),
        (0, 1): listed(lambda b, i, j: ids[b][j] < 12),
        (0, 2): listed(lambda b, i, j: j == 9 - i),
        (0, 3): listed(lambda b, i, j: j == i - 1 and j % 2 == 0),
        (1, 0): listed(stopped),
        (1, 1): listed(lambda b, i, j: ids[b][j] < 12 or j == 9 - i),
        (1, 2): listed(lambda b, i, j: twin(b, i, j) or j == i + 1),
        (1, 3): listed(lambda b, i, j: stopped(b, i, j) or j == 0),
    }


def make():
    model, inputs = encoders.make("Bert")
    generator = random.Random(1)
    ids = torch.tensor([[generator.choice(range(5, 30)) for _ in range(10)] for _ in range(3)])
    return model, inputs | {"input_ids": ids.where(inputs["attention_mask"].bool(), 1)}


@pytest.mark.parametrize("backend", ["reference", "batched", "blocked"])
def test_loss_and_gradients_are_those_of_the_eager_maps(backend):
    model, inputs = make()
    handle = guide(model, HEADS, weight=1.0, patterns=PATTERNS, backend=backend)
    model(**inputs)
    handle.loss().backward()
    plain, _ = make()
    expected = eager_maps.guidance(plain, inputs, definitions(inputs), inputs["attention_mask"].bool())
    expected.backward()
    assert handle.loss().item() == pytest.approx(expected.item(), abs=1e-9)
    eager_maps.assert_same_gradients(model, plain)


def through_pickle(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle])
def test_copies_are_guided_alike(duplicate):
    model, inputs = make()
    guide(model, HEADS, weight=1.0, patterns=PATTERNS)
    twin = duplicate(model)
    for one in (model, twin):
        one(**inputs).last_hidden_state.sum().backward()
    handles = [get_guidance(one) for one in (model, twin)]
    assert handles[0] is not handles[1]
    assert handles[0].loss().item() == handles[1].loss().item() > 0.1


def test_rows_without_a_target_do_not_count():
    """A head that follows nothing but for one token is as far away as the rows of this token are."""
    model, inputs = make()
    inputs["input_ids"][:] = 40
    inputs["input_ids"][0, 3] = 5
    handle = guide(model, {"0": "stopped:1"}, weight=1.0, patterns=PATTERNS)
    model(**inputs)
    plain, _ = make()
    plain.set_attn_implementation("eager")
    row = plain(**inputs, output_attentions=True).attentions[0][0, 0, 3]
    assert handle.loss().item() == pytest.approx((row.square().sum() - 2 * row[2] + 1).item())


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the kernels are compiled, not interpreted")
@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
def test_a_map_costs_a_fast_kernel_and_compact_targets_do_not():
    pytest.importorskip("triton")
    model, inputs = make()
    guide(model.float(), {"0": "small|mirror:1 stopped:1"}, patterns=PATTERNS, backend="triton")
    model(**inputs)
    model, inputs = make()
    guide(model.float(), {"0": "twin:1"}, patterns=PATTERNS, backend="triton")
    with pytest.raises(AttachError, match="the targets of twin are a map"):
        model(**inputs)


def test_a_function_is_not_a_pattern():
    with pytest.raises(PatternError, match=r"wrap a function as Custom\('twin', function\)"):
        get_pattern("twin", patterns={"twin": same_token})
