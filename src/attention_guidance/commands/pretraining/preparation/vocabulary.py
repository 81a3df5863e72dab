"""Check that a tokenizer fits a trained model: it must have the model's tokens, with the same ids."""

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
            "that only adds tokens to it"
        )
