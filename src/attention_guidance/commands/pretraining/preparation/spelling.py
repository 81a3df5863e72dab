"""How a vocabulary writes text: what each token stands for, and the tokens that a text is split into.

Byte-level BPE writes a space as `Ġ` and each byte as a letter, SentencePiece writes a space as `▁`, and WordPiece marks
what continues a word with `##`. To compare them, a token is its text, without a space before it, and whether it starts
a word.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models
from transformers.convert_slow_tokenizer import bytes_to_unicode

from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPACE = "\u2581"


def spelling_of(tokenizer: PreTrainedTokenizerBase, called: str) -> Spelling:
    """How the vocabulary of a fast tokenizer writes text.

    Args:
        tokenizer: The tokenizer.
        called: What names it in the error.

    Raises:
        ConfigError: It marks words in another way, such as `</w>` after each.
    """
    model, decoder = tokenizer.backend_tokenizer.model, _decoder(tokenizer)
    if isinstance(model, models.WordPiece | models.WordLevel):
        if tokenizer.backend_tokenizer.token_to_id(model.unk_token) is not None:
            return _WordPiece(tokenizer)
    elif not any(getattr(model, name, None) for name in ("continuing_subword_prefix", "end_of_word_suffix")):
        if '"ByteLevel"' in decoder:
            return _ByteLevel(tokenizer)
        if _SPACE in decoder:
            return _SentencePiece(tokenizer)
    raise ConfigError(
        f"{called} is neither byte-level BPE nor SentencePiece nor WordPiece, so its tokens cannot be compared with "
        "those of another; give a tokenizer of these kinds"
    )


def _decoder(tokenizer: PreTrainedTokenizerBase) -> str:
    decoder = tokenizer.backend_tokenizer.decoder
    return "" if decoder is None else str(decoder.__getstate__().decode())


class Spelling(ABC):
    """How a vocabulary writes text.

    Args:
        tokenizer: A fast tokenizer.

    Attributes:
        ids: The id of each token that is not special.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        unknown = getattr(self._backend.model, "unk_token", None)
        special = {*tokenizer.all_special_ids, self._backend.token_to_id(unknown or "")}
        self.ids = {token: number for token, number in tokenizer.get_vocab().items() if number not in special}
        self._added = {token.content for token in tokenizer.added_tokens_decoder.values()}

    def text(self, token: str) -> tuple[bytes, tuple[bool, ...]]:
        """The text of a token, and whether it starts a word; if it may do either, what is likelier comes first."""
        # Added tokens are plain text in every vocabulary.
        return (token.encode(), (True, False)) if token in self._added else self._text(token)

    def same(self, text: bytes, starts: Iterable[bool]) -> int | None:
        """The id of the token that stands for this text, case and accents as they are; None if there is none."""
        written = (self._written(text, starts_one) for starts_one in starts)
        return next((self.ids[token] for token in written if token in self.ids), None)

    def pieces(self, text: bytes, starts: bool) -> tuple[int, ...]:
        """The ids of the tokens that this tokenizer splits a text into, without spaces and what is unknown to it."""
        try:
            plain = text.decode()
        except UnicodeDecodeError:
            # Parts of characters, which only vocabularies of bytes have.
            alone = (self.same(text[n : n + 1], [False]) for n in range(len(text)))
            return tuple(number for number in alone if number is not None)
        if (normalizer := self._backend.normalizer) is not None:
            # Some put a space before every text.
            plain = normalizer.normalize_str(plain).removeprefix(_SPACE)
        return tuple(number for number in self._split(plain, starts) if number in self._with_text)

    @cached_property
    def _with_text(self) -> set[int]:
        return {number for token, number in self.ids.items() if self.text(token)[0].strip()}

    @abstractmethod
    def _text(self, token: str) -> tuple[bytes, tuple[bool, ...]]:
        """See `text`, of a token that was not added."""

    @abstractmethod
    def _written(self, text: bytes, starts: bool) -> str | None:
        """The token that would stand for a text; None if none could."""

    def _split(self, text: str, starts: bool) -> Iterator[int]:
        """See `pieces`, of a text that is normalized."""
        written = self._written(text.encode(), starts)
        return (token.id for token in self._backend.model.tokenize(written)) if written else iter(())


_LETTERS = bytes_to_unicode()
_BYTES = {letter: byte for byte, letter in _LETTERS.items()}


class _ByteLevel(Spelling):
    def _text(self, token: str) -> tuple[bytes, tuple[bool, ...]]:
        if not _BYTES.keys() >= {*token}:  # no bytes, so no text is ever split into it
            return token.encode(), (True, False)
        written = bytes(_BYTES[letter] for letter in token)
        # Without a space, it is the rest of a word, or the first word of a text.
        return (written[1:], (True,)) if written[:1] == b" " else (written, (False, True))

    def _written(self, text: bytes, starts: bool) -> str:
        return "".join(_LETTERS[byte] for byte in b" " * starts + text)


class _SentencePiece(Spelling):
    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)
        # Whether unknown characters are written as bytes.
        self._fallback = '"ByteFallback"' in _decoder(tokenizer)

    def _text(self, token: str) -> tuple[bytes, tuple[bool, ...]]:
        if self._fallback and len(token) == len("<0x00>") and token.startswith("<0x"):
            return bytes.fromhex(token[3:5]), (False,)
        return token.removeprefix(_SPACE).replace(_SPACE, " ").encode(), (token.startswith(_SPACE),)

    def _written(self, text: bytes, starts: bool) -> str | None:
        try:
            return _SPACE * starts + text.decode().replace(" ", _SPACE)
        except UnicodeDecodeError:
            return f"<0x{text[0]:02X}>" if self._fallback and len(text) == 1 else None


class _WordPiece(Spelling):
    """Also a vocabulary of whole words, which has no prefix for what continues one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)
        model = self._backend.model
        self._prefix: str = getattr(model, "continuing_subword_prefix", "")
        inner = {token.removeprefix(self._prefix): n for token, n in self.ids.items() if self._continues(token)}
        # The same search within a word, where all tokens have the prefix.
        self._inner = models.WordPiece(
            inner | {model.unk_token: self._backend.token_to_id(model.unk_token)},
            unk_token=model.unk_token,
            max_input_chars_per_word=getattr(model, "max_input_chars_per_word", 100),
            continuing_subword_prefix="",
        )
        self._letter = next((t for t in sorted(self.ids) if len(t) == 1 and t.isalpha() and self._joins(t)), None)

    def _continues(self, token: str) -> bool:
        return bool(self._prefix) and token.startswith(self._prefix) and token != self._prefix

    def _text(self, token: str) -> tuple[bytes, tuple[bool, ...]]:
        if self._continues(token):
            return token.removeprefix(self._prefix).encode(), (False,)
        # Punctuation is a word of its own, and mostly has no space before it in a text.
        return token.encode(), (True,) if _has_letter(token) else (False, True)

    def _written(self, text: bytes, starts: bool) -> str | None:
        try:
            plain = text.decode()
        except UnicodeDecodeError:
            return None
        if starts or not _has_letter(plain):
            return plain
        return self._prefix + plain if self._prefix else None

    def _split(self, text: str, starts: bool) -> Iterator[int]:
        for word, starts_one in self._words(text, starts):
            model = self._backend.model if starts_one else self._inner
            yield from (token.id for token in model.tokenize(word))

    def _words(self, text: str, starts: bool) -> Iterator[tuple[str, bool]]:
        """The words of a text, which may be the rest of a word at first."""
        before = "" if starts or self._letter is None else self._letter
        words = self._cut(before + text)
        if before and (rest := words.pop(0).removeprefix(before)):
            yield rest, False
        yield from ((word, True) for word in words)

    def _cut(self, text: str) -> list[str]:
        if self._backend.pre_tokenizer is None:
            return [text]
        return [word for word, _ in self._backend.pre_tokenizer.pre_tokenize_str(text)]

    def _joins(self, letter: str) -> bool:
        """Whether a letter makes one word with a letter before it, which those of Chinese do not."""
        return self._cut(letter + letter) == [letter + letter]


def _has_letter(text: str) -> bool:
    return any(character.isalnum() for character in text)
