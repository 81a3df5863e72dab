"""sentence-transformers: its losses call the encoder once for each text of an example, past the encoder's hooks."""

from __future__ import annotations

import copy

import eager_maps
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses, modules
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from attention_guidance import guide
from attention_guidance.errors import GuidanceWarning

WORDS = ["[PAD]", "[UNK]", *["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]]
HEADS = "next:1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random BERT with a tokenizer of words."""
    place = tmp_path_factory.mktemp("bert")
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(place)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0,
    )  # fmt: skip
    model = BertModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".query.weight" in name or ".key.weight" in name:
                parameter.mul_(8)
    model.save_pretrained(place)
    return str(place)


def make(folder):
    transformer = modules.Transformer(folder)
    pooling = modules.Pooling(transformer.get_embedding_dimension())
    return SentenceTransformer(modules=[transformer, pooling], device="cpu").double()


PAIRS = Dataset.from_dict(
    {"anchor": ["a b c d", "e f g", "h i j k l", "c a"], "positive": ["b c d", "f g e a", "i h", "a c d e"]}
)
SCORED = PAIRS.add_column("score", [0.1, 0.9, 0.5, 0.3])
LOSSES = {
    "two texts": (PAIRS, losses.MultipleNegativesRankingLoss),
    "scored": (SCORED, losses.CosineSimilarityLoss),
    "nested": (PAIRS, lambda st: losses.MatryoshkaLoss(st, losses.MultipleNegativesRankingLoss(st), [16, 32])),
}


def train(model, folder, loss, data, accumulation=1, callbacks=(), steps=3):
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4 // accumulation, learning_rate=1e-2,
        gradient_accumulation_steps=accumulation, logging_steps=1, save_strategy="no", report_to="none", use_cpu=True,
        disable_tqdm=True, logging_nan_inf_filter=False, optim="sgd", max_grad_norm=0, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, loss=loss, callbacks=list(callbacks)
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def features_of(model, texts):
    return {k: v for k, v in model.preprocess(texts).items() if k in ("input_ids", "attention_mask", "token_type_ids")}


def by_hand(folder, kind, weight, steps=3):
    """The same training in a loop, guidance from eager maps."""
    data, make_loss = LOSSES[kind]
    model = make(folder).train()
    loss_of = make_loss(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    curve = []
    for _ in range(steps):
        rows = data[:]
        texts = [rows["anchor"], rows["positive"]]
        labels = torch.tensor(rows["score"], dtype=torch.float64) if "score" in rows else None
        loss = loss_of([model.preprocess(text) for text in texts], labels)
        encoder = model[0].auto_model
        for text in texts:
            inputs = features_of(model, text)
            valid_BT = inputs["attention_mask"].bool()
            heads = {(layer, 0): (lambda b, i: [i + 1]) for layer in range(2)}
            loss = loss + weight * eager_maps.guidance(encoder, inputs, heads, valid_BT)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve, model


@pytest.mark.parametrize("kind", list(LOSSES))
@pytest.mark.parametrize("guided", ["sentence transformer", "part within"])
def test_its_trainer(folder, tmp_path, kind, guided):
    expected, plain = by_hand(folder, kind, weight=0.5)
    data, make_loss = LOSSES[kind]
    model = make(folder)
    if guided == "sentence transformer":
        handle = guide(model, HEADS, weight=0.5)
    else:
        handle = guide(model[0].auto_model, HEADS, weight=0.5, within=model)
    logs = train(model, tmp_path, make_loss(model), data, callbacks=[handle.callback()])
    assert [entry["loss"] for entry in logs] == pytest.approx(expected, abs=2e-4), "as Trainer rounds it"
    assert all(0 < entry["guidance"] < 2 for entry in logs)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7, msg=name)
    unguided = by_hand(folder, kind, weight=0.0)[0]
    assert abs(unguided[0] - expected[0]) > 0.1


def test_accumulation_counts_as_the_loss_does(folder, tmp_path):
    """A mean over two micro-batches of half the size, for a loss without negatives."""
    weights = []
    for accumulation in (1, 2):
        model = make(folder)
        handle = guide(model, HEADS, weight=0.5, normalization="query")
        data = Dataset.from_dict({"anchor": ["a b c d"] * 8, "positive": ["c d e f"] * 8, "score": [0.5] * 8})
        train(model, tmp_path, losses.CosineSimilarityLoss(model), data, accumulation, [handle.callback()], steps=2)
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-6, atol=1e-9)


def test_a_loss_given_as_the_whole(folder):
    """In any loop: `within` may be the module that computes the loss."""
    model = make(folder).train()
    plain = copy.deepcopy(model)
    loss_of = losses.MultipleNegativesRankingLoss(model)
    guide(model, HEADS, weight=0.5, within=loss_of)
    texts = [PAIRS[:4]["anchor"], PAIRS[:4]["positive"]]
    features = [model.preprocess(text) for text in texts]
    loss = loss_of([dict(one) for one in features], None)
    expected = losses.MultipleNegativesRankingLoss(plain)([dict(one) for one in features], None)
    for text in texts:
        inputs = features_of(plain, text)
        heads = {(layer, 0): (lambda b, i: [i + 1]) for layer in range(2)}
        expected = expected + 0.5 * eager_maps.guidance(
            plain[0].auto_model, inputs, heads, inputs["attention_mask"].bool()
        )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    loss.backward()
    expected.backward()
    eager_maps.assert_same_gradients(model, plain, 1e-8)


def test_without_the_callback_it_is_said(folder, tmp_path):
    model = make(folder)
    guide(model, HEADS, weight=0.5)
    with pytest.warns(GuidanceWarning, match=r"in no loss.*callbacks=\[guidance.callback\(\)\]"):
        train(model, tmp_path, losses.MultipleNegativesRankingLoss(model), PAIRS)


def test_gradient_caches_are_not_silent(folder, tmp_path):
    """They call the encoder again within the backward pass, where no loss can take the guidance along."""
    model = make(folder)
    handle = guide(model, HEADS, weight=0.5)
    loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
    with pytest.warns(GuidanceWarning, match="in no loss"):
        train(model, tmp_path, loss, PAIRS, callbacks=[handle.callback()])


def test_evaluation_and_encoding_are_left_alone(folder):
    model, plain = make(folder).eval(), make(folder).eval()
    guide(model, HEADS, weight=0.5)
    assert torch.equal(
        model.encode(["a b c", "d"], convert_to_tensor=True), plain.encode(["a b c", "d"], convert_to_tensor=True)
    )
