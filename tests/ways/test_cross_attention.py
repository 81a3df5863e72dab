"""The cross-attention of encoder-decoders, against the model's own cross-attention maps."""

import math

import eager_maps
import pytest
import torch
import transformers

from attention_guidance import guide
from attention_guidance.errors import AttachError, ConfigError, PatternError
from attention_guidance.patterns import Custom, Sequences, get_pattern

SIZES = {
    "Bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
             "encoder_attention_heads": 4, "decoder_attention_heads": 2, "vocab_size": 40},
    "Marian": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
               "encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 40, "pad_token_id": 1,
               "decoder_start_token_id": 1, "max_position_embeddings": 32},
    "T5": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 40,
           "decoder_start_token_id": 0},
    "Whisper": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
                "encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 40, "num_mel_bins": 8,
                "max_source_positions": 12, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2,
                "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None},
}  # fmt: skip
HEADS = {"Bart": "BartForConditionalGeneration", "Marian": "MarianMTModel", "T5": "T5ForConditionalGeneration",
         "Whisper": "WhisperForConditionalGeneration"}  # fmt: skip
N_QUERIES, N_KEYS = 5, 8
NO_DROPOUT = dict.fromkeys(["dropout", "attention_dropout", "activation_dropout", "dropout_rate"], 0.0)


def make(name):
    """A random model, and a batch of two: sources of 8 and 6 tokens, or of 12 frames, and 5 and 4 target tokens."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES[name], **NO_DROPOUT)
    model = getattr(transformers, HEADS[name])(config).double().train()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 2 and ("q_proj" in key or "k_proj" in key or ".q." in key or ".k." in key):
                torch.nn.init.normal_(parameter, std=0.7)
    labels = torch.randint(3, 40, (2, N_QUERIES))
    labels[1, 4] = -100
    if name == "Whisper":
        return model, {"input_features": torch.randn(2, 8, 24, dtype=torch.float64), "labels": labels}
    ids, mask = torch.randint(3, 40, (2, N_KEYS)), torch.ones(2, N_KEYS, dtype=torch.long)
    ids[1, 6:], mask[1, 6:] = 1, 0
    return model, {"input_ids": ids, "attention_mask": mask, "labels": labels}


def n_keys_of(inputs):
    return inputs["attention_mask"].sum(-1).tolist() if "attention_mask" in inputs else [12, 12]


def expected_loss(model, inputs, target_of, objective="squared_error"):
    """The sum over layers and two heads of the mean over rows. `target_of(b, i)` is a row of probabilities, or None."""
    model.set_attn_implementation("eager")
    maps = model(**inputs, output_attentions=True).cross_attentions
    assert len(maps) == 2
    total = 0
    for map_BHQK in maps:
        assert map_BHQK.shape[1] == 2
        for head in range(2):
            rows = []
            for b, i in (inputs["labels"] != -100).nonzero().tolist():
                target, row = target_of(b, i), map_BHQK[b, head, i]
                if target is None:
                    continue
                if objective == "squared_error":
                    rows.append((row - target).square().sum())
                else:
                    rows.append(-(target[target > 0] * row[target > 0].log()).sum())
            total = total + torch.stack(rows).mean()
    return total


def assert_same(name, handle, guided, expected, plain):
    handle.loss().backward()
    expected.backward()
    rounding = 1e-5 if name == "T5" else 1e-8  # whose eager softmax is in float32
    assert handle.loss().item() == pytest.approx(expected.item(), rel=rounding)
    eager_maps.assert_same_gradients(guided, plain, rounding)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("kind", ["one", "several", "map", "soft"])
@pytest.mark.parametrize("name", list(SIZES))
def test_given_targets(name, kind, backend):
    model, inputs = make(name)
    lengths = n_keys_of(inputs)
    n_keys = max(lengths)
    generator = torch.Generator().manual_seed(3)
    if kind == "one":
        given = torch.randint(-2, n_keys, (2, N_QUERIES), generator=generator)
        keys = [[[key] if key >= 0 else [] for key in row] for row in given.tolist()]
    elif kind == "several":
        given = torch.randint(-2, n_keys, (2, N_QUERIES, 3), generator=generator)
        keys = [[sorted({key for key in row if key >= 0}) for row in rows] for rows in given.tolist()]
    else:
        given = torch.rand(2, N_QUERIES, n_keys, generator=generator) < 0.4
        keys = [[row.nonzero().flatten().tolist() for row in rows] for rows in given]
    if kind == "soft":
        given = torch.rand(2, N_QUERIES, n_keys, generator=generator, dtype=torch.float64)
        given /= given.sum(-1, keepdim=True)
        given[0, 2] = 0

    def target_of(b, i):
        row = torch.zeros(n_keys, dtype=torch.float64)
        if kind == "soft":
            row[: lengths[b]] = given[b, i, : lengths[b]]
        else:
            row[[key for key in keys[b][i] if key < lengths[b]]] = 1
        return row / row.sum() if row.any() else None

    handle = guide(model, "given:2", weight=1.0, attention="cross", backend=backend)
    assert {head.layer for head in handle.heads} == {0, 1}
    unguided = make(name)[0](**inputs).loss
    total = model(**inputs, guidance_targets=given).loss
    assert total.item() == pytest.approx(unguided.item() + handle.loss().item(), rel=1e-9)
    plain, _ = make(name)
    assert_same(name, handle, model, expected_loss(plain, inputs, target_of), plain)


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("pattern", ["diagonal", "soft_diagonal"])
@pytest.mark.parametrize("name", list(SIZES))
def test_diagonals(name, pattern, loss):
    model, inputs = make(name)
    lengths, n_queries = n_keys_of(inputs), (inputs["labels"] != -100).sum(-1).tolist()

    def target_of(b, i):
        row = torch.zeros(max(lengths), dtype=torch.float64)
        u = (i + 0.5) / n_queries[b]
        if pattern == "diagonal":
            row[math.floor(u * lengths[b])] = 1
        else:
            for j in range(lengths[b]):
                row[j] = math.exp(-((u - (j + 0.5) / lengths[b]) ** 2) / (2 * 0.1**2))
        return row / row.sum()

    handle = guide(model, f"{pattern}:2", weight=1.0, attention="cross", loss=loss)
    model(**inputs)
    plain, _ = make(name)
    assert_same(name, handle, model, expected_loss(plain, inputs, target_of, loss), plain)


def test_the_diagonal_skips_padding_and_is_monotonic():
    valid = torch.tensor([[0, 1, 1, 1, 0]], dtype=torch.bool)
    keys = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 0]], dtype=torch.bool)
    picks = get_pattern("diagonal").targets(Sequences(valid, keys_BK=keys)).picks_BQP
    assert picks[0, 1:4, 0].tolist() == [3, 5, 7]
    soft = get_pattern("soft_diagonal").targets(Sequences(valid, keys_BK=keys)).soft_BQK[0]
    assert torch.equal(soft[1:4] > 0, keys.expand(3, -1))
    torch.testing.assert_close(soft.sum(-1), torch.ones(5, dtype=torch.float64))
    # In self-attention, it is the token itself.
    own = get_pattern("diagonal").targets(Sequences(torch.ones(1, 6, dtype=torch.bool))).picks_BQP
    assert own[0, :, 0].tolist() == list(range(6))


def test_the_key_of_the_diagonal_is_exact():
    """Positions are fractions of integers: at the border between two keys, the target is the later one."""
    for n_queries in range(1, 30):
        for n_keys in range(1, 30):
            valid, keys = (torch.ones(1, length, dtype=torch.bool) for length in (n_queries, n_keys))
            picks = get_pattern("diagonal").targets(Sequences(valid, keys_BK=keys)).picks_BQP
            assert picks[0, :, 0].tolist() == [(2 * i + 1) * n_keys // (2 * n_queries) for i in range(n_queries)]


def test_a_function_sees_the_keys():
    model, inputs = make("Bart")

    def last(sequences):
        assert sequences.size == (2, N_QUERIES, N_KEYS)
        return sequences.keys_BK & (sequences.keys_BK.cumsum(-1) == sequences.keys_BK.sum(-1, keepdim=True))

    handle = guide(model, {Custom("last", last): 2}, weight=1.0, attention="cross")
    model(**inputs)
    plain, _ = make("Bart")
    lengths = n_keys_of(inputs)
    expected = expected_loss(plain, inputs, lambda b, i: torch.eye(N_KEYS, dtype=torch.float64)[lengths[b] - 1])
    assert_same("Bart", handle, model, expected, plain)


def test_encoder_and_cross_attention_are_guided_together():
    model, inputs = make("Bart")
    objective = model(**inputs).loss.item()
    encoder = guide(model.get_encoder(), "next:1", weight=1.0, within=model)
    cross = guide(model, "diagonal:1", weight=1.0, attention="cross")
    total = model(**inputs).loss.item()
    assert encoder.loss().item() > 0.01
    assert cross.loss().item() > 0.01
    assert total == pytest.approx(objective + encoder.loss().item() + cross.loss().item(), rel=1e-9)
    cross.remove()
    encoder.remove()
    assert model(**inputs).loss.item() == objective
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("first", ["encoder", "cross"])
def test_guided_together_they_have_the_same_share_of_an_accumulated_batch(first):
    model, inputs = make("Bart")
    objective = model(**inputs).loss.item()
    ways = {
        "encoder": lambda: guide(model.get_encoder(), "next:1", weight=1.0, within=model),
        "cross": lambda: guide(model, "diagonal:1", weight=1.0, attention="cross"),
    }
    handles = [ways[name]() for name in sorted(ways, key=lambda name: name != first)]
    total = model(**inputs, num_items_in_batch=36).loss.item()
    assert total == pytest.approx((objective + sum(handle.loss().item() for handle in handles)) / 4, rel=1e-9)


def test_checkpointing_evaluation_and_removal():
    found = []
    for checkpointing in (False, True):
        model, inputs = make("Bart")
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        handle = guide(model, "diagonal:2", weight=1.0, attention="cross")
        model(**inputs).loss.backward()
        found.append([p.grad.clone() for p in model.parameters()])
        with handle.measure(), torch.no_grad():
            objective = model.eval()(**inputs).loss
        handle.remove()
        assert torch.equal(model(**inputs).loss, objective)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_mask_of_a_decoder_says_which_queries_count():
    model, inputs = make("Bart")
    handle = guide(model, "diagonal:1", attention="cross")
    model(**inputs)
    assert handle.rows_per_head() == [9, 9]
    ids = inputs.pop("labels").clamp(min=1)
    model(**inputs, decoder_input_ids=ids)
    handle.loss()
    assert handle.rows_per_head() == [10, 10]
    mask = torch.ones(2, N_QUERIES, dtype=torch.long)
    mask[:, 3:] = 0
    model(**inputs, decoder_input_ids=ids, decoder_attention_mask=mask)
    handle.loss()
    assert handle.rows_per_head() == [6, 6]


def test_what_cannot_be_guided_says_why():
    bart, inputs = make("Bart")
    with pytest.raises(PatternError, match=r"pattern 'next' is for self-attention.*cross-attention takes diagonal"):
        guide(bart, "next:1", attention="cross")
    with pytest.raises(PatternError, match="pattern 'first' is for self-attention"):
        guide(bart, "first|diagonal:1", attention="cross")
    with pytest.raises(ConfigError, match="attention='both' must be 'self' or 'cross'"):
        guide(bart, "diagonal:1", attention="both")
    with pytest.raises(ConfigError, match="elementwise"):
        guide(bart, "diagonal:1", attention="cross", normalization="elementwise")
    with pytest.raises(PatternError, match="the model has 2 heads per layer"):
        guide(bart, "diagonal:3", attention="cross")
    with pytest.raises(AttachError, match="BartEncoder has no cross-attention to guide"):
        guide(bart.get_encoder(), "diagonal:1", attention="cross")
    with pytest.raises(AttachError, match="has no cross-attention to guide"):
        guide(torch.nn.Linear(2, 2), "diagonal:1", attention="cross")
    guide(bart, "given:1", attention="cross")
    with pytest.raises(AttachError, match=r"cross-attention of this \w+ is guided already"):
        guide(bart, "diagonal:1", attention="cross")
    with pytest.raises(PatternError, match=r"guidance_targets is torch.int64 \[2, 8\]; expected long \[2, 5\]"):
        bart(**inputs, guidance_targets=torch.zeros(2, 8).long())


def test_the_kernels_are_for_self_attention():
    model, inputs = make("Bart")
    guide(model, "diagonal:1", attention="cross", backend="triton")
    with pytest.raises(AttachError, match="backend 'triton' cannot guide this attention"):
        model(**inputs)
