"""A trained model gets another vocabulary: which of its tokens the new ones begin as, and that all else stays."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from small_runs import assert_same_weights, one_line
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

from attention_guidance.commands.objectives.masked_lm import MaskedTokens
from attention_guidance.commands.objectives.masking import Masking
from attention_guidance.commands.objectives.replaced_tokens import ReplacedTokenDetection
from attention_guidance.commands.objectives.sentence_pairs import SentencePairs
from attention_guidance.commands.pretraining.model import new_model, told_by
from attention_guidance.commands.pretraining.preparation.vocabulary import Inheritance, inheritance
from attention_guidance.commands.pretraining.settings.config import make_config
from attention_guidance.commands.tokenization.kinds import train_kind
from attention_guidance.errors import ConfigError

BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
ROBERTA = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>",
           "unk_token": "<unk>", "mask_token": "<mask>"}  # fmt: skip


def wordpiece(*tokens: str, lowercase: bool = False) -> PreTrainedTokenizerFast:
    """BERT's special tokens have the ids 0 to 4, the tokens those from 5 on; punctuation is a word."""
    vocabulary = {token: number for number, token in enumerate([*BERT.values(), *tokens])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **BERT)


def byte_level(*tokens: str, merges=()) -> PreTrainedTokenizerFast:
    """RoBERTa's special tokens have the ids 0 to 4, the tokens those from 5 on."""
    special = list(dict.fromkeys(ROBERTA.values()))
    vocabulary = {token: number for number, token in enumerate([*special, *tokens])}
    backend = Tokenizer(models.BPE(vocabulary, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **ROBERTA)


def sentencepiece(*tokens: str) -> PreTrainedTokenizerFast:
    """RoBERTa's special tokens have the ids 0 to 4, the tokens those from 5 on, in falling likelihood."""
    special = list(dict.fromkeys(ROBERTA.values()))
    scored = [(token, 0.0) for token in special] + [(token, -1.0 - n) for n, token in enumerate(tokens)]
    backend = Tokenizer(models.Unigram(scored, unk_id=3))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **ROBERTA)


OLD_WORDPIECE = wordpiece("the", "king", "##s", "##ing", "s", "a", "##a", ".", "##.", "é", lowercase=True)
#                          5      6       7      8        9    10   11     12   13     14
OLD_SENTENCEPIECE = sentencepiece("▁the", "▁king", "s", "ing", "▁", "k", "é", ".", "Ω")
#                                  5       6        7    8      9    10   11   12   13
OLD_BYTE_LEVEL = byte_level("Ġthe", "Ġking", "s", "ing", "Ġ", "Ã", "©", ".", "k", "i", "n", "g", "the",
                            merges=[("i", "n"), ("in", "g")][:0])  # fmt: skip
#                            5       6        7    8      9    10   11   12   13   14   15   16   17


@pytest.mark.parametrize(
    ("old", "kind", "token", "sources"),
    [
        # The same text, however a space before it is written.
        (OLD_WORDPIECE, byte_level, "Ġking", (6,)),
        (OLD_WORDPIECE, sentencepiece, "▁king", (6,)),
        (OLD_SENTENCEPIECE, wordpiece, "king", (6,)),
        (OLD_BYTE_LEVEL, wordpiece, "king", (6,)),
        (OLD_BYTE_LEVEL, sentencepiece, "▁the", (5,)),
        (OLD_WORDPIECE, byte_level, "ing", (8,)),
        (OLD_SENTENCEPIECE, wordpiece, "##ing", (8,)),
        # Within a word, if there is such a token; else as the first word of a text.
        (OLD_WORDPIECE, byte_level, "s", (7,)),
        (OLD_WORDPIECE, byte_level, "the", (5,)),
        (OLD_BYTE_LEVEL, byte_level, "the", (17,)),
        # Punctuation is a word of its own in WordPiece.
        (OLD_WORDPIECE, byte_level, ".", (12,)),
        (OLD_WORDPIECE, byte_level, "Ġ.", (12,)),
        (OLD_BYTE_LEVEL, wordpiece, ".", (12,)),
        # Not the same: the pieces that the old tokenizer makes of it, by its own rules.
        (OLD_WORDPIECE, byte_level, "Ġkings", (6, 7)),
        (OLD_WORDPIECE, byte_level, "inga", (8, 11)),
        (OLD_WORDPIECE, byte_level, "Ġthe.s", (5, 12, 9)),
        (OLD_WORDPIECE, byte_level, ".s", (12, 9)),
        (OLD_SENTENCEPIECE, byte_level, "Ġkings", (6, 7)),
        (OLD_SENTENCEPIECE, byte_level, "kings", (10, 8, 7)),
        (OLD_BYTE_LEVEL, sentencepiece, "▁é", (10, 11)),
        # Case is a difference, although the old tokenizer then ignores it.
        (OLD_WORDPIECE, byte_level, "ĠKing", (6,)),
        # A space alone is no text of a word, and parts of characters are not characters.
        (OLD_SENTENCEPIECE, byte_level, "ĠÅ", ()),
        (OLD_SENTENCEPIECE, byte_level, "Ġkx", (10,)),
        (OLD_WORDPIECE, byte_level, "Ãĸ", ()),
        (OLD_SENTENCEPIECE, byte_level, "Ġ", (9,)),
        (OLD_WORDPIECE, byte_level, "Ġ", ()),
        # In no alphabet of bytes, so read as it is.
        (OLD_SENTENCEPIECE, byte_level, "Ω.", (13, 12)),
    ],
)
def test_what_a_token_begins_as(old, kind, token, sources):
    # With a token that all share.
    new = kind(*dict.fromkeys([token, "."]))
    found = inheritance("old", old, new)
    assert found.sources[new.get_vocab()[token]] == sources


def test_kinds_are_counted_and_special_tokens_have_their_roles():
    new = byte_level("Ġking", "ĠKing", "Ġkings", "Ã", "the")
    found = inheritance("old", OLD_WORDPIECE, new)
    assert (found.shared, found.composed, found.drawn, found.tokens) == (2, 2, 1, 5)
    assert found.facts == {"tokens": 5, "shared": 0.4, "composed": 0.4, "drawn": 0.2}
    old = OLD_WORDPIECE.get_vocab()
    roles = {"<s>": "[CLS]", "</s>": "[SEP]", "<pad>": "[PAD]", "<unk>": "[UNK]", "<mask>": "[MASK]"}
    for token, role in roles.items():
        assert found.sources[new.get_vocab()[token]] == (old[role],)
    assert found.ordinary == tuple(range(5, 15))


def test_nothing_in_common_is_refused():
    with pytest.raises(ConfigError, match=r"init_from='old'.* has none \(0.0%\) of the 2 tokens .*this script"):
        inheritance("old", OLD_WORDPIECE, sentencepiece("▁በ", "▁ላ"))


def test_words_that_are_marked_at_their_end_are_refused():
    backend = Tokenizer(models.BPE({"<unk>": 0, "a</w>": 1}, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.decoder = decoders.BPEDecoder()
    other = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    with pytest.raises(ConfigError, match="the tokenizer of init_from='old' is neither byte-level BPE nor"):
        inheritance("old", other, byte_level("a"))


def test_weights_by_hand():
    """Two old ordinary tokens, 1 and 2: copied, their mean, and drawn with their mean and deviation."""
    sources = ((0,), (2,), (1, 2), (), ())
    inherited = Inheritance(sources, ordinary=(1, 2), shared=1, composed=1, drawn=2)
    old_VE = torch.tensor([[9.0, 9.0], [1.0, 10.0], [3.0, 10.0]])
    new_VE = inherited.rows(old_VE, 0, seed=1)
    assert new_VE[:3].tolist() == [[9.0, 9.0], [3.0, 10.0], [2.0, 10.0]]
    # The second column does not vary, the first has a deviation of 1 around 2.
    assert new_VE[3:, 1].tolist() == [10.0, 10.0]
    assert new_VE[3, 0] != new_VE[4, 0]
    many = Inheritance(((1,), *[()] * 4000), (1, 2), 1, 0, 4000).rows(old_VE, 0, seed=1)[1:, 0]
    assert many.mean().item() == pytest.approx(2, abs=0.06)
    assert many.std().item() == pytest.approx(1, abs=0.04)
    # A bias is not drawn, and a transposed table is the same one.
    assert inherited.rows(torch.tensor([9.0, 1.0, 3.0]), 0, seed=1).tolist() == [9, 3, 2, 2, 2]
    assert torch.equal(inherited.rows(old_VE.T, 1, seed=1), new_VE.T)
    assert torch.equal(inherited.rows(old_VE, 0, seed=1), new_VE)
    assert not torch.equal(inherited.rows(old_VE, 0, seed=2), new_VE)
    with pytest.raises(ConfigError, match="the trained model has 2 tokens, but its tokenizer has more"):
        inherited.rows(old_VE[:2], 0, seed=1)


SIZES = {"layers": 2, "hidden": 32, "attention_heads": 2, "feed_forward": 64, "block_size": 32}
NEW = byte_level("Ġking", "Ġkings", "Ã", "the", "s", "ing", "Ġa")
NAMING = MaskedTokens(Masking(0.15, 4, frozenset(range(5)), 12))


def start(arch: str, folder, objective=NAMING, **more):
    """A model with the tokens of `OLD_WORDPIECE`, whose every weight counts, saved in a folder."""
    torch.manual_seed(0)
    made = make_config({**SIZES, "arch": arch})
    model = new_model(made, objective, told_by(OLD_WORDPIECE))
    for name, value in more.items():
        setattr(model.config, name, value)
    if more:
        model = objective.new_model(model.config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    objective.save(model, folder)
    return model.eval()


@pytest.mark.parametrize(
    "arch",
    ["roberta", "bert", "electra", "albert", "distilbert", "modernbert", "deberta-v2", "attention-only",
     "xlm-roberta", "esm"],
)  # fmt: skip
@pytest.mark.parametrize("tied", [True, False])
def test_the_model_is_the_same_on_tokens_that_stay(tmp_path, arch, tied):
    """Also where embeddings are narrower than the model, and whether or not the output shares them."""
    narrow = {"embedding_size": 16} if arch in ("electra", "albert") else {}
    before = start(arch, tmp_path, tie_word_embeddings=tied, **narrow)
    assert tied == (before.get_output_embeddings().weight is before.get_input_embeddings().weight)
    inherited = inheritance("old", OLD_WORDPIECE, NEW)
    config = make_config({"init_from": str(tmp_path), "new_tokenizer": True})
    after = new_model(config, NAMING, told_by(NEW), inherited).eval()
    assert after.config.vocab_size == 12
    assert after.get_input_embeddings().weight.shape == (12, narrow.get("embedding_size", 32))
    kept = [number for number, sources in enumerate(inherited.sources) if len(sources) == 1 and number != 1]
    ids_BT = torch.tensor([kept * 2])
    old_BT = torch.tensor([[inherited.sources[number][0] for number in kept] * 2])
    with torch.no_grad():
        logits, expected = (m(input_ids=i).logits for m, i in ((after, ids_BT), (before, old_BT)))
    old = [inherited.sources[number][0] for number in kept]
    torch.testing.assert_close(logits[..., kept], expected[..., old])
    # A token of two pieces has the mean of both in every table.
    king, s = 6, 7
    pair = (expected[..., king] + expected[..., s]) / 2
    torch.testing.assert_close(logits[..., NEW.get_vocab()["Ġkings"]], pair)
    after.save_pretrained(tmp_path / "after")
    with torch.no_grad():
        torch.testing.assert_close(
            AutoModelForMaskedLM.from_pretrained(tmp_path / "after").eval()(input_ids=ids_BT).logits, logits
        )


@pytest.mark.parametrize("kind", ["rtd", "pairs"])
def test_models_of_two_heads_keep_both(tmp_path, kind):
    masking = NAMING.corrupt
    if kind == "rtd":
        objective, arch = ReplacedTokenDetection(masking, 0.15), "electra"
    else:
        objective, arch = SentencePairs(masking, 0.15, None, question="next", frame=(2, 3, 0)), "bert"
    before = start(arch, tmp_path, objective)
    inherited = inheritance("old", OLD_WORDPIECE, NEW)
    config = make_config({"init_from": str(tmp_path), "new_tokenizer": True})
    after = new_model(config, objective, told_by(NEW), inherited)
    weights, old = after.state_dict(), before.state_dict()
    grown = {name for name in weights if weights[name].shape != old[name].shape}
    assert all(torch.equal(weights[name], old[name]) for name in weights.keys() - grown)
    assert len(grown) >= 3
    for name in grown:
        assert torch.equal(weights[name][NEW.get_vocab()["Ġking"]], old[name][6]), name
        assert torch.equal(weights[name][4], old[name][4]), name


REST = "--block-size 32 --batch-size 4 --max-steps 4 --save-every 2 --validation-share 0.05"
REST += " --heads next:1 --report-to none"


@pytest.fixture
def new_start(corpus, whole_run, cli, capsys, tmp_path):
    """Start from the whole run with a new tokenizer; gives exit code and what was said."""

    def run(*more, init_from=whole_run):
        capsys.readouterr()
        code = cli("pretrain", corpus, *REST.split(), "--init-from", init_from, "-o", tmp_path / "out", *more)
        said = capsys.readouterr()
        return code, " ".join(said.out.split()), said.err

    return run


def test_a_new_tokenizer_is_trained_on_the_text(new_start, whole_run, tmp_path):
    code, said, error = new_start("--new-tokenizer", "--vocab-size", "300", "--learning-rate", "1e-9")
    assert code == 0, error
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    old, new = (set(AutoTokenizer.from_pretrained(f / "model").get_vocab()) for f in (whole_run, tmp_path / "out"))
    # Both are byte-level, so tokens with one text have one name; a token may also stand for one with a space before it.
    assert (len(tokenizer), results["model"]["vocabulary"]) == (300, 300)
    facts = results["new_tokens"]
    assert facts["tokens"] == 295
    assert facts["shared"] >= (len(new & old) - 5) / 295 > 0.9
    assert facts["drawn"] == 0
    assert facts["shared"] + facts["composed"] == pytest.approx(1)
    assert f"of 295 new tokens, {facts['shared']:.1%} are also in the vocabulary of --init-from" in said
    # Next to nothing was learned at this rate: what is shared is as it was.
    before, after = (
        AutoModelForMaskedLM.from_pretrained(f / "model").state_dict() for f in (whole_run, tmp_path / "out")
    )
    name = "roberta.embeddings.word_embeddings.weight"
    at = {f: AutoTokenizer.from_pretrained(f / "model").get_vocab() for f in (whole_run, tmp_path / "out")}
    for token in new & old:
        row = after[name][at[tmp_path / "out"][token]]
        torch.testing.assert_close(row, before[name][at[whole_run][token]], atol=1e-6, rtol=0)


def test_it_is_resumed_exactly(new_start, tmp_path):
    more = ["--new-tokenizer", "--vocab-size", "300", "--pad-vocab", "64", "-q"]
    assert new_start(*more)[0] == 0
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "out", whole)
    out = tmp_path / "out"
    shutil.rmtree(out / "model")
    shutil.rmtree(out / "checkpoints" / "checkpoint-4")
    (out / "results.json").unlink()
    assert new_start(*more, "--resume")[0] == 0
    resumed, once = (json.loads((f / "results.json").read_text()) for f in (out, whole))
    assert resumed["resumed_from"] == 2
    assert resumed["new_tokens"] == once["new_tokens"]
    assert resumed["model"]["vocabulary"] == 320
    assert_same_weights(out, whole)


def test_a_given_tokenizer_is_taken_as_it_is(new_start, tmp_path):
    given = tmp_path / "given"
    text = ["abc abc abd abd bcd bcd ."] * 20
    train_kind("wordpiece", text, 100, max_length=32, at_most=True).save_pretrained(given)
    code, _, error = new_start("--tokenizer", given)
    assert code == 2
    assert "or replace the model's vocabulary with --new-tokenizer" in one_line(error)
    assert new_start("--tokenizer", given, "--new-tokenizer", "-q")[0] == 0
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out" / "model")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(given))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--vocab-size", "300"], "leave one of them out, or train a new one with --new-tokenizer"),
        (["--new-tokenizer", "--vocab-size", "300", "--tokenizer", "{run}"], "is for training a tokenizer"),
    ],
)
def test_what_contradicts_is_refused(new_start, whole_run, tmp_path, more, said):
    code, _, error = new_start(*(part.format(run=whole_run) for part in more))
    assert code == 2
    assert said in one_line(error)
    assert not (tmp_path / "out").exists()


def test_it_needs_a_model_to_start_from(corpus, cli, capsys, tmp_path):
    assert cli("pretrain", corpus, "--new-tokenizer", "-o", tmp_path / "out") == 2
    assert "--new-tokenizer True is for a run with --init-from; leave it out" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("new", [["--new-tokenizer"], []])
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_start_whose_tokenizer_cannot_be_read(new_start, whole_run, tmp_path, new, damage):
    bare = tmp_path / "bare"
    shutil.copytree(whole_run / "model", bare)
    for file in bare.glob("tokenizer*"):
        file.unlink() if damage == "missing" else file.write_text("{")
    code, _, error = new_start(*new, init_from=bare)
    assert code == 2
    assert f"--init-from '{bare}': the model's tokenizer cannot be used: " in one_line(error)
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_of_another_script_is_refused(new_start, tmp_path, whole_run):
    """The start knows Ethiopic alone, the text is Latin."""
    start_from, old = tmp_path / "start", tmp_path / "old"
    train_kind("unigram", ["በላ ላሽ ሽተ ተማ"] * 30, 40, max_length=32, at_most=True).save_pretrained(old)
    tokenizer = AutoTokenizer.from_pretrained(old)
    made = make_config({**SIZES, "arch": "roberta"})
    torch.manual_seed(0)
    new_model(made, NAMING, told_by(tokenizer)).save_pretrained(start_from)
    tokenizer.save_pretrained(start_from)
    given = tmp_path / "given"
    train_kind("wordpiece", ["abc abc abd abd"] * 20, 100, max_length=32, at_most=True).save_pretrained(given)
    code, _, error = new_start("--tokenizer", given, "--new-tokenizer", init_from=start_from)
    assert code == 2
    assert "its vocabulary has none (0.0%) of the" in one_line(error)
    assert not (tmp_path / "out").exists()
