"""A look at a sentence: its maps are the model's, and the model stays as it was; words, pairs, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import transformers
from tokenizers import normalizers, processors
from transformers import BertConfig, BertForMaskedLM, BertModel, ByT5Tokenizer, DebertaV2Config, DebertaV2Model
from word_tokenizer import word_tokenizer

from attention_guidance import guide
from attention_guidance.analysis import attention_maps, look, without_heads
from attention_guidance.analysis.tokens import words_of_text
from attention_guidance.errors import AttachError, ConfigError

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TEXT = "the king saw [MASK] in it."


def sharp(model):
    """Attention that is far from uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in (".query.weight", ".key.weight", ".q.weight", ".k.weight", "_proj.weight")):
                parameter.mul_(30)
    return model


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    return sharp(BertModel(BertConfig(vocab_size=80, max_position_embeddings=40, **SIZES)).eval())


@pytest.fixture(scope="module")
def of_pairs():
    """The tokenizer with a template for pairs."""
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def test_maps_and_tokens_are_the_models(bert, tokenizer):
    seen = look(bert, tokenizer, TEXT)
    ids = tokenizer(TEXT)["input_ids"]
    assert seen.tokens == ["[CLS]", "the", "king", "saw", "[MASK]", "i", "##n", "i", "##t", ".", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(ids) == seen.tokens
    np.testing.assert_allclose(seen.maps_LHTT, attention_maps(bert, ids), atol=1e-6)
    assert seen.sentence_T.tolist() == [-1, *[0] * 9, -1]
    assert seen.heads == ((0, 0),)
    assert repr(seen) == f"<Look of BertModel: {TEXT}: 11 tokens, 2 layers of 2 heads>"


def test_special_tokens_are_hidden_and_rows_scaled(bert, tokenizer):
    """Those that the tokenizer adds: the mask that is written stays."""
    whole, seen = look(bert, tokenizer, TEXT), look(bert, tokenizer, TEXT, hide_special=True)
    assert seen.tokens == whole.tokens[1:-1]
    expected = whole.maps_LHTT[:, :, 1:-1, 1:-1].astype(np.float64)
    np.testing.assert_allclose(seen.maps_LHTT, expected / expected.sum(-1, keepdims=True), atol=1e-6)


def test_a_row_with_nothing_left_is_zero(tokenizer):
    """All attention on a special token, in single precision."""
    model = BertModel(BertConfig(vocab_size=80, max_position_embeddings=40, **SIZES)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embeddings.word_embeddings.weight[tokenizer.cls_token_id, 0] = 1
        model.embeddings.LayerNorm.weight.fill_(1)
        model.encoder.layer[0].attention.self.query.bias.fill_(1000)
        model.encoder.layer[0].attention.self.key.weight[:, 0] = 1000
    seen = look(model, tokenizer, "the king", hide_special=True)
    assert seen.maps_LHTT[0].max() == 0
    np.testing.assert_allclose(seen.maps_LHTT[1], 0.5)


@pytest.mark.parametrize("hide_special", [False, True])
def test_words_are_sums_of_tokens_attended_to_and_means_of_tokens_attending(bert, tokenizer, hide_special):
    tokens = look(bert, tokenizer, TEXT, hide_special=hide_special)
    words = look(bert, tokenizer, TEXT, hide_special=hide_special, words=True)
    names = ["[CLS]", "the", "king", "saw", "[MASK]", "in", "it", ".", "[SEP]"]
    parts = [[0], [1], [2], [3], [4], [5, 6], [7, 8], [9], [10]]
    if hide_special:
        names, parts = names[1:-1], [[token - 1 for token in part] for part in parts[1:-1]]
    assert words.tokens == names
    for row, rows in enumerate(parts):
        for column, columns in enumerate(parts):
            expected = sum(tokens.maps_LHTT[:, :, i, j] for i in rows for j in columns) / len(rows)
            np.testing.assert_allclose(words.maps_LHTT[:, :, row, column], expected, atol=1e-6)
    np.testing.assert_allclose(words.maps_LHTT.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The king's, he.", ["The", "king's", ",", "he", "."]),
        ('"(Yes)" ...', ['"', "(", "Yes", ")", '"', ".", ".", "."]),
        ("saw [MASK]</s> x[MASK].", ["saw", "[MASK]", "</s>", "x", "[MASK]", "."]),
        ("  a\n\tb ", ["a", "b"]),
        ("हिन्दी में है।", ["हिन्दी", "में", "है", "।"]),
        ("naïve e\u0301t\u0301e", ["naïve", "e\u0301t\u0301e"]),
        ("[[MASK]]", ["[", "[MASK]", "]"]),
        ("-", ["-"]),
    ],
)
def test_words_of_a_text(text, words):
    spans = words_of_text(text, ["[MASK]", "</s>", "[M"])
    assert [text[start:end] for start, end in spans] == words


def test_a_token_of_a_space_alone_belongs_to_the_word_after_it(bert):
    """Sentencepiece has such tokens before what its vocabulary lacks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("a", -1.0), ("▁b", -1.0), ("c", -1.0)], 0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace(prepend_scheme="never")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    seen = look(bert, tokenizer, "b ac")
    assert [token.strip() for token in seen.tokens] == ["b", "", "a", "c"]
    words = look(bert, tokenizer, "b ac", words=True)
    assert words.tokens == ["b", "ac"]
    np.testing.assert_allclose(words.maps_LHTT[..., 1, 1], seen.maps_LHTT[:, :, 1:, 1:].sum((-1, -2)) / 3, atol=1e-6)


@pytest.mark.parametrize("words", [False, True])
def test_a_pair(bert, of_pairs, words):
    seen = look(bert, of_pairs, "the king", "king saw", words=words)
    assert seen.tokens == ["[CLS]", "the", "king", "[SEP]", "king", "saw", "[SEP]"]
    assert seen.sentence_T.tolist() == [-1, 0, 0, -1, 1, 1, -1]
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    ids = torch.tensor([of_pairs.convert_tokens_to_ids(seen.tokens)])
    expected = attention_maps(bert, {"input_ids": ids, "token_type_ids": types})
    np.testing.assert_allclose(seen.maps_LHTT, expected, atol=1e-6)
    hidden = look(bert, of_pairs, "the king", "king saw", words=words, hide_special=True)
    assert hidden.sentence_T.tolist() == [0, 0, 1, 1], "the same word in two sentences is two words"
    assert hidden.tokens == ["the", "king", "king", "saw"]


def test_a_pair_without_a_token_between_them(bert, tokenizer):
    seen = look(bert, tokenizer, "king", "king", words=True)
    assert (seen.tokens, seen.sentence_T.tolist()) == (["king", "king"], [0, 1])


def seq2seq(name):
    config = getattr(transformers, f"{name}Config")
    sizes = {
        "T5": {"d_model": 16, "d_kv": 8, "num_layers": 2, "num_heads": 2, "d_ff": 8},
        "Bart": {
            "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
        },
    }[name]  # fmt: skip
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config(vocab_size=400, **sizes)).eval()


@pytest.mark.parametrize("name", ["T5", "Bart"])
def test_of_an_encoder_decoder_the_encoder_is_seen(tokenizer, name):
    model = seq2seq(name)
    seen = look(model, tokenizer, TEXT)
    assert seen.maps_LHTT.shape == (2, 2, 11, 11)
    expected = attention_maps(model.get_encoder(), tokenizer(TEXT)["input_ids"])
    np.testing.assert_allclose(seen.maps_LHTT, expected, atol=1e-6)


def test_a_model_outside_the_attention_interface(tokenizer):
    torch.manual_seed(0)
    model = DebertaV2Model(DebertaV2Config(vocab_size=80, **SIZES)).eval()
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        expected = torch.stack(model(ids, output_attentions=True).attentions)[:, 0]
    np.testing.assert_allclose(look(model, tokenizer, TEXT).maps_LHTT, expected, atol=1e-6)


def test_a_tokenizer_that_is_not_fast():
    tokenizer, model = ByT5Tokenizer(), seq2seq("T5")
    seen = look(model, tokenizer, "ab", "<pad>b")
    assert seen.tokens == ["a", "b", "</s>", "<pad>", "b", "</s>"]
    assert seen.sentence_T.tolist() == [0, 0, -1, 1, 1, -1]
    with pytest.raises(ConfigError, match="words need a fast tokenizer, which returns offsets; ByT5Tokenizer is slow"):
        look(model, tokenizer, "ab", words=True)


def own_hook(module, args, output):
    """A user's."""


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_is_left_as_it_was(tokenizer, implementation):
    """Modes of all modules, configuration, weights, hooks: a model that could be pickled still can be."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=80, max_position_embeddings=40, **SIZES, attn_implementation=implementation)
    model = BertForMaskedLM(config).train()
    model.bert.encoder.layer[0].eval()
    model.bert.encoder.layer[0].attention.self.register_forward_hook(own_hook)

    def state():
        modes = [module.training for module in model.modules()]
        hooks = [list(module._forward_hooks) for module in model.modules()]
        names = [sorted(vars(module)) for module in model.modules()]
        weights = {name: weight.clone() for name, weight in model.state_dict().items()}
        return modes, hooks, names, model.config.to_dict(), model.config._attn_implementation, weights

    *before, weights = state()
    first = look(model, tokenizer, TEXT, words=True)
    *after, weights_after = state()
    assert after == before
    assert all(torch.equal(weight, weights_after[name]) for name, weight in weights.items())
    pickle.dumps(model)
    second = look(model, tokenizer, TEXT, words=True)
    assert (first.html(), first.svg(), first.png()) == (second.html(), second.svg(), second.png())


def test_hooks_that_were_there_stay(bert, tokenizer):
    """Also those of transformers, on a model that has returned attention before."""
    model = pickle.loads(pickle.dumps(bert))
    model(torch.tensor([[3, 4]]), output_attentions=True)
    model.set_attn_implementation("eager")
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    look(model, tokenizer, TEXT)
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks
    assert len(model(torch.tensor([[3, 4]]), output_attentions=True).attentions) == 2


def fnet():
    return transformers.FNetModel(transformers.FNetConfig(vocab_size=80, hidden_size=16, num_hidden_layers=1))


def squeeze():
    config = {"hidden_size": 16, "embedding_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.SqueezeBertModel(transformers.SqueezeBertConfig(vocab_size=80, **config))


def positive():
    """Scores that are all above 0."""
    model = squeeze()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("query.bias", "key.bias")):
                parameter.fill_(3)
    return model


def vit():
    return transformers.ViTModel(transformers.ViTConfig(**SIZES))


def small():
    return BertModel(BertConfig(vocab_size=6, **SIZES))


def broken():
    model = BertModel(BertConfig(vocab_size=80, **SIZES))
    with torch.no_grad():
        model.encoder.layer[0].attention.self.query.weight.fill_(float("nan"))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (fnet, r"FNetModel (returns no attention maps|cannot be run on .*attention_mask)"),
        (squeeze, "SqueezeBertModel returns its attention before the softmax"),
        (positive, "SqueezeBertModel returns its attention before the softmax"),
        (vit, r"ViTModel cannot be run on 'the king saw \[MASK\] in it\.' \(.*\); give a model that reads text"),
        (small, r"BertModel cannot be run on .* \(index out of range in self\); .* and its own tokenizer"),
        (broken, "the model's attention is not finite"),
        (lambda: torch.nn.Linear(2, 2), "Linear is not a transformers model"),
        (lambda: "bert-base-uncased", "load the model first: AutoModel.from_pretrained"),
    ],
)
def test_a_model_that_cannot_be_looked_at(tokenizer, make, message):
    with pytest.raises(AttachError, match=message):
        look(make(), tokenizer, TEXT)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("",), "text='': give a sentence"),
        ((" \n",), "give a sentence"),
        ((["the", "king"],), r"text=\['the', 'king'\]: give a sentence, a string"),
        (("the king", ""), "pair='': give a sentence"),
        (("the \ud800 king",), r"text='the \\ud800 king': character 5 of the text is not valid Unicode"),
        (("the king", "\udcff"), "pair='.udcff': character 1 of the text is not valid Unicode"),
        (("king " * 60,), r"the sequence has 62 tokens and BertModel takes 40; split the text"),
    ],
)
def test_texts_that_are_refused(bert, tokenizer, given, message):
    with pytest.raises(ConfigError, match=message):
        look(bert, tokenizer, *given)


def test_a_text_of_maps_has_no_lone_surrogate(bert, tokenizer):
    with pytest.raises(ConfigError, match=r"text='the \\udcff': character 5 of the text is not valid Unicode"):
        attention_maps(bert, "the \udcff", tokenizer=tokenizer)


def test_a_text_without_a_token(bert):
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(clean_text=True)
    with pytest.raises(ConfigError, match="the tokenizer finds no token in it"):
        look(bert, tokenizer, "\u200b")


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([(0, 2)], "layer 0, head 2 does not exist: the model has layers 0 to 1, each with heads 0 to 1"),
        ([(0, 0), (-1, 0)], "layer -1, head 0 does not exist"),
        ((0, 1), r"heads=\(0, 1\): give pairs of layer and head, such as"),
        ([], r"heads=\[\]: give pairs"),
        ("0.1", "heads='0.1': give pairs"),
        ([(0.5, 1)], "give pairs"),
    ],
)
def test_heads_that_do_not_exist(bert, tokenizer, heads, message):
    with pytest.raises(ConfigError, match=message):
        look(bert, tokenizer, TEXT, heads=heads)


def test_what_is_no_tokenizer(bert):
    with pytest.raises(ConfigError, match="tokenizer is a str; load it"):
        look(bert, "bert-base-uncased", TEXT)


def test_a_model_without_some_of_its_heads(bert, tokenizer):
    with (
        without_heads(bert, [(0, 0)]),
        pytest.raises(AttachError, match=r"this BertModel has heads removed already; leave the with block"),
    ):
        look(bert, tokenizer, TEXT)


def test_a_guided_model_is_seen_too(tokenizer):
    """Its own attention, and guidance goes on as before."""
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=80, max_position_embeddings=40, **SIZES, **NO_DROPOUT))
    expected = look(model, tokenizer, TEXT).maps_LHTT
    guidance = guide(model.train(), "next:1")
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    model(ids, labels=ids)
    error = guidance.per_head()[0].error
    np.testing.assert_allclose(look(model, tokenizer, TEXT).maps_LHTT, expected, atol=1e-6)
    model(ids, labels=ids)
    assert guidance.per_head()[0].error == error
