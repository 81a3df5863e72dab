"""What heads are judged on: the loss at masked tokens of a text, or the minimal pairs that a model gets wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from attention_guidance.analysis.ablation import Measure, label_losses
from attention_guidance.analysis.intervals import FEWEST
from attention_guidance.commands.annotations.minimal_pairs import MinimalPair, read_minimal_pairs
from attention_guidance.commands.objectives.masked_head import MaskedHead
from attention_guidance.commands.objectives.masking import Masking
from attention_guidance.commands.probes.pseudo_likelihood import check_tokens, n_tokens, pseudo_log_likelihoods
from attention_guidance.commands.studies.census import checked_block_size
from attention_guidance.commands.studies.models import longest_sequence
from attention_guidance.commands.studies.sample import Text, batches, sampled_blocks
from attention_guidance.commands.text.blocks import Blocks, one_per_line
from attention_guidance.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sample:
    """A sample of a text or of pairs.

    Attributes:
        corpus: name of the text or data.
        facts: the sizes of the sample, for the results.
        blocks: token ids to take the census of.
        given: the batches to measure on.
        measure: measures the losses of a batch.
    """

    corpus: str
    facts: dict[str, int]
    blocks: Blocks
    given: Sequence[Mapping[str, Any]]
    measure: Measure


def text_sample(
    text: Text,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    tokens: int,
    block_size: int | None,
    batch_size: int,
    seed: int,
) -> Sample:
    """Blocks of a text with 15 % of their tokens masked, drawn once from the seed; measured in nats.

    Raises:
        ConfigError: too few tokens are asked for.
        CorpusError: the text has too few.
    """
    size = checked_block_size(block_size, model, tokenizer)
    needs = f"intervals need {FEWEST} blocks of {size}, {FEWEST * size:,} tokens"
    if tokens // size < FEWEST:
        raise ConfigError(f"tokens={tokens}: {needs}; give more, or a smaller block_size")
    blocks = sampled_blocks(text, tokenizer, n_blocks=tokens // size, block_size=size, seed=seed)
    if len(blocks) < FEWEST:
        raise CorpusError(
            f"{text.name}: {blocks.n_tokens:,} tokens are too few: {needs}; give more text, or a smaller block_size"
        )
    given = list(_masked(blocks, tokenizer, batch_size, seed))
    predicted = sum(int((batch["labels"] >= 0).sum()) for batch in given)
    facts = {"sequences": len(blocks), "tokens": blocks.n_tokens, "predicted": predicted, "block_size": size}
    return Sample(text.name, facts | {"seed": seed}, blocks, given, masked_losses)


def masked_losses(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """`label_losses` of a model that predicts at the labelled positions alone."""
    head = MaskedHead(model)  # type: ignore[arg-type]
    try:
        return label_losses(model, batch)
    finally:
        head.remove()


def _masked(
    blocks: Blocks, tokenizer: PreTrainedTokenizerBase, batch_size: int, seed: int
) -> Iterator[dict[str, Tensor]]:
    masking, rng = Masking.for_tokenizer(tokenizer), np.random.default_rng(seed)
    drawn = [masking(ids_T, int(length), rng) for ids_T, length in zip(blocks.ids, blocks.lengths, strict=True)]
    inputs_NT, labels_NT = (np.stack([pair[n] for pair in drawn]) for n in range(2))
    n_done = 0
    for batch in batches(replace(blocks, ids=inputs_NT), batch_size):
        n_batch = len(batch["input_ids"])
        yield batch | {"labels": torch.from_numpy(labels_NT[n_done : n_done + n_batch])}
        n_done += n_batch


def pair_sample(
    data: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n_pairs: int,
    batch_size: int,
    seed: int,
) -> Sample:
    """Minimal pairs, drawn from the seed; measured by whether the model gets them wrong, see `wrong_pairs`.

    Raises:
        CorpusError: the data cannot be read, or the model can read too few of the pairs.
    """
    pairs = read_minimal_pairs(data)
    longest = longest_sequence(model, tokenizer)
    sentences = [sentence for pair in pairs for sentence in (pair.good, pair.bad)]
    check_tokens(tokenizer, sentences)
    lengths = n_tokens(tokenizer, sentences, special=True)
    longer = [max(lengths[2 * n : 2 * n + 2]) for n in range(len(pairs))]
    fit = [n for n, length in enumerate(longer) if length <= longest]
    numbers = random.Random(seed).sample(fit, min(n_pairs, len(fit)))
    if len(numbers) < FEWEST:
        raise CorpusError(
            f"{data}: {len(numbers)} pairs that the model can read are too few: intervals need {FEWEST}; give more"
        )
    drawn = [pairs[n] for n in numbers]
    size = max(3, *(longer[n] for n in numbers))
    blocks = one_per_line((sentence for pair in drawn for sentence in (pair.good, pair.bad)), tokenizer, size)
    given = [{"pairs": drawn[start : start + batch_size]} for start in range(0, len(drawn), batch_size)]
    name = "/".join(data.absolute().parts[-2:])
    return Sample(name, {"pairs": len(drawn), "seed": seed}, blocks, given, wrong_pairs(tokenizer))


def wrong_pairs(tokenizer: PreTrainedTokenizerBase) -> Measure:
    """1 for each pair whose unacceptable sentence has the higher pseudo-log-likelihood; 0.5 for ties."""

    def measure(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        pairs: Sequence[MinimalPair] = batch["pairs"]
        sentences = [sentence for pair in pairs for sentence in (pair.good, pair.bad)]
        found = pseudo_log_likelihoods(model, tokenizer, sentences)  # type: ignore[arg-type]
        scores_B2 = torch.tensor(found, dtype=torch.float64).reshape(-1, 2)
        # NaN if a score is, so that a diverged model is no good model.
        return (torch.sign(scores_B2[:, 1] - scores_B2[:, 0]) + 1) / 2, torch.ones(len(pairs))

    return measure
