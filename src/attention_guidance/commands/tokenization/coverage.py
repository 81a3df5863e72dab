"""How well a tokenizer fits a text, and what of the text it loses."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN = 10
_BATCH = 256
# What is worth a warning: a share of the characters, and of the tokens.
_LOST, _MORE = 0.001, 1.02
_SAMPLE_CHARACTERS = 1 << 18


@dataclass(frozen=True)
class TokenizerFacts:
    """How well a tokenizer fits a text; special tokens around texts are not counted.

    Attributes:
        vocabulary: its tokens.
        tokens, words, bytes: of the text; words stand between white space.
        fertility: tokens a word; 1 is best, and a model sees the farther the less it is.
        bytes_per_token: of the text.
        unknown: share of the tokens that stand for something unknown.
        lost: share of the characters that encoding and decoding does not give back, white space aside: unknown, dropped
            (zero-width joiners by BERT's) or made another (case). Forms that are the same to Unicode are the same here.
        lost_characters: those that are lost most, and how often each.
        whole_words: share of the words (as often as they occur) that are one token.
        characters: share of the letters (as often as they occur) that are known as a token of their own: the script's
            coverage. Byte-level tokenizers spell the others out.
        unused: share of the vocabulary that the text does not use.
        longest: the longest tokens that the text uses.
    """

    vocabulary: int
    tokens: int
    words: int
    bytes: int
    fertility: float
    bytes_per_token: float
    unknown: float
    lost: float
    lost_characters: dict[str, int]
    whole_words: float
    characters: float
    unused: float
    longest: tuple[str, ...]


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> TokenizerFacts:
    """Look at a tokenizer over a text.

    Args:
        tokenizer: any fast one.
        texts: documents, gone through once.

    Raises:
        ValueError: there is no word in the text.
    """
    used: Counter[int] = Counter()
    words: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    n_bytes = n_characters = 0
    batch: list[str] = []

    def count() -> None:
        encoded = _ids(tokenizer, batch)
        for ids in encoded:
            used.update(ids)
        lost.update(_lost(tokenizer, batch, encoded))
        batch.clear()

    normalizer = tokenizer.backend_tokenizer.normalizer
    for text in texts:
        n_bytes += len(text.encode())
        n_characters += _characters(text).total()
        words.update(text.split())
        letters.update(filter(str.isalpha, text if normalizer is None else normalizer.normalize_str(text)))
        batch.append(text)
        if len(batch) == _BATCH:
            count()
    count()
    if not words:
        raise ValueError("no word in the text")
    n_tokens, unknown = used.total(), tokenizer.unk_token_id
    # A word as it stands in a text, behind a space.
    whole = [len(ids) == 1 and ids[0] != unknown for ids in _ids(tokenizer, [f" {word}" for word in words])]
    ordinary = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    spelled = {number: tokenizer.decode([number]).strip().removeprefix("##") for number in ordinary}
    own = set(spelled.values())
    longest = sorted({spelled[number] for number in used.keys() & ordinary}, key=lambda token: (-len(token), token))
    return TokenizerFacts(
        vocabulary=len(tokenizer),
        tokens=n_tokens,
        words=words.total(),
        bytes=n_bytes,
        fertility=n_tokens / words.total(),
        bytes_per_token=n_bytes / max(n_tokens, 1),
        unknown=(used[unknown] if unknown is not None else 0) / max(n_tokens, 1),
        lost=lost.total() / max(n_characters, 1),
        lost_characters=dict(lost.most_common(_SHOWN)),
        whole_words=_share(whole, words),
        characters=_share([letter in own for letter in letters], letters),
        unused=len(ordinary - used.keys()) / max(len(ordinary), 1),
        longest=tuple(longest[:_SHOWN]),
    )


def misfits(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[str]:
    """What a tokenizer that was trained on another text does to this one and should not, a line each.

    Args:
        tokenizer: any fast one.
        texts: documents, of which the first 262,144 characters are looked at.
    """
    sample, n_characters = [], 0
    for text in texts:
        sample.append(text[: _SAMPLE_CHARACTERS - n_characters])
        n_characters += len(sample[-1])
        if n_characters >= _SAMPLE_CHARACTERS:
            break
    n_tokens, lost = _cost(tokenizer, sample)
    said = []
    if (share := lost.total() / max(sum(_characters(text).total() for text in sample), 1)) > _LOST:
        said.append(f"the tokenizer loses {share:.1%} of the characters of the text: {named(lost)}")
    forms: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
    for form in forms:
        n_other, lost_other = _cost(tokenizer, [unicodedata.normalize(form, text) for text in sample])
        n_lost, n_lost_other = lost.total(), lost_other.total()
        if n_lost_other < n_lost or (n_lost_other == n_lost and n_tokens > _MORE * n_other):
            said.append(
                f"the text is not in the form that the tokenizer was trained on: in Unicode's {form} it takes "
                f"{n_other:,} tokens and loses {n_lost_other:,} characters, as it is {n_tokens:,} and {n_lost:,}; "
                f"convert it to {form}, or train a tokenizer, which composes all"
            )
    return said


def named(characters: Mapping[str, int], most: int = 3) -> str:
    """Characters that are lost, those that are lost most, with their names, as often as they are."""
    shown = sorted(characters.items(), key=lambda item: -item[1])[:most]
    listed = [f"U+{ord(c):04X} {unicodedata.name(c, 'without a name')} ({n:,} times)" for c, n in shown]
    return ", ".join([*listed, *(["and others"] if len(characters) > most else [])])


def _cost(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> tuple[int, Counter[str]]:
    """How many tokens texts take, and what they lose of them."""
    encoded = _ids(tokenizer, texts)
    return sum(map(len, encoded)), _lost(tokenizer, texts, encoded)


def _characters(text: str) -> Counter[str]:
    return Counter("".join(unicodedata.normalize("NFC", text).split()))


def _lost(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> Counter[str]:
    """Characters of texts that are not in what their tokens are decoded to, and how many of each."""
    lost: Counter[str] = Counter()
    for text, of_text in zip(texts, ids, strict=True):
        decoded = tokenizer.decode(of_text, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        lost += _characters(text) - _characters(decoded)
    return lost


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False,
                        return_token_type_ids=False, verbose=False)  # fmt: skip
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _share(is_so: list[bool], counts: Counter[str]) -> float:
    """The share of what is so, as often as it occurs."""
    return sum(n for yes, n in zip(is_so, counts.values(), strict=True) if yes) / max(counts.total(), 1)
