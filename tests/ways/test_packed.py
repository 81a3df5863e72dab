"""Several documents packed into a sequence: position ids that restart tell guidance where one ends."""

import eager_maps
import encoders
import pytest
import torch

from attention_guidance import guide
from attention_guidance.adapters.inputs_outputs import document_numbers
from attention_guidance.errors import AttachError

FAMILIES = ["Bert", "Roberta", "ModernBert"]
DELIMITER = 2
HEADS = "next:1 previous:1 first:1 delimiter:1"
# The lengths of the documents of each row; what is left of 12 positions is padding.
DOCUMENTS = [[4, 7], [3, 2, 7], [1, 6, 3]]
LENGTH = 12


def start_of_positions(name: str) -> int:
    """RoBERTa's positions begin after that of padding."""
    return 2 if name == "Roberta" else 0


def make(name: str):
    """A model and its documents: a list of rows, each a list of tensors of ids."""
    model, _ = encoders.make(name)
    generator = torch.Generator().manual_seed(4)
    rows = []
    for lengths in DOCUMENTS:
        rows.append([torch.randint(5, 60, (length,), generator=generator) for length in lengths])
        for document in rows[-1]:
            document[-1] = DELIMITER
    rows[1][2][1] = DELIMITER
    return model, rows


def pack(rows, start: int, left: bool = False) -> dict[str, torch.Tensor]:
    """Ids, position ids and numbers of documents of rows side by side; padding has id 1 and number -1."""
    size = (len(rows), LENGTH)
    packed = {
        "input_ids": torch.ones(size).long(),
        "position_ids": torch.ones(size).long(),
        "documents": -torch.ones(size).long(),
    }
    for b, documents in enumerate(rows):
        at = LENGTH - sum(map(len, documents)) if left else 0
        for number, document in enumerate(documents):
            place = slice(at, at + len(document))
            packed["input_ids"][b, place] = document
            packed["position_ids"][b, place] = torch.arange(start, start + len(document))
            packed["documents"][b, place] = number
            at += len(document)
    return packed


def apart(rows, start: int) -> dict[str, torch.Tensor]:
    """Each document in a row of its own."""
    documents = [document for row in rows for document in row]
    ids = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=1)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(d) for d in documents], batch_first=True)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": torch.arange(start, start + ids.shape[1]).repeat(len(ids), 1),
    }


def within_documents(model, documents):
    """The mask that keeps attention within documents, as each family wants it."""
    same = (documents[:, :, None] == documents[:, None]) & (documents[:, None] >= 0)
    if model.config.model_type != "modernbert":
        return same[:, None]
    # A mask for each kind of layer: a single one would stand for the windows, too.
    place = torch.arange(LENGTH)
    window = (place[:, None] - place).abs() <= model.config.sliding_window
    return {"full_attention": same[:, None], "sliding_attention": (same & window)[:, None]}


def definitions(model, packed):
    """For each guided head its targets, from the numbers of the documents."""
    documents, ids = packed["documents"].tolist(), packed["input_ids"]

    def near(offset):
        def targets(b, i):
            j = i + offset
            return [j] if 0 <= j < LENGTH and documents[b][j] == documents[b][i] else []

        return targets

    def members(b, i):
        return [j for j in range(LENGTH) if documents[b][j] == documents[b][i]]

    by_head = [
        near(1),
        near(-1),
        lambda b, i: members(b, i)[:1],
        lambda b, i: [j for j in members(b, i) if ids[b, j] == DELIMITER],
    ]
    return {(layer, head): by_head[head] for layer in range(model.config.num_hidden_layers) for head in range(4)}


def guided(name, inputs, backend="auto"):
    model, _ = make(name)
    handle = guide(model, HEADS, weight=1.0, token_classes={"delimiter": [DELIMITER]}, backend=backend)
    model(**inputs)
    handle.loss().backward()
    return model, handle


def assert_as_defined(name, packed, inputs, backend="auto"):
    model, handle = guided(name, inputs, backend)
    plain, _ = make(name)
    mask = packed["documents"] >= 0
    expected = eager_maps.guidance(plain, inputs, definitions(plain, packed), mask)
    expected.backward()
    # ModernBERT's eager attention takes its softmax in float32.
    tolerance = 1e-5 if name == "ModernBert" else 1e-9
    assert handle.loss().item() == pytest.approx(expected.item(), abs=tolerance)
    eager_maps.assert_same_gradients(model, plain, tolerance)


@pytest.mark.parametrize("backend", ["reference", "batched", "blocked"])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_target_lies_across_a_border(name, backend):
    """Position ids alone: attention goes across borders, as transformers has it, but targets do not."""
    packed = pack(make(name)[1], start_of_positions(name))
    mask = (packed["documents"] >= 0).long()
    inputs = {"input_ids": packed["input_ids"], "position_ids": packed["position_ids"], "attention_mask": mask}
    assert_as_defined(name, packed, inputs, backend)


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_on_the_left(name):
    """The positions there do not count up: all of them 1."""
    packed = pack(make(name)[1], start_of_positions(name), left=True)
    mask = (packed["documents"] >= 0).long()
    assert (mask[0, 0], mask[2, :2].sum()) == (0, 0)
    inputs = {"input_ids": packed["input_ids"], "position_ids": packed["position_ids"], "attention_mask": mask}
    assert_as_defined(name, packed, inputs)


@pytest.mark.parametrize("name", FAMILIES)
def test_positions_as_generation_counts_them(name):
    """One document in each row, padded on the left: the positions of padding are 1, those of the text begin at 0."""
    rows = [[torch.cat(documents)] for documents in make(name)[1]]
    packed = pack(rows, start_of_positions(name), left=True)
    mask = (packed["documents"] >= 0).long()
    positions = (mask.cumsum(-1) - 1 + start_of_positions(name)).masked_fill(mask == 0, 1)
    inputs = {"input_ids": packed["input_ids"], "position_ids": positions, "attention_mask": mask}
    assert_as_defined(name, packed, inputs)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_row_of_positions_for_all(name):
    """Position ids [1, T]."""
    generator = torch.Generator().manual_seed(6)
    same_lengths = [[torch.randint(5, 60, (n,), generator=generator) for n in (5, 4, 3)] for _ in range(3)]
    for documents in same_lengths:
        documents[0][2] = documents[2][0] = DELIMITER
    packed = pack(same_lengths, start_of_positions(name))
    inputs = {"input_ids": packed["input_ids"], "position_ids": packed["position_ids"][:1]}
    assert_as_defined(name, packed, inputs)
    handle = guided(name, inputs)[1]
    expected = guided(name, inputs | {"position_ids": packed["position_ids"]})[1]
    assert handle.loss().item() == expected.loss().item()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("backend", ["reference", "batched", "blocked"])
def test_packed_is_as_good_as_apart(name, backend):
    """With attention kept within documents, too, packing changes neither the guidance nor its gradients."""
    model, rows = make(name)
    start = start_of_positions(name)
    packed = pack(rows, start)
    inputs = {
        "input_ids": packed["input_ids"],
        "position_ids": packed["position_ids"],
        "attention_mask": within_documents(model, packed["documents"]),
    }
    together, ours = guided(name, inputs, backend)
    singly, theirs = guided(name, apart(rows, start), backend)
    assert ours.loss().item() == pytest.approx(theirs.loss().item(), abs=1e-9)
    for mine, other in zip(ours.per_head(), theirs.per_head(), strict=True):
        assert mine.error == pytest.approx(other.error, abs=1e-9)
        assert mine.error > 0.01
    eager_maps.assert_same_gradients(together, singly)


@pytest.mark.parametrize(
    ("position_ids", "documents"),
    [
        ([[0, 1, 2, 0, 1], [0, 0, 0, 1, 2]], [[0, 0, 0, 1, 1], [0, 1, 2, 2, 2]]),
        ([[2, 3, 4, 5, 6]], [[0, 0, 0, 0, 0]] * 2),
        ([[2, 3, 2, 3, 1]], [[0, 0, 1, 1, 2]] * 2),
        ([[0, 1, 2]], None),
        ([0, 1, 2, 3, 4], None),
        (None, None),
    ],
)
def test_numbers_of_documents_by_hand(position_ids, documents):
    """For each sequence, also where the positions are given once for all; None where they tell nothing."""
    position_ids = None if position_ids is None else torch.tensor(position_ids)
    numbers = document_numbers(position_ids, (2, 5))
    assert (numbers if numbers is None else numbers.tolist()) == documents


def test_a_mask_alone_says_nothing_of_documents():
    """Hidden targets do not count; the first token is that of the row, and hidden from other documents."""
    packed = pack(make("Bert")[1], 0)
    documents = packed["documents"]
    shown = (documents[:, :, None] == documents[:, None]) | (documents[:, :, None] < 0)
    mask = torch.zeros(shown.shape, dtype=torch.float64).masked_fill(~shown, -torch.inf)[:, None]
    inputs = {"input_ids": packed["input_ids"], "attention_mask": mask}
    handle = guided("Bert", inputs)[1]
    plain, _ = make("Bert")
    # Padding that may attend to something is no padding here.
    one_document = packed | {"documents": torch.zeros_like(documents)}
    expected = eager_maps.guidance(plain, inputs, definitions(plain, one_document), torch.ones_like(documents).bool())
    assert handle.loss().item() == pytest.approx(expected.item(), abs=1e-9)


def test_transformers_does_not_keep_documents_apart_by_positions():
    """What the guide says of version 5: where this fails, it can say better."""
    for name in FAMILIES:
        model, rows = make(name)
        packed = pack(rows[1:2], start_of_positions(name))
        inputs = {"input_ids": packed["input_ids"], "position_ids": packed["position_ids"]}
        mask = within_documents(model, packed["documents"])
        crossing, within = model(**inputs)[0], model(**inputs, attention_mask=mask)[0]
        assert (crossing - within).abs().max() > 1e-3


def test_eager_attention_with_a_bool_mask_is_refused():
    """transformers adds it to the scores as zeros and ones: it hides nothing there."""
    model, rows = make("Bert")
    packed = pack(rows, 0)
    mask = within_documents(model, packed["documents"])
    model.set_attn_implementation("eager")
    guide(model, HEADS.replace("delimiter:1", "same:1"))
    with pytest.raises(AttachError, match="eager attention adds a bool mask"):
        model(input_ids=packed["input_ids"], attention_mask=mask, position_ids=packed["position_ids"])


@pytest.mark.parametrize("shape", ["keys", "pairs"])
def test_an_additive_mask_of_four_dimensions_is_no_mask_of_tokens(shape):
    """Zeros show and minus infinity hides; as [1, 1, T, T] it has as many numbers as a batch of T sequences of T."""
    model, _ = make("Bert")
    ids = torch.randint(5, 60, (LENGTH, LENGTH), generator=torch.Generator().manual_seed(1))
    hidden = torch.zeros(LENGTH, 1, 1, LENGTH, dtype=torch.bool)
    hidden[1, ..., 9:] = True
    if shape == "pairs":
        hidden = torch.zeros(1, 1, LENGTH, LENGTH, dtype=torch.bool)
        hidden[..., 9:] = True
    mask = torch.zeros(hidden.shape, dtype=torch.float64).masked_fill(hidden, -float("inf"))
    handle = guide(model, "next:1", weight=1.0)
    model(input_ids=ids, attention_mask=mask)
    rows = [8] * LENGTH if shape == "pairs" else [LENGTH - 1] * (LENGTH - 1) + [8]
    assert set(handle.rows_per_head()) == {sum(rows)}
