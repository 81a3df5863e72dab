"""PEFT: what wraps a guided model, what it is turned into, and keys that are no queries."""

from __future__ import annotations

import copy

import eager_maps
import encoders
import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

from attention_guidance import guide
from attention_guidance.errors import AttachError, GuidanceWarning

HEADS = "next:1"
IDS = torch.randint(5, 60, (2, 10), generator=torch.Generator().manual_seed(1))
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": torch.tensor([0, 1])}


def make():
    torch.manual_seed(0)
    sizes = encoders.TEXT["Bert"]
    config = BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=2)
    return BertForSequenceClassification(config).double().train()


def lora(model, *targets):
    torch.manual_seed(1)
    config = LoraConfig(
        r=4, target_modules=list(targets or ("query", "key")), task_type="SEQ_CLS", init_lora_weights=False
    )
    return get_peft_model(model, config).double().train()


# Head 0 of both layers.
NEXT = {(layer, 0): (lambda b, i: [i + 1]) for layer in range(2)}


@pytest.mark.parametrize("guided", ["base first", "base", "whole"])
def test_lora(guided):
    """PEFT calls the forward of the model within it, past its hooks."""
    expected_model = lora(make())
    expected = expected_model(**BATCH).loss
    valid_BT = BATCH["attention_mask"].bool()
    expected = expected + 0.5 * eager_maps.guidance(
        expected_model.get_base_model(),
        {k: v for k, v in BATCH.items() if k != "labels"},
        NEXT,
        valid_BT,
    )
    base = make()
    if guided == "base first":
        guide(base, HEADS, weight=0.5)
    model = lora(base)
    if guided != "base first":
        guide(model.get_base_model() if guided == "base" else model, HEADS, weight=0.5)
    loss = model(**BATCH).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    loss.backward()
    expected.backward()
    eager_maps.assert_same_gradients(model, expected_model, 1e-8)


@pytest.mark.parametrize("turn", ["merge_and_unload", "unload"])
def test_what_it_was_turned_into(turn):
    model = lora(make())
    handle = guide(model, HEADS)
    model(**BATCH).loss.backward()
    merged = getattr(model, turn)()
    for parameter in merged.parameters():
        parameter.requires_grad_(True)
    with pytest.raises(AttachError, match=r"outside of a guided forward pass.*merge_and_unload"):
        merged(**BATCH)
    with torch.no_grad():
        merged(**BATCH)
    handle.remove()
    plain = copy.deepcopy(merged)(**BATCH).loss.item()
    handle = guide(merged, HEADS)
    assert merged(**BATCH).loss.item() == pytest.approx(plain + handle.loss().item())


@pytest.mark.parametrize("guided", ["base", "whole"])
def test_prefix_tuning_has_keys_that_are_no_queries(guided):
    model = get_peft_model(make(), PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)).double().train()
    guide(model.get_base_model() if guided == "base" else model, HEADS)
    # PEFT calls the encoder within, past the head on it.
    message = "10 queries and 14 keys, as under prefix tuning" if guided == "whole" else "outside of a guided forward"
    with pytest.raises(AttachError, match=message):
        model(**BATCH)


def test_prefix_tuning_of_an_encoder_alone():
    base = make().bert
    config = PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4)
    model = get_peft_model(base, config).double().train()
    guide(base, HEADS)
    with pytest.raises(AttachError, match="10 queries and 14 keys, as under prefix tuning"):
        model(input_ids=IDS, attention_mask=torch.ones_like(IDS))


def test_prompt_tuning_is_a_longer_text():
    """Its tokens are before the text, which is the next of the last of them."""
    model = get_peft_model(make(), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)).double().train()
    plain = copy.deepcopy(model).get_base_model()
    handle = guide(model.get_base_model(), HEADS, weight=1.0)
    model(**BATCH)
    embeddings = torch.cat([model.get_prompt(2), plain.get_input_embeddings()(IDS)], 1)
    inputs = {"inputs_embeds": embeddings, "attention_mask": torch.ones(2, 14, dtype=torch.long)}
    expected = eager_maps.guidance(plain, inputs, NEXT, torch.ones(2, 14, dtype=torch.bool))
    assert handle.loss().item() == pytest.approx(expected.item(), rel=1e-9)


def test_queries_and_keys_that_are_frozen():
    """Adapters on values alone, behind frozen embeddings: guidance of the first layer trains nothing."""
    model = lora(make(), "value")
    handle = guide(model, "0: next:1")
    with pytest.warns(GuidanceWarning, match="guidance trains nothing"):
        model(**BATCH)
    handle.remove()
    guide(model, HEADS)
    model(**BATCH).loss.backward()
