r"""Normalization, pre-tokenization and training that all trained tokenizers share.

Words follow Unicode's rules (UAX #29, WB4 to WB7c) where the pre-tokenizers of GPT-2 and BERT would split them:

- Marks and joiners belong to the character before them: tone marks, vowel signs, the zero-width joiner and non-joiner,
  variation selectors. Otherwise every vowel sign of Hindi and every joiner of Persian would end a word, and no merge
  could cross it. The zero-width space of Khmer, Lao and Burmese is different: it separates words.
- An apostrophe, or a character used like one, joins the letters around it: `ta'til`, `п’ять`, `צה״ל`, `col·legi`.
  GPT-2's English contractions are the exception, and are split off at the end of a word: `don't` is `don` and `'t`.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from attention_guidance.errors import ConfigError, reason_of

LONGEST_WORD = 128
"""Maximum word length in characters; longer words (DNA, base64, a page of Thai without a space) are cut.

The time of training, and of WordPiece's encoding, grows with the square of the word length.
"""

_THREAD = "training a tokenizer"
_LOG = logging.getLogger(__name__)
_MARKS = r"\p{M}[\p{Cf}&&[^\x{200B}]]"
# Between letters: apostrophes, also Armenian and Hebrew, the Catalan dot, the Mongolian narrow space before suffixes.
_JOINERS = r"(?:['\u2018\u2019\uff07\u055a\u05f3\u05f4\u00b7\u2027\u202f]|(?<=\p{Hebrew})\"(?=\p{Hebrew}))"
_SPACE = r"\s\x{200B}"


def normalizer() -> normalizers.Normalizer:
    """Normalize to NFC, so that `Yorùbá` has the same tokens in any Unicode form."""
    return normalizers.NFC()


def byte_level_words() -> pre_tokenizers.PreTokenizer:
    """Split as GPT-2 does, into whole words: a leading space is kept; letters, digits and the rest are separate."""
    endings, word = _word(r"\p{L}")
    parts = (
        endings,
        rf"[ \x{{200B}}]?{word}",
        rf" ?\p{{N}}[\p{{N}}{_MARKS}]*",
        rf" ?[^{_SPACE}\p{{L}}\p{{N}}{_MARKS}][^{_SPACE}\p{{L}}\p{{N}}]*",
        rf"[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+",
    )
    return _capped(_split("|".join(parts)), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))


def bert_words(alphabet: Iterable[str] = (), inner: Iterable[str] = ()) -> pre_tokenizers.PreTokenizer:
    """Split as BERT does, into whole words: white space is dropped; Han characters and symbols are single words.

    Args:
        alphabet: Characters that a token can start with. Others become single words, so that they do not make their
            whole word unknown (default: all characters).
        inner: Characters that can continue a token; others start a new word.
    """
    endings, word = _word(r"\p{L}\p{N}&&[^\p{Han}]")
    # An extended grapheme cluster, such as an emoji with its joiners.
    words = pre_tokenizers.Split(Regex(rf"{endings}|{word}|(?!\s)\X"), "removed", invert=True)
    if not (alphabet := set(alphabet)):
        return _capped(words)
    begins_only = Regex(rf"(?<=(?m:.)){_none_of(inner)}")
    return _capped(words, _split(_none_of(alphabet)), pre_tokenizers.Split(begins_only, "merged_with_next"))


def metaspace_words(special: Iterable[str]) -> pre_tokenizers.PreTokenizer:
    """Split as SentencePiece does, before each space, and also after the first character of special tokens' names.

    Otherwise Unigram, for which special tokens are ordinary pieces, would produce them from their names in a text.
    """
    names = "|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in special)
    return _capped(pre_tokenizers.Metaspace(), _split(names))


def train(backend: Tokenizer, texts: Iterable[str], trainer: Any, say: Callable[[str], None] | None = None) -> None:
    """Train a tokenizer on a thread, so that Ctrl-C takes effect at once: the trainers do not handle it.

    Args:
        backend: The tokenizer to train.
        texts: The corpus, read once, on the thread.
        trainer: A trainer of the `tokenizers` library.
        say: Called with a message if words were cut (default: log a warning).

    Raises:
        ConfigError: Training failed, for example Unigram with fewer tokens than the text has characters.
        KeyboardInterrupt: On Ctrl-C; the thread continues in the background and its result is discarded.
    """
    long_words = _LongWords(backend)
    errors: list[BaseException] = []
    stopped = threading.Event()

    def read() -> Iterator[str]:
        for text in texts:
            if stopped.is_set():
                raise InterruptedError
            long_words.count(text)
            yield text

    def work() -> None:
        try:
            backend.train_from_iterator(read(), trainer)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name=_THREAD, daemon=True)
    thread.start()
    try:
        thread.join()
    finally:
        stopped.set()
    if errors:
        if type(errors[0]) is Exception:  # raised by the library
            reason = reason_of(errors[0])
            raise ConfigError(f"training the tokenizer failed ({reason}); ask for more tokens, or give another text")
        raise errors[0]
    if long_words.words:
        (say or _LOG.warning)(long_words.message())


def is_training() -> bool:
    """Whether a training thread is running, also after Ctrl-C."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


class _LongWords:
    """Count the words of a text that are longer than LONGEST_WORD."""

    _long = re.compile(rf"[^ ]{{{LONGEST_WORD},}}")

    def __init__(self, backend: Tokenizer) -> None:
        self.normalizer, self.words_only = backend.normalizer, backend.pre_tokenizer[0]
        self.words = self.longest = 0
        self.first = ""

    def count(self, text: str) -> None:
        for stretch in self._long.findall(text):
            for word, _ in self.words_only.pre_tokenize_str(self.normalizer.normalize_str(stretch)):
                if len(word) > LONGEST_WORD and not word.strip("\u2581").isspace():
                    self.words += 1
                    self.longest = max(self.longest, len(word))
                    self.first = self.first or word[:20]

    def message(self) -> str:
        return (
            f"{self.words:,} {'words' if self.words > 1 else 'word'} of more than {LONGEST_WORD} characters (the "
            f"longest of {self.longest:,}; the first starts with {self.first!r}) cut after every {LONGEST_WORD}, in "
            "training the tokenizer and in encoding text"
        )


def _word(letters: str) -> tuple[str, str]:
    """Patterns of English contractions, and of words of these letters with their marks."""
    letters = rf"[{letters}]"
    inside = rf"[{letters}{_MARKS}]"
    # Narrower than GPT-2's: not "so'm" and "o't" of Uzbek.
    endings = rf"['\u2019](?:s|d|re|ve|ll|(?<=[nN].)t|(?<=[iI].)m)(?!{inside})"
    # Bounded, since the regex engine fails after millions of attempts.
    return endings, rf"{inside}+(?:(?!{endings}){_JOINERS}{inside}+){{0,{LONGEST_WORD}}}"


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _capped(words: pre_tokenizers.PreTokenizer, *then: pre_tokenizers.PreTokenizer) -> pre_tokenizers.PreTokenizer:
    """Cut long words into pieces, never between a letter and its marks."""
    return pre_tokenizers.Sequence([words, _split(rf"(?m:.){{{LONGEST_WORD}}}[{_MARKS}]{{0,8}}"), *then])


def _none_of(characters: Iterable[str]) -> str:
    """A pattern for any character except these, with ranges for neighbours."""
    ranges: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    known = "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges)
    return f"[^{known}]" if known else "(?m:.)"
