"""Dynamic masking for masked language modelling, as a pure function of a seed and the number of the draw.

Because nothing is remembered between draws, a run that stops and resumes anywhere sees the same masks.
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
_SPAN_P, _LONGEST_SPAN = 0.2, 10


@dataclass(frozen=True)
class Masking:
    """What a model is to predict in a sequence, and what it sees there instead.

    Tokens are chosen one by one (BERT), in whole words, or in spans of words (SpanBERT; Joshi et al. 2020, section
    3.1). Of the chosen 80 % become the mask, 10 % a random token, 10 % stay as they are; a span is treated alike
    throughout.

    The number of chosen tokens is a fixed share of the sequence's length (BERT's own way), so that every batch of full
    blocks holds the same number of labels and gradient accumulation weighs its parts alike. Words and spans are taken
    as long as they fit into it.

    Attributes:
        rate: share of the tokens to predict.
        mask_id: id of the mask token.
        special_ids: ids that are never chosen and never drawn as random tokens.
        vocabulary: size of the vocabulary.
        unit: `token`, `word` or `span`.
        begins: for `word` and `span`, whether a token begins a word, by its id [V].
    """

    rate: float
    mask_id: int
    special_ids: frozenset[int]
    vocabulary: int
    unit: str = "token"
    begins: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def for_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, rate: float = 0.15, unit: str = "token") -> Masking:
        """Masking with a tokenizer's mask and special tokens.

        Raises:
            ConfigError: whole words are asked for, and the tokenizer does not tell where they begin.
        """
        begins = None if unit == "token" else word_beginnings(tokenizer)
        special, size = frozenset(tokenizer.all_special_ids), vocabulary_size(tokenizer)
        return cls(rate, tokenizer.mask_token_id, special, size, unit, begins)

    def __call__(
        self, ids_T: NDArray[np.integer], length: int, generator: np.random.Generator, rate: float | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Mask one sequence.

        Args:
            ids_T: its token ids, padding included.
            length: how many of them are not padding.
            generator: source of chance.
            rate: another share of the tokens than `rate`.

        Returns:
            What the model sees [T], and the labels [T]: the true id where something is to be predicted, else -100.
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
            together = self.unit == "span"
            fate = np.concatenate(
                [np.full(len(g), generator.random()) if together else generator.random(len(g)) for g in groups]
                or [np.empty(0)]
            )
        labels_T[chosen] = inputs_T[chosen]
        inputs_T[chosen[fate < 0.8]] = self.mask_id
        swapped = chosen[(fate >= 0.8) & (fate < 0.9)]
        inputs_T[swapped] = generator.choice(self._ordinary_ids, len(swapped))
        return inputs_T, labels_T

    def _groups(
        self, ids_T: NDArray[np.int64], candidates: NDArray[np.int64], wanted: int, generator: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        """Positions of whole words or spans, as many as are wanted or as fit."""
        assert self.begins is not None
        if not len(candidates):
            return []
        # A word ends where another begins, and at special tokens.
        breaks = self.begins[ids_T[candidates]] | (np.diff(candidates, prepend=candidates[0] - 2) > 1)
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
        if not chosen:  # every word is longer than what is wanted: a part of one is better than nothing to learn
            chosen.append(words[int(generator.integers(len(words)))][:wanted])
        return chosen

    @staticmethod
    def _run(words: list[NDArray[np.int64]], free: NDArray[np.bool_], first: int, size: int, room: int) -> list[int]:
        """Words from `first` on that stand side by side, are free and fit."""
        span: list[int] = []
        for number in range(first, min(first + size, len(words))):
            apart = bool(span) and words[number][0] != words[number - 1][-1] + 1
            if not free[number] or apart or len(words[number]) > room:
                break
            span.append(number)
            room -= len(words[number])
        return span

    @cached_property
    def _ordinary_ids(self) -> NDArray[np.int64]:
        return np.setdiff1d(np.arange(self.vocabulary), np.fromiter(self.special_ids, dtype=np.int64))


def _span_length(generator: np.random.Generator) -> int:
    """Words of a span: geometric with p = 0.2 up to 10, mean 3.8 (SpanBERT)."""
    lengths = np.arange(1, _LONGEST_SPAN + 1)
    chances = _SPAN_P * (1 - _SPAN_P) ** (lengths - 1)
    return int(generator.choice(lengths, p=chances / chances.sum()))


def word_beginnings(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.bool_]:
    """Whether a token begins a word, by its id [V]: with a space before it, or, in WordPiece, without ##.

    Raises:
        ConfigError: no token tells.
    """
    begins = np.zeros(vocabulary_size(tokenizer), bool)
    vocabulary = tokenizer.get_vocab()
    if any(token.startswith("##") for token in vocabulary):
        begins[[number for token, number in vocabulary.items() if not token.startswith("##")]] = True
        return begins
    # The space of byte-level tokens and of SentencePiece; line break and zero-width space of the former.
    known = ("\u0120", "\u010a", "\u2581", "\u00e2\u0122\u012d")
    marks = tuple(mark for mark in known if any(token.startswith(mark) for token in vocabulary))
    if not marks:
        raise ConfigError(
            "the tokenizer does not tell where words begin (no token with a space before it, none with ##); take the "
            "objective mlm, or another tokenizer"
        )
    begins[[number for token, number in vocabulary.items() if token.startswith(marks)]] = True
    return begins
