"""Whether a tokenizer goes with a trained model: its tokens have to be the model's own, under the same ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attention_guidance.commands.tokenization.byte_level import load_tokenizer
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_vocabulary(
    init_from: str, given: str, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None]
) -> None:
    """Make sure that a tokenizer has the tokens that a model was trained with, and perhaps more.

    Args:
        init_from: the model's folder or name.
        given: that of the tokenizer.
        tokenizer: it, loaded.
        say: told where the model has no tokenizer to compare with.

    Raises:
        ConfigError: an id of the model's stands for another token; says what share of the tokens is the same.
    """
    try:
        own = load_tokenizer(init_from).get_vocab()
    except ConfigError:
        say(
            f"init_from={init_from!r} comes without a tokenizer of use: that it was trained with the vocabulary of "
            f"tokenizer={given!r} is taken on trust"
        )
        return
    vocabulary, taken = tokenizer.get_vocab(), set(own.values())
    same = sum(own.get(token) == number for token, number in vocabulary.items())
    new = sum(token not in own and number not in taken for token, number in vocabulary.items())
    if same + new < len(vocabulary):
        raise ConfigError(
            f"tokenizer={given!r} is not that of init_from={init_from!r}: {same / len(vocabulary):.1%} of its "
            f"{len(vocabulary):,} tokens are the model's under the same ids; give `tokenizer` {init_from}, or one that "
            "keeps the model's tokens and adds to them"
        )
