import shutil
import sys
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    pipeline,
)

from attention_guidance.commands.text.corpora import read_documents
from attention_guidance.commands.text.embedded import embedded_documents
from attention_guidance.commands.tokenization.byte_level import load_tokenizer, suggest_vocab_size, train_tokenizer
from attention_guidance.errors import ConfigError
from benchmarks import forked

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"

TEXTS = [f"the {noun} {verb} the {other} </s> <mask> <s>" for noun in ("cat", "dog", "bird")
         for verb in ("sees", "hears", "follows") for other in ("house", "tree", "river")] * 4  # fmt: skip

TRICKY = [
    "",
    " ",
    "  two leading, two trailing  ",
    "tab\tnewline\nreturn\r\n\n\n x",
    "é e\u0301 Å A\u030a ﬁ Ⅳ ½ ẹ̀kọ́",  # composed and not, and compatibility forms, which stay
    "日本語 한국어 العربية עברית हिन्दी ไทย",
    "👩‍👩‍👧 🇰🇪 👍🏽 \U0010ffff",
    "\u200b\u200d\u00a0\u2028\u3000\ufeff\x00\x7f",
    "it 's , . ! n't we 'll",  # what clean_up_tokenization_spaces would change
    "<mask> </s><s> <pad>  <unk> <mask>",
    "<MASK> < mask > </ s>",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 300, max_length=128)


@pytest.fixture(scope="module")
def saved(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("n_bytes", "size"),
    [
        (0, 512), (29_999, 512), (30_000, 2048), (299_999, 2048), (300_000, 4096), (2_000_000, 8192),
        (30_000_000, 16384), (300_000_000, 32768), (2_999_999_999, 32768), (3_000_000_000, 50048),
    ],
)  # fmt: skip
def test_suggest_vocab_size(n_bytes: int, size: int) -> None:
    assert suggest_vocab_size(n_bytes) == size


def test_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [0, 1, 2, 3, 4]
    assert (tokenizer.cls_token_id, tokenizer.bos_token_id) == (0, 0)
    assert (tokenizer.sep_token_id, tokenizer.eos_token_id) == (2, 2)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (1, 3, 4)
    assert len(tokenizer) == 300
    assert tokenizer.model_max_length == 128
    encoded = tokenizer("the cat")
    assert encoded["input_ids"][0] == 0
    assert encoded["input_ids"][-1] == 2
    assert set(encoded) == {"input_ids", "attention_mask"}
    with_mask = tokenizer("the <mask>", add_special_tokens=False)["input_ids"]
    assert with_mask == [*tokenizer("the", add_special_tokens=False)["input_ids"], 4]  # lstrip took the space


@pytest.mark.parametrize("text", TRICKY)
def test_round_trip(tokenizer: PreTrainedTokenizerFast, saved: Path, text: str) -> None:
    for candidate in (tokenizer, AutoTokenizer.from_pretrained(saved)):
        ids = candidate(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert candidate.decode(ids) == unicodedata.normalize("NFC", text)
        assert not set(ids) & set(candidate.all_special_ids)


def test_names_of_special_tokens_are_special_unless_split(tokenizer: PreTrainedTokenizerFast) -> None:
    # The corpus is full of them, and "<", "s", ">" are there to be merged: still no merge may spell one.
    assert 4 in tokenizer("a <mask>")["input_ids"]
    split = tokenizer("a <mask> </s>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert min(split) > 4
    assert 4 in tokenizer("a <mask>")["input_ids"]  # the setting of one call does not last


def test_training_is_deterministic(tokenizer: PreTrainedTokenizerFast) -> None:
    code = (  # another process, with other hash seeds
        "import sys; from attention_guidance.commands.tokenization.byte_level import train_tokenizer;"
        "texts = sys.argv[1:];"
        "print(train_tokenizer(texts, 300, max_length=128).backend_tokenizer.to_str())"
    )
    run = forked.run([sys.executable, "-c", code, *TEXTS], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == train_tokenizer(TEXTS, 300, max_length=128).backend_tokenizer.to_str()
    other = train_tokenizer([text.replace("cat", "zebra") for text in TEXTS], 300, max_length=128)
    assert run.stdout.strip() != other.backend_tokenizer.to_str()


def test_reload_without_our_package_and_fill_mask(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    config = RobertaConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=130, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "attention_guidance" not in "".join(path.read_text() for path in tmp_path.glob("*.json"))
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "the cat sees  the river <mask> house é"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.model_max_length == 128
    predictions = pipeline("fill-mask", model=str(tmp_path))("the cat <mask> the house", top_k=3)
    assert len(predictions) == 3
    assert all(0 <= prediction["token"] < 300 for prediction in predictions)


def test_vocabulary_sizes_that_cannot_be(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match="vocabulary size 260: at least 261"):
        train_tokenizer(TEXTS, 260, max_length=128)
    assert len(train_tokenizer(TEXTS, 261, max_length=128)) == 261
    with pytest.raises(ConfigError, match="vocabulary size 5000: this text supports only") as caught:
        train_tokenizer(TEXTS, 5000, max_length=128)
    reachable = int(str(caught.value).split("only ")[1].split()[0])
    assert len(train_tokenizer(TEXTS, reachable, max_length=128)) == reachable
    with pytest.raises(ConfigError, match=f"supports only {reachable}"):
        train_tokenizer(TEXTS, reachable + 1, max_length=128)


def test_an_error_of_the_corpus_comes_through(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"fine\n" * 10 + b"\xff")
    with pytest.raises(ValueError, match="byte offset 50"):
        train_tokenizer((d.text for d in read_documents([path])), 300, max_length=128)


def test_load_tokenizer(tokenizer: PreTrainedTokenizerFast, saved: Path) -> None:
    assert load_tokenizer(str(saved))("the cat")["input_ids"] == tokenizer("the cat")["input_ids"]


@pytest.mark.parametrize(
    ("lacking", "given"),
    [
        ("no mask token", {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>"}),
        ("no pad token", {"mask_token": "<mask>", "eos_token": "</s>", "bos_token": "<s>"}),
        ("no sep or eos token", {"mask_token": "<mask>", "pad_token": "<pad>", "bos_token": "<s>"}),
        ("no mask and no cls or bos token", {"pad_token": "<pad>", "eos_token": "</s>"}),
    ],
)
def test_load_tokenizer_lacking_a_token(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, lacking: str, given: dict[str, str]
) -> None:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **given).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=lacking) as caught:
        load_tokenizer(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_load_tokenizer_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.json").write_text("{}")
    RobertaConfig().save_pretrained(tmp_path / "model_only")  # AutoTokenizer loads this: special tokens alone
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())).save_pretrained(tmp_path / "hollow")
    shutil.copytree(tmp_path / "hollow", tmp_path / "damaged")
    (tmp_path / "damaged" / "tokenizer.json").write_text('{"version": "1.0", "model": ')
    for name, says in (
        ("./nope", "no such folder"),
        ("empty/nope", "no such folder"),  # could be a name on the hub, but for the folder "empty" here
        ("file.json", "a file"),
        ("empty", "cannot be loaded"),
        ("model_only", "no vocabulary"),
        ("hollow", "no vocabulary"),
        ("damaged", "cannot be loaded"),
    ):
        with pytest.raises(ConfigError, match=says) as caught:
            load_tokenizer(name)
        assert f"tokenizer {name!r}" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.shared
def test_round_trip_of_yoruba() -> None:
    path = SHARED / "yoruba" / "valid.txt"
    if not path.exists():
        pytest.skip(f"no {path}: the shared corpora are not on this machine")
    lines = path.read_text(encoding="utf-8").split("\n")
    tokenizer = train_tokenizer(lines, 1000, max_length=128)
    assert tokenizer.batch_decode(tokenizer(lines, add_special_tokens=False)["input_ids"]) == [
        unicodedata.normalize("NFC", line) for line in lines
    ]


def test_english_is_split_as_gpt2_splits():
    from tokenizers import pre_tokenizers

    backend = train_tokenizer(TEXTS, 300, max_length=64).backend_tokenizer
    before = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tricky = [text for text in TRICKY if not set(text) & set("\u0301\u200b\u200dि")]
    english = ["I'm, we've; don't! \"It's\" (they're) the LORD's: dogs' he'd 1980's she'll\n\n x' 'y'  \t", *embedded()]
    for text in (*TEXTS, *tricky, *english):
        assert backend.pre_tokenizer.pre_tokenize_str(text) == before.pre_tokenize_str(text)


def embedded() -> list[str]:
    """A part of the embedded text, from all over it."""
    return [document.text for number, document in enumerate(embedded_documents()) if number % 20 == 0]
