import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attention_guidance.commands.text.blocks import Blocks, one_per_line, pack, require_batch, token_counts
from attention_guidance.commands.tokenization.byte_level import train_tokenizer
from attention_guidance.errors import ConfigError, CorpusError

ROBERTA = {
    "cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>",
}  # fmt: skip
BERT = {
    "cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]", "mask_token": "[MASK]",
}  # fmt: skip
S, P, E, U, M = range(5)  # start, pad, end, unknown, mask


def letters(special: dict[str, str], **more: str) -> PreTrainedTokenizerFast:
    """One token a letter: a is 10, b is 11."""
    names = [special[f"{kind}_token"] for kind in ("cls", "pad", "sep", "unk", "mask")]
    vocab = {name: i for i, name in enumerate(names)} | {chr(97 + i): 10 + i for i in range(26)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token=special["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.normalizer = normalizers.Replace(" ", "")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(special | more))


@pytest.mark.parametrize("special", [ROBERTA, BERT])
def test_pack_by_hand(special: dict[str, str]) -> None:
    blocks = pack(iter(["abc", "de", "fghijk", "lm"]), letters(special), 6)
    # Inside, four tokens a block: a b c </s> | d e </s> f | g h i j | k </s> l m
    assert blocks.ids.tolist() == [
        [S, 10, 11, 12, E, E],
        [S, 13, 14, E, 15, E],
        [S, 16, 17, 18, 19, E],
        [S, 20, E, 21, 22, E],
    ]
    assert blocks.lengths.tolist() == [6, 6, 6, 6]
    assert (len(blocks), blocks.n_tokens, blocks.truncated) == (4, 24, 0)
    assert blocks.ids.dtype == np.uint16


def test_token_counts_are_of_each_text() -> None:
    assert token_counts(["abc", " ", "de"], letters(ROBERTA)) == [3, 0, 2]


def test_pack_has_no_separator_where_a_text_begins_a_block() -> None:
    assert pack(["ab", "cd", "ef"], letters(ROBERTA), 4).ids.tolist() == [
        [S, 10, 11, E],
        [S, 12, 13, E],
        [S, 14, 15, E],
    ]


@pytest.mark.parametrize(
    ("texts", "ids", "lengths"),
    [
        (["abcdef"], [[S, 10, 11, 12, 13, E]], [6]),  # the rest, e f, is dropped
        (["ab"], [[S, 10, 11, E, P, P]], [4]),  # but not where it is all there is
        (["a", "", " ", "b"], [[S, 10, E, 11, E, P]], [5]),  # texts of no token leave no separator
        ([], [], []),
        (["", " "], [], []),
    ],
)
def test_pack_of_little(texts: list[str], ids: list[list[int]], lengths: list[int]) -> None:
    blocks = pack(texts, letters(ROBERTA), 6)
    assert blocks.ids.tolist() == ids
    assert blocks.ids.shape == (len(ids), 6)
    assert blocks.lengths.tolist() == lengths


def test_pack_keeps_every_token_in_order() -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefgh"), rng.integers(0, 40))) for _ in range(1000)]
    for block_size in (3, 4, 17):
        blocks = pack(texts, letters(ROBERTA), block_size)
        inner = blocks.ids[:, 1:-1].ravel()
        content = inner[inner != E]
        whole = np.array([10 + ord(c) - 97 for c in "".join(texts)])
        assert len(whole) - len(content) < block_size - 2
        np.testing.assert_array_equal(content, whole[: len(content)])
        assert (blocks.ids[:, 0] == S).all()
        assert (blocks.ids[:, -1] == E).all()
        assert not (blocks.ids[:, 1] == E).any()


def test_one_per_line_by_hand() -> None:
    blocks = one_per_line(["ab", "", "abcdef", "abc"], letters(BERT), 5)
    assert blocks.ids.tolist() == [[S, 10, 11, E, P], [S, 10, 11, 12, E], [S, 10, 11, 12, E]]
    assert blocks.lengths.tolist() == [4, 5, 5]
    assert blocks.truncated == 1
    assert blocks.n_tokens == 14


@pytest.mark.parametrize("layout", [pack, one_per_line])
def test_names_of_special_tokens_are_text(layout: object) -> None:
    texts = ["see <mask> and </s> and <s> here <pad>"] * 30
    tokenizer = train_tokenizer(texts, 270, max_length=64)
    blocks = layout(texts[:1], tokenizer, 64)
    inner = blocks.ids[0, 1 : blocks.lengths[0] - 1].tolist()
    assert not {S, P, E, U, M} & set(inner)
    assert tokenizer.decode(inner) == texts[0]
    assert M in tokenizer(texts[0])["input_ids"]  # control: read as the token without our care


def test_a_model_that_spells_special_tokens_gives_unk() -> None:
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<mask>", 0.0), ("a", -1.0), ("b", -1.0)]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram(vocab, unk_id=3)), **ROBERTA)
    spelt = tokenizer("a<mask>b", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert spelt == [5, M, 6]  # control: the model does write the mask
    assert one_per_line(["a<mask>b"], tokenizer, 6).ids.tolist() == [[S, 5, U, 6, E, P]]


def test_settings_stored_in_a_tokenizer_do_not_cut_or_pad() -> None:
    tokenizer = letters(ROBERTA)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    assert pack(["abcdefg", "h"], tokenizer, 11).ids.tolist() == [[S, *range(10, 17), E, 17, E]]


def test_large_vocabularies_get_wider_ids() -> None:
    vocab = {name: i for i, name in enumerate(ROBERTA.values())} | {"far": 70_000}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    blocks = pack(["far"], PreTrainedTokenizerFast(tokenizer_object=backend, **ROBERTA), 3)
    assert blocks.ids.dtype == np.int32
    assert 70_000 in blocks.ids


@pytest.mark.parametrize("layout", [pack, one_per_line])
def test_layout_refusals(layout: object) -> None:
    with pytest.raises(ConfigError, match="block size 2: must be at least 3"):
        layout(["a"], letters(ROBERTA), 2)
    lacking = {kind: token for kind, token in ROBERTA.items() if kind != "pad_token"}
    backend = letters(ROBERTA).backend_tokenizer
    with pytest.raises(ConfigError, match="lacks a special token"):
        layout(["a"], PreTrainedTokenizerFast(tokenizer_object=backend, **lacking), 8)


def test_require_batch() -> None:
    blocks = pack(["abcdefgh"], letters(ROBERTA), 4)
    require_batch(blocks, 4, "training")
    with pytest.raises(CorpusError, match="for training: 16 tokens in 4 blocks of 4, one batch of 5 needs 20 tokens"):
        require_batch(blocks, 5, "training")
    none = pack([], letters(ROBERTA), 4)
    with pytest.raises(CorpusError, match=r"0 tokens in 0 blocks of 4.*`batch_size` or `block_size`"):
        require_batch(none, 1, "validation")


def test_blocks_count_in_64_bits() -> None:
    blocks = Blocks(np.empty((3, 0), np.uint16), np.full(3, 2**31 - 1, np.int32))
    assert blocks.n_tokens == 3 * (2**31 - 1)
