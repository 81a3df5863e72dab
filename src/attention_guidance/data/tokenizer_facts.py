"""How well a tokenizer fits a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN = 10
_BATCH = 256


@dataclass(frozen=True)
class TokenizerFacts:
    """How well a tokenizer fits a text; special tokens around texts are not counted.

    Attributes:
        vocabulary: its tokens.
        tokens, words, bytes: of the text; words stand between white space.
        fertility: tokens a word; 1 is best, and a model sees the farther the less it is.
        bytes_per_token: of the text.
        unknown: share of the tokens that stand for something unknown.
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
    n_bytes = 0
    batch: list[str] = []

    def count() -> None:
        for ids in _ids(tokenizer, batch):
            used.update(ids)
        batch.clear()

    for text in texts:
        n_bytes += len(text.encode())
        words.update(text.split())
        letters.update(letter for letter in text if letter.isalpha())
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
        whole_words=_share(whole, words),
        characters=_share([letter in own for letter in letters], letters),
        unused=len(ordinary - used.keys()) / max(len(ordinary), 1),
        longest=tuple(longest[:_SHOWN]),
    )


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
