"""The tokenizer of a run that continues from a trained model: it must have the model's tokens, or replaces them.

A tokenizer that replaces them is compared with the model's: which of the old tokens does each new one begin as?
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from attention_guidance.commands.pretraining.preparation.spelling import spelling_of
from attention_guidance.commands.tokenization.byte_level import FOR_BLOCKS, load_tokenizer, vocabulary_size
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from attention_guidance.commands.pretraining.settings.run_config import RunConfig


def given_tokenizer(
    config: RunConfig, folder: Path | None, say: Callable[[str], None]
) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a run; None if one is to be trained.

    Args:
        config: Settings of the run.
        folder: Folder of the run's tokenizer, which is loaded if it exists.
        say: Called with messages.

    Raises:
        ConfigError: It cannot be used.
    """
    if folder is not None and folder.is_dir():
        return load_tokenizer(str(folder))
    if source_of_tokenizer(config) is None:
        return None
    if config.tokenizer is None:
        return trained_tokenizer(str(config.init_from), ("mask", *FOR_BLOCKS))
    tokenizer = load_tokenizer(config.tokenizer)
    if config.init_from is not None and not config.new_tokenizer:
        check_vocabulary(config.init_from, config.tokenizer, tokenizer, say)
    return tokenizer


def source_of_tokenizer(config: RunConfig) -> str | None:
    """What has the tokenizer of a run; None if one is to be trained."""
    return config.tokenizer or (None if config.new_tokenizer else config.init_from)


def check_vocabulary(
    init_from: str, given: str, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None]
) -> None:
    """Check that a tokenizer has the tokens that a model was trained with; it may have additional ones.

    Args:
        init_from: Folder or name of the model.
        given: Folder or name of the tokenizer.
        tokenizer: The loaded tokenizer.
        say: Called with a message if the model has no tokenizer to compare with.

    Raises:
        ConfigError: An id of the model stands for another token; the message gives the share of equal tokens.
    """
    try:
        own = load_tokenizer(init_from).get_vocab()
    except ConfigError:
        say(
            f"init_from={init_from!r} has no usable tokenizer, so there is no check that it was trained with the "
            f"vocabulary of tokenizer={given!r}"
        )
        return
    vocabulary, taken = tokenizer.get_vocab(), set(own.values())
    same = sum(own.get(token) == number for token, number in vocabulary.items())
    new = sum(token not in own and number not in taken for token, number in vocabulary.items())
    if same + new < len(vocabulary):
        raise ConfigError(
            f"tokenizer={given!r} does not fit init_from={init_from!r}: {same / len(vocabulary):.1%} of its "
            f"{len(vocabulary):,} tokens have the same ids as in the model's; give `tokenizer` {init_from}, or one "
            "that only adds tokens to it, or replace the model's vocabulary with `new_tokenizer`"
        )


def trained_tokenizer(init_from: str, needed: tuple[str, ...] = ()) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a trained model.

    Args:
        init_from: Folder or name of the model.
        needed: The required special tokens, as for `load_tokenizer`.

    Raises:
        ConfigError: The model has none that can be used.
    """
    try:
        return load_tokenizer(init_from, needed)
    except ConfigError as error:
        reason = str(error).partition(": ")[2]
        raise ConfigError(f"init_from={init_from!r}: the model's tokenizer cannot be used: {reason}") from error


def check_start(config: RunConfig) -> None:
    """Check that the tokenizer of the model that a run starts from can be read, if it is used.

    Raises:
        ConfigError: It cannot.
    """
    if config.init_from is not None and config.new_tokenizer:
        trained_tokenizer(config.init_from)
    elif config.init_from is not None and config.tokenizer is None:
        trained_tokenizer(config.init_from, ("mask", *FOR_BLOCKS))


@dataclass(frozen=True)
class Inheritance:
    """What each token of a new vocabulary begins as, in the weights of a model that was trained with another.

    A token that both vocabularies have keeps its weights. Another begins as the mean of the old tokens that the old
    tokenizer splits its text into (Gee et al. 2022, "Fast Vocabulary Transfer for Language Model Compression"). One
    that the old tokenizer does not know is drawn from a normal distribution with the mean and the standard deviation
    of the old tokens' weights (Hewitt 2021, "Initializing new word embeddings").

    Attributes:
        sources: For each new id, the old ids whose mean it is; empty for one that is drawn.
        ordinary: Old ids of tokens that are not special.
        shared, composed, drawn: The number of tokens of each kind, without special tokens.
    """

    sources: tuple[tuple[int, ...], ...]
    ordinary: tuple[int, ...]
    shared: int
    composed: int
    drawn: int

    @property
    def tokens(self) -> int:
        """The number of tokens that are not special."""
        return self.shared + self.composed + self.drawn

    @property
    def facts(self) -> dict[str, Any]:
        """The number of tokens and the shares of each kind, for results."""
        shares = {name: getattr(self, name) / self.tokens for name in ("shared", "composed", "drawn")}
        return {"tokens": self.tokens, **shares}

    def __str__(self) -> str:
        """The shares, for the user."""
        facts = self.facts
        return (
            f"of {facts['tokens']:,} new tokens, {facts['shared']:.1%} are also in the vocabulary of `init_from`, "
            f"{facts['composed']:.1%} begin as the mean of its tokens, and {facts['drawn']:.1%} are drawn at random"
        )

    def rows(self, weights: Tensor, dim: int, seed: int) -> Tensor:
        """The weights of the new vocabulary.

        Args:
            weights: Those of the old one: embeddings, output weights or biases.
            dim: The dimension of the vocabulary.
            seed: Seed of what is drawn.

        Returns:
            The same but for the size of that dimension. Equal weights give equal results, so tied weights stay tied.

        Raises:
            ConfigError: The model has fewer tokens than its tokenizer.
        """
        old_VE = weights.movedim(dim, 0).flatten(1) if weights.dim() > 1 else weights[:, None]
        flat = torch.tensor([number for of_one in self.sources for number in of_one])
        if max(*self.ordinary, int(flat.max())) >= len(old_VE):
            raise ConfigError(f"the trained model has {len(old_VE):,} tokens, but its tokenizer has more; give another")
        known = old_VE[list(self.ordinary)]
        counts = torch.tensor([len(of_one) for of_one in self.sources])
        new_VE = functional.embedding_bag(flat, old_VE, counts.cumsum(0) - counts, mode="mean")
        drawn = counts == 0
        noise = torch.randn(new_VE.shape, generator=torch.Generator().manual_seed(seed), dtype=new_VE.dtype)
        # A bias has no direction to differ in: all begin as likely as an average token.
        spread = known.std(0, correction=0) if weights.dim() > 1 else known.new_zeros(1)
        new_VE[drawn] = (known.mean(0) + spread * noise)[drawn]
        return new_VE.view(-1, *weights.movedim(dim, 0).shape[1:]).movedim(0, dim).contiguous()


def replaced_tokenizer(config: RunConfig) -> PreTrainedTokenizerBase | None:
    """The tokenizer of the trained model that a run gives another one; None if it keeps it, or has no such model.

    Raises:
        ConfigError: The model has none that can be used.
    """
    return trained_tokenizer(config.init_from) if config.init_from is not None and config.new_tokenizer else None


def inheritance(init_from: str, before: PreTrainedTokenizerBase, now: PreTrainedTokenizerBase) -> Inheritance:
    """Compare a new tokenizer with that of a trained model, by the text that their tokens stand for.

    Special tokens begin as those with the same role: mask as mask, start as start.

    Args:
        init_from: Folder or name of the model, for errors.
        before: The model's tokenizer.
        now: The new tokenizer.

    Raises:
        ConfigError: They have no token in common, or one of them is of a kind that cannot be compared.
    """
    old = spelling_of(before, f"the tokenizer of init_from={init_from!r}")
    new = spelling_of(now, "the new tokenizer")
    sources: list[tuple[int, ...]] = [()] * vocabulary_size(now)
    for role in ("unk", "pad", "mask", "cls", "sep", "bos", "eos"):
        there = [_special(tokenizer, role) for tokenizer in (before, now)]
        if None not in there:
            sources[there[1]] = (there[0],)
    counts = {"shared": 0, "composed": 0, "drawn": 0}
    for token, number in new.ids.items():
        text, starts = new.text(token)
        same = old.same(text, starts)
        sources[number] = old.pieces(text, starts[0]) if same is None else (same,)
        counts["shared" if same is not None else "composed" if sources[number] else "drawn"] += 1
    if not counts["shared"]:
        raise ConfigError(
            f"init_from={init_from!r}: its vocabulary has none (0.0%) of the {len(new.ids):,} tokens of the new "
            "tokenizer, so its embeddings would be lost; start from a model that knows this script, or leave out "
            "`init_from`"
        )
    return Inheritance(tuple(sources), tuple(sorted(old.ids.values())), **counts)


# BERT's tokenizers define cls and sep, others bos and eos, in the same places.
_INSTEAD = {"cls": "bos", "sep": "eos", "bos": "cls", "eos": "sep"}


def _special(tokenizer: PreTrainedTokenizerBase, role: str) -> Any:
    """The id of a special token, None without it."""
    own = getattr(tokenizer, f"{role}_token_id")
    return getattr(tokenizer, f"{_INSTEAD[role]}_token_id") if own is None and role in _INSTEAD else own
