"""Pseudo-log-likelihood of sentences under a masked language model (Salazar et al. 2020, section 2).

Each token is masked in turn, and its log-probability is summed. Within a word, the tokens to its right are masked too,
so that the rest of a word does not give it away (Kauf and Ivanova 2023, PLL-word-l2r).

Shape suffixes: B rows of a batch, T positions, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from attention_guidance.commands.objectives.masked_head import MaskedHead
from attention_guidance.commands.objectives.masking import IGNORED
from attention_guidance.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Row:
    """One sentence with one token to predict."""

    sentence: int
    position: int
    ids: list[int]
    masked: list[int]


@torch.no_grad()
def pseudo_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    *,
    batch_size: int | None = None,
    batch_tokens: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """Score sentences.

    Args:
        model: a masked language model, in evaluation mode.
        tokenizer: its fast tokenizer, with a mask token.
        sentences: the sentences.
        batch_size: masked sentences in a forward pass (default: as many as have `batch_tokens`).
        batch_tokens: tokens in a forward pass, without a `batch_size`.
        progress: called with the number of masked tokens predicted.

    Returns:
        The sum of log-probabilities of each sentence's tokens without special ones, in nats; 0 for no tokens.
    """
    rows = sorted(_rows(tokenizer, sentences), key=lambda row: len(row.ids))
    found = [0.0] * len(sentences)
    head = MaskedHead(model)
    n_done = 0
    try:
        # Rows of one length need no padding, which moves positions or changes the outputs of some models.
        for length, same in itertools.groupby(rows, key=lambda row: len(row.ids)):
            n_rows = batch_size or max(1, batch_tokens // length)
            while batch := list(itertools.islice(same, n_rows)):
                for row, value in zip(batch, _log_probabilities(model, tokenizer, batch), strict=True):
                    found[row.sentence] += value
                n_done += len(batch)
                if progress is not None:
                    progress(n_done)
    finally:
        head.remove()
    return found


def check_tokens(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> None:
    """Check that every sentence has a token: the score of one without is 0, higher than any other.

    Raises:
        CorpusError: one has none.
    """
    counts = n_tokens(tokenizer, sentences, special=False)
    if without := next((text for text, count in zip(sentences, counts, strict=True) if not count), None):
        raise CorpusError(f"the tokenizer finds no token in the sentence {without!r}; correct or remove its pair")


def n_tokens(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], *, special: bool) -> list[int]:
    """The number of tokens of each sentence, with the special ones or without (those that are masked, one by one)."""
    encoded = tokenizer([*sentences], add_special_tokens=special, split_special_tokens=True, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]


def _rows(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> list[_Row]:
    encoded = tokenizer(
        [*sentences],
        return_special_tokens_mask=True,
        return_offsets_mapping=True,
        split_special_tokens=True,
        verbose=False,
    )
    rows = []
    for number, (ids, special) in enumerate(zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)):
        words = _words(sentences[number], encoded.word_ids(number), encoded["offset_mapping"][number])
        for position, word in enumerate(words):
            if special[position]:
                continue
            masked = [at for at in range(position, len(ids)) if at == position or (word and words[at] == word)]
            rows.append(_Row(number, position, ids, masked))
    return rows


def _words(
    sentence: str, ids: Sequence[int | None], offsets: Sequence[tuple[int, int]]
) -> list[tuple[int, int] | None]:
    """What tells the word of each token from the others: the tokenizer's number, and that between white space.

    A tokenizer without pre-tokenization has one number for the whole sentence. White space belongs to the word after
    it, as a token may start with a space, or be one.
    """
    begins = (c.isspace() and not before.isspace() for before, c in zip(f"x{sentence}", sentence, strict=False))
    between = [0, *itertools.accumulate(begins)]
    return [None if word is None else (word, between[end]) for word, (_, end) in zip(ids, offsets, strict=True)]


def _log_probabilities(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[_Row]) -> list[float]:
    """That of the token that each row scores; rows have one length."""
    ids_BT = torch.tensor([row.ids for row in rows])
    labels_BT = torch.full_like(ids_BT, IGNORED)
    for number, row in enumerate(rows):
        labels_BT[number, row.position] = row.ids[row.position]
        ids_BT[number, row.masked] = tokenizer.mask_token_id
    labels_BT = labels_BT.to(model.device)
    logits = model(input_ids=ids_BT.to(model.device), labels=labels_BT).logits
    # Without a head that MaskedHead knows, the model predicts at all positions.
    logits_BV = logits if logits.dim() == 2 else logits[labels_BT != IGNORED]
    targets_B = labels_BT[labels_BT != IGNORED]
    found: list[float] = logits_BV.float().log_softmax(-1).gather(1, targets_B[:, None])[:, 0].tolist()
    return found
