"""Dynamic masking of tokens, words and spans for masked language modelling.

It keeps no state between draws, so a run that is resumed at any step sees the same masks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from attention_guidance.commands.tokenization.byte_level import vocabulary_size
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
_SPAN_PROBABILITY, _LONGEST_SPAN = 0.2, 10


@dataclass(frozen=True)
class Masking:
    """Choose the tokens of a sequence that a model predicts, and mask or replace them in its input.

    Tokens are chosen one by one (BERT), as whole words, or as spans of words (SpanBERT; Joshi et al. 2020, section
    3.1). 80 % of them are replaced by the mask, 10 % by a random token, and 10 % are unchanged; all tokens of a span
    are treated the same.

    The number of chosen tokens is a fixed share of the sequence length, as in BERT's own code, so that every batch of
    full blocks has the same number of labels, and gradient accumulation weights its parts equally. Words and spans are
    added as long as they fit.

    Attributes:
        rate: Share of the tokens to predict.
        mask_id: Id of the mask token.
        special_ids: Ids that are never chosen and never used as random tokens.
        vocabulary: Size of the vocabulary.
        unit: `token`, `word` or `span`.
        starts_word: For `word` and `span`, whether each token of the vocabulary starts a word, [V].
    """

    rate: float
    mask_id: int
    special_ids: frozenset[int]
    vocabulary: int
    unit: str = "token"
    starts_word: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def for_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, rate: float = 0.15, unit: str = "token") -> Masking:
        """Create masking for a tokenizer.

        Raises:
            ConfigError: The unit is not `token`, and the tokenizer does not mark where words start.
        """
        starts_word = None if unit == "token" else word_starts(tokenizer)
        special, size = frozenset(tokenizer.all_special_ids), vocabulary_size(tokenizer)
        return cls(rate, tokenizer.mask_token_id, special, size, unit, starts_word)

    def __call__(
        self, ids_T: NDArray[np.integer], length: int, generator: np.random.Generator, rate: float | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Mask one sequence.

        Args:
            ids_T: Token ids, including padding.
            length: Number of tokens that are not padding.
            generator: Random generator.
            rate: Share of the tokens to predict (default: `self.rate`).

        Returns:
            Input ids [T], and labels [T]: the true id at positions to predict, else -100.
        """
        inputs_T = ids_T.astype(np.int64)
        labels_T = np.full_like(inputs_T, IGNORED)
        candidates = np.flatnonzero(np.isin(inputs_T[:length], self._ordinary_ids))
        n_chosen = min(len(candidates), max(1, round((rate or self.rate) * length)))
        if self.unit == "token":
            chosen = generator.choice(candidates, n_chosen, replace=False) if n_chosen else candidates
            fate = generator.random(n_chosen)
        else:
            groups = self._groups(inputs_T, candidates, n_chosen, generator)
            chosen = np.concatenate([*groups, np.empty(0, np.int64)]).astype(np.int64)
            same_for_all = self.unit == "span"
            fate = np.concatenate(
                [np.full(len(g), generator.random()) if same_for_all else generator.random(len(g)) for g in groups]
                or [np.empty(0)]
            )
        labels_T[chosen] = inputs_T[chosen]
        inputs_T[chosen[fate < 0.8]] = self.mask_id
        randomized = chosen[(fate >= 0.8) & (fate < 0.9)]
        inputs_T[randomized] = generator.choice(self._ordinary_ids, len(randomized))
        return inputs_T, labels_T

    def _groups(
        self, ids_T: NDArray[np.int64], candidates: NDArray[np.int64], wanted: int, generator: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        """Choose positions of whole words or spans, up to the wanted number of tokens."""
        assert self.starts_word is not None
        if not len(candidates):
            return []
        # A word ends where the next one starts, and at special tokens.
        breaks = self.starts_word[ids_T[candidates]] | (np.diff(candidates, prepend=candidates[0] - 2) > 1)
        words = np.split(candidates, np.flatnonzero(breaks)[1:])
        free = np.ones(len(words), bool)
        chosen: list[NDArray[np.int64]] = []
        for first in generator.permutation(len(words)):
            if wanted <= 0:
                break
            size = 1 if self.unit == "word" else _span_length(generator)
            span = self._run(words, free, int(first), size, wanted)
            if span:
                free[span] = False
                chosen.append(np.concatenate([words[n] for n in span]))
                wanted -= len(chosen[-1])
        if not chosen:  # every word is longer than wanted: use a part of one, to have a label
            chosen.append(words[int(generator.integers(len(words)))][:wanted])
        return chosen

    @staticmethod
    def _run(words: list[NDArray[np.int64]], free: NDArray[np.bool_], first: int, size: int, n_left: int) -> list[int]:
        """Indices of consecutive words from `first` on that are free and fit."""
        span: list[int] = []
        for number in range(first, min(first + size, len(words))):
            is_gap = bool(span) and words[number][0] != words[number - 1][-1] + 1
            if not free[number] or is_gap or len(words[number]) > n_left:
                break
            span.append(number)
            n_left -= len(words[number])
        return span

    @cached_property
    def _ordinary_ids(self) -> NDArray[np.int64]:
        return np.setdiff1d(np.arange(self.vocabulary), np.fromiter(self.special_ids, dtype=np.int64))


def _span_length(generator: np.random.Generator) -> int:
    """Number of words in a span: geometric with p = 0.2, at most 10, mean 3.8 (SpanBERT)."""
    lengths = np.arange(1, _LONGEST_SPAN + 1)
    probabilities = _SPAN_PROBABILITY * (1 - _SPAN_PROBABILITY) ** (lengths - 1)
    return int(generator.choice(lengths, p=probabilities / probabilities.sum()))


def word_starts(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.bool_]:
    """Whether each token starts a word, [V]: it begins with a space, or, in WordPiece, not with ##.

    Raises:
        ConfigError: The vocabulary does not mark where words start.
    """
    starts_word = np.zeros(vocabulary_size(tokenizer), bool)
    vocabulary = tokenizer.get_vocab()
    if any(token.startswith("##") for token in vocabulary):
        starts_word[[number for token, number in vocabulary.items() if not token.startswith("##")]] = True
        return starts_word
    # Byte-level space and line break, SentencePiece space, byte-level zero-width space.
    known = ("\u0120", "\u010a", "\u2581", "\u00e2\u0122\u012d")
    marks = tuple(mark for mark in known if any(token.startswith(mark) for token in vocabulary))
    if not marks:
        raise ConfigError(
            "the tokenizer does not mark where words start (no token begins with a space or ##); use the objective "
            "mlm, or another tokenizer"
        )
    starts_word[[number for token, number in vocabulary.items() if token.startswith(marks)]] = True
    return starts_word
