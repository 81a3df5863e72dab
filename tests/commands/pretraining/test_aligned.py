"""A trained model takes up another tokenizer's special ids and more tokens, and stays what it was otherwise."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from attention_guidance.adapters.positions import longest_input
from attention_guidance.commands.objectives.masked_lm import MaskedTokens
from attention_guidance.commands.objectives.masking import Masking
from attention_guidance.commands.objectives.replaced_tokens import ReplacedTokenDetection
from attention_guidance.commands.objectives.sentence_pairs import SentencePairs
from attention_guidance.commands.pretraining.model import new_model
from attention_guidance.commands.pretraining.saving.aligned import aligned
from attention_guidance.commands.pretraining.settings.config import make_config

SIZES = {"layers": 2, "hidden": 32, "attention_heads": 2, "feed_forward": 64, "block_size": 32}
BEFORE = {
    "vocab_size": 300, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2,
    "mask_token_id": 4,
}  # fmt: skip
# As WordPiece's, with special ids at both ends.
AFTER = BEFORE | {
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "mask_token_id": 299,
}  # fmt: skip
MASKING = Masking(0.15, 4, frozenset(range(5)), 300)
NAMING = MaskedTokens(MASKING)
FAMILIES = ["roberta", "xlm-roberta", "camembert", "attention-only", "data2vec-text", "esm", "bert", "electra",
            "distilbert", "albert", "modernbert", "nomic_bert", "eurobert", "deberta-v2", "luke", "longformer",
            "mpnet"]  # fmt: skip


def trained(arch: str, objective=NAMING, **more):
    """A model whose every weight counts, among them those of biases and positions."""
    torch.manual_seed(0)
    model = new_model(make_config({**SIZES, "arch": arch}), objective, {**BEFORE, **more}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def logits(model, ids_BT):
    with torch.no_grad():
        return model.eval()(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).logits


# Neither is padding in these, before or after.
IDS_BT = torch.randint(5, 299, (3, 32), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arch", FAMILIES)
@pytest.mark.parametrize("new", [AFTER, BEFORE | {"pad_token_id": 299}, BEFORE | {"pad_token_id": 2}])
def test_special_ids_are_the_tokenizer_s_and_all_else_stays(tmp_path, arch, new):
    before = trained(arch)
    after = aligned(copy.deepcopy(before), NAMING.new_model, new)
    assert {name: getattr(after.config, name) for name in new} == new
    torch.testing.assert_close(logits(after, IDS_BT), logits(before, IDS_BT))
    assert longest_input(after) == longest_input(before)
    # And is the same when it is loaded: also where a text has the ids that were special.
    after.save_pretrained(tmp_path)
    odd_BT = torch.randint(0, 300, (3, 32))
    torch.testing.assert_close(logits(AutoModelForMaskedLM.from_pretrained(tmp_path), odd_BT), logits(after, odd_BT))


@pytest.mark.parametrize("arch", FAMILIES)
def test_padding_is_the_tokenizer_s_in_every_table_of_tokens(arch):
    """Where it were another id, the token of that id would never be learnt."""
    after = aligned(trained(arch), NAMING.new_model, AFTER)
    assert after.get_input_embeddings().padding_idx in (None, 0, *((1,) if arch == "mpnet" else ()))


@pytest.mark.parametrize("arch", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_begin_as_the_mean_and_the_others_stay(tmp_path, arch, tied):
    before = trained(arch, tie_word_embeddings=tied)
    after = aligned(copy.deepcopy(before), NAMING.new_model, BEFORE | {"vocab_size": 302})
    assert after.config.vocab_size == 302
    assert after.get_input_embeddings().weight.shape[0] == 302
    was_BTV, is_BTV = logits(before, IDS_BT), logits(after, IDS_BT)
    torch.testing.assert_close(is_BTV[..., :300], was_BTV)
    # The output is linear in its rows: that of a mean row is the mean output.
    mean_BT = was_BTV.mean(-1)
    torch.testing.assert_close(is_BTV[..., 300:], torch.stack([mean_BT, mean_BT], -1), atol=1e-5, rtol=1e-4)
    is_tied = after.get_output_embeddings().weight is after.get_input_embeddings().weight
    assert is_tied == (before.get_output_embeddings().weight is before.get_input_embeddings().weight)
    after.save_pretrained(tmp_path)
    new_BT = torch.randint(295, 302, (3, 32))
    torch.testing.assert_close(logits(AutoModelForMaskedLM.from_pretrained(tmp_path), new_BT), logits(after, new_BT))


def test_electra_s_pair_grows_together(tmp_path):
    objective = ReplacedTokenDetection(MASKING)
    before = trained("electra", objective, **objective.settings)
    after = aligned(copy.deepcopy(before), objective.new_model, AFTER | {"vocab_size": 302})
    embeddings = after.electra.embeddings.word_embeddings
    assert embeddings.weight.shape == (302, 32)
    assert after.generator.electra.embeddings.word_embeddings.weight is embeddings.weight
    assert after.generator.generator_lm_head.weight is embeddings.weight
    assert after.generator.generator_lm_head.bias.shape == (302,)
    assert after.generator.config.pad_token_id == 0
    for part in (lambda model: model.generator, lambda model: model.discriminator()):
        was, now = logits(part(before), IDS_BT), logits(part(after), IDS_BT)
        torch.testing.assert_close(now[..., : was.shape[-1]], was)
    objective.save(after, tmp_path)
    loaded = objective.trained_model(str(tmp_path))
    for name, weights in after.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weights), name


@pytest.mark.parametrize(("question", "arch"), [("next", "bert"), ("order", "albert")])
def test_so_do_models_with_a_head_for_pairs(question, arch):
    objective = SentencePairs(MASKING, question=question, frame=(0, 2, 1))
    before = trained(arch, objective, **objective.settings)
    after = aligned(copy.deepcopy(before), objective.new_model, AFTER | {"vocab_size": 364})
    with torch.no_grad():
        was, now = (model.eval()(input_ids=IDS_BT) for model in (before, after))
    torch.testing.assert_close(now.prediction_logits[..., :300], was.prediction_logits)
    assert now.prediction_logits.shape[-1] == 364
    name = "seq_relationship_logits" if question == "next" else "sop_logits"
    torch.testing.assert_close(now[name], was[name])


def test_a_vocabulary_in_another_dimension():
    """MobileBERT keeps a part of its output weights with the vocabulary last."""
    config = AutoConfig.for_model(
        "mobilebert", vocab_size=300, hidden_size=64, embedding_size=16, num_hidden_layers=1, intermediate_size=64,
        num_attention_heads=2, intra_bottleneck_size=16, true_hidden_size=16,
    )  # fmt: skip
    torch.manual_seed(0)
    before = NAMING.new_model(config)
    after = aligned(copy.deepcopy(before), NAMING.new_model, {"vocab_size": 320})
    was, now = logits(before, IDS_BT), logits(after, IDS_BT)
    torch.testing.assert_close(now[..., :300], was)
    torch.testing.assert_close(now[..., 319], was.mean(-1), atol=1e-5, rtol=1e-4)


def test_what_agrees_is_left_as_it_is():
    model = trained("roberta")
    assert aligned(model, NAMING.new_model, BEFORE) is model


@pytest.mark.parametrize("arch", ["roberta", "bert", "electra", "modernbert"])
def test_a_vocabulary_is_a_multiple_on_request(arch):
    config = make_config({**SIZES, "arch": arch, "pad_vocab": 64})
    assert new_model(config, NAMING, BEFORE).config.vocab_size == 320
    assert new_model(config, NAMING, BEFORE | {"vocab_size": 320}).config.vocab_size == 320


def test_a_trained_model_s_vocabulary_too_and_none_is_cut_off(tmp_path):
    trained("roberta").save_pretrained(tmp_path)

    def made(tokens: int, **more):
        config = make_config({"init_from": str(tmp_path), **more})
        return new_model(config, NAMING, BEFORE | {"vocab_size": tokens}).config.vocab_size

    assert made(300, pad_vocab=64) == 320
    assert made(321, pad_vocab=64) == 384
    assert made(302) == 302
    assert made(280) == 300
    assert made(280, pad_vocab=128) == 384
