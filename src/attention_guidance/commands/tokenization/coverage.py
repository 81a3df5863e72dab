"""Measure how well a tokenizer fits a text: fertility, coverage, lost characters."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN = 10
_BATCH, _BATCH_CHARACTERS = 256, 1 << 19
# Warn above this share of lost characters, and this ratio of tokens.
_MAX_LOST, _MAX_RATIO = 0.001, 1.02
_SAMPLE_CHARACTERS = 1 << 18


@dataclass(frozen=True)
class TokenizerFacts:
    """Statistics of a tokenizer on a text; special tokens around texts are not counted.

    Attributes:
        vocabulary: Number of tokens in the vocabulary.
        tokens, words, bytes: Size of the text; words are separated by white space.
        fertility: Tokens per word; 1 is best, and the lower it is, the more text fits into a sequence.
        bytes_per_token: Bytes of the text per token.
        unknown: Share of the tokens that are unk.
        lost: Share of the characters, except white space, that decoding does not return: unknown, dropped (zero-width
            joiners by BERT's tokenizer) or changed (case). Canonically equivalent Unicode forms count as equal.
        lost_characters: The characters lost most often, with their counts.
        whole_words: Share of the words (weighted by frequency) that are one token.
        characters: Share of the letters (weighted by frequency) that are in the vocabulary as single tokens: coverage
            of the script. Byte-level tokenizers encode the others as bytes.
        unused: Share of the vocabulary that does not occur in the text.
        longest: The longest tokens that occur in the text.
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
    """Measure a tokenizer on a text.

    Args:
        tokenizer: Any fast tokenizer.
        texts: Documents, read once.

    Raises:
        ValueError: The text has no words.
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
        if len(batch) == _BATCH or sum(map(len, batch)) >= _BATCH_CHARACTERS:
            count()
    count()
    if not words:
        raise ValueError("the text has no words")
    n_tokens, unknown = used.total(), tokenizer.unk_token_id
    # Words as they occur in a text, after a space.
    is_whole = [len(ids) == 1 and ids[0] != unknown for ids in _ids(tokenizer, [f" {word}" for word in words])]
    ordinary = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    texts_by_id = {number: tokenizer.decode([number]).strip().removeprefix("##") for number in ordinary}
    single_tokens = set(texts_by_id.values())
    longest = sorted({texts_by_id[number] for number in used.keys() & ordinary}, key=lambda token: (-len(token), token))
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
        whole_words=_share(is_whole, words),
        characters=_share([letter in single_tokens for letter in letters], letters),
        unused=len(ordinary - used.keys()) / max(len(ordinary), 1),
        longest=tuple(longest[:_SHOWN]),
    )


def misfits(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[str]:
    """Warnings about a tokenizer that was trained on a different kind of text, one line each.

    Args:
        tokenizer: Any fast tokenizer.
        texts: Documents, of which the first 262,144 characters are checked.
    """
    sample, n_characters = [], 0
    for text in texts:
        sample.append(text[: _SAMPLE_CHARACTERS - n_characters])
        n_characters += len(sample[-1])
        if n_characters >= _SAMPLE_CHARACTERS:
            break
    n_tokens, lost = _cost(tokenizer, sample)
    warnings = []
    if (share := lost.total() / max(sum(_characters(text).total() for text in sample), 1)) > _MAX_LOST:
        warnings.append(f"the tokenizer loses {share:.1%} of the characters of the text: {describe_characters(lost)}")
    forms: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
    for form in forms:
        n_other, lost_other = _cost(tokenizer, [unicodedata.normalize(form, text) for text in sample])
        n_lost, n_lost_other = lost.total(), lost_other.total()
        if n_lost_other < n_lost or (n_lost_other == n_lost and n_tokens > _MAX_RATIO * n_other):
            warnings.append(
                f"the text is not in the Unicode form that the tokenizer was trained on: in {form} it has {n_other:,} "
                f"tokens and loses {n_lost_other:,} characters, unchanged {n_tokens:,} and {n_lost:,}; convert it to "
                f"{form}, or train a tokenizer, which normalizes to NFC"
            )
    return warnings


def describe_characters(characters: Mapping[str, int], most: int = 3) -> str:
    """List the most frequent characters with their Unicode names and counts."""
    shown = sorted(characters.items(), key=lambda item: -item[1])[:most]
    listed = [f"U+{ord(c):04X} {unicodedata.name(c, 'without a name')} ({n:,} times)" for c, n in shown]
    return ", ".join([*listed, *(["and others"] if len(characters) > most else [])])


def _cost(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> tuple[int, Counter[str]]:
    """The number of tokens of texts, and the characters that are lost."""
    encoded = _ids(tokenizer, texts)
    return sum(map(len, encoded)), _lost(tokenizer, texts, encoded)


def _characters(text: str) -> Counter[str]:
    return Counter("".join(unicodedata.normalize("NFC", text).split()))


def _lost(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> Counter[str]:
    """Count the characters of texts that are missing after decoding their tokens."""
    lost: Counter[str] = Counter()
    for text, text_ids in zip(texts, ids, strict=True):
        decoded = tokenizer.decode(text_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        lost += _characters(text) - _characters(decoded)
    return lost


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    ids_only = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, **ids_only)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _share(mask: list[bool], counts: Counter[str]) -> float:
    """Share of the counts for which the mask is true."""
    return sum(n for selected, n in zip(mask, counts.values(), strict=True) if selected) / max(counts.total(), 1)
