"""Pseudo-log-likelihood of sentences under a masked language model (Salazar et al. 2020, section 2).

Each token is masked in turn, and its log-probability is summed. Within a word, the tokens to its right are masked too,
so that the rest of a word does not give it away (Kauf and Ivanova 2023, PLL-word-l2r).

Shape suffixes: B rows of a batch, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from attention_guidance.commands.objectives.masked_head import MaskedHead
from attention_guidance.commands.objectives.masking import IGNORED

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
    batch_tokens: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """Score sentences.

    Args:
        model: a masked language model, in evaluation mode.
        tokenizer: its fast tokenizer, with a mask and a padding token.
        sentences: the sentences.
        batch_tokens: tokens in a forward pass, padding included.
        progress: called with the number of masked tokens predicted.

    Returns:
        The sum of log-probabilities of each sentence's tokens without special ones, in nats; 0 for no tokens.
    """
    rows = sorted(_rows(tokenizer, sentences), key=lambda row: len(row.ids))
    found = [0.0] * len(sentences)
    head = MaskedHead(model)
    device, start = model.device, 0
    try:
        while start < len(rows):
            # All rows of a batch are nearly as long as its longest.
            end = start + 1
            while end < len(rows) and len(rows[end].ids) * (end - start + 1) <= batch_tokens:
                end += 1
            batch, labels_BT = _batch(tokenizer, rows[start:end])
            labels_BT = labels_BT.to(device)
            logits = model(**{name: value.to(device) for name, value in batch.items()}, labels=labels_BT).logits
            # Without a head that MaskedHead knows, the model predicts at all positions.
            logits_BV = logits if logits.dim() == 2 else logits[labels_BT != IGNORED]
            targets_B = labels_BT[labels_BT != IGNORED]
            log_probabilities = logits_BV.float().log_softmax(-1).gather(1, targets_B[:, None])[:, 0].tolist()
            for row, value in zip(rows[start:end], log_probabilities, strict=True):
                found[row.sentence] += value
            start = end
            if progress is not None:
                progress(start)
    finally:
        head.remove()
    return found


def n_predictions(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> int:
    """How many tokens of the sentences are masked, one by one."""
    return sum(len(ids) for ids in tokenizer([*sentences], add_special_tokens=False, verbose=False)["input_ids"])


def _rows(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> list[_Row]:
    encoded = tokenizer([*sentences], return_special_tokens_mask=True, split_special_tokens=True, verbose=False)
    rows = []
    for number, (ids, special) in enumerate(zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)):
        words = encoded.word_ids(number)
        for position, word in enumerate(words):
            if special[position]:
                continue
            behind = range(position, len(ids))
            masked = [at for at in behind if at == position or (word is not None and words[at] == word)]
            rows.append(_Row(number, position, ids, masked))
    return rows


def _batch(tokenizer: PreTrainedTokenizerBase, rows: Sequence[_Row]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The model's inputs, and labels at the one position that each row scores, [B, T]."""
    items: list[dict[str, Any]] = []
    for row in rows:
        ids = list(row.ids)
        for at in row.masked:
            ids[at] = tokenizer.mask_token_id
        items.append(
            {"input_ids": ids, "labels": [n if at == row.position else IGNORED for at, n in enumerate(row.ids)]}
        )
    longest = max(len(row.ids) for row in rows)
    left = tokenizer.padding_side == "left"
    padded = [
        [IGNORED] * (longest - len(of_row)) * left + of_row + [IGNORED] * (longest - len(of_row)) * (not left)
        for of_row in (item.pop("labels") for item in items)
    ]
    inputs = tokenizer.pad(items, return_tensors="pt")
    if bool(inputs["attention_mask"].all()):
        del inputs["attention_mask"]  # attention is faster without a mask
    return dict(inputs), torch.tensor(padded)
