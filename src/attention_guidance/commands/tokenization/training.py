r"""What all trained tokenizers share: the text's form, what one word is in every script, how long it may be, training.

Words follow Unicode's rules (UAX #29, WB4 to WB7c) where GPT-2's and BERT's splitting cut them:

- Marks and joiners belong to what they follow: tone marks, vowel signs, the zero-width joiner and non-joiner, variation
  selectors. Without them every vowel sign of Hindi and every joiner of Persian would end a word, and no merge could
  cross it. The zero-width space of Khmer, Lao and Burmese is none of them: it stands between words.
- An apostrophe, or what serves as one, between letters joins them: `ta'til`, `п’ять`, `צה״ל`, `col·legi`. But for
  GPT-2's endings of English, which are words of their own where they end one: `don't` is `don` and `'t`.
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
"""Characters of the longest word; what is longer (DNA, base64, a page of Thai without a space) is cut there.

Training takes a time that grows with the square of a word's length, and so does WordPiece's encoding.
"""

_THREAD = "training a tokenizer"
_LOG = logging.getLogger(__name__)
_MARKS = r"\p{M}[\p{Cf}&&[^\x{200B}]]"
# Between letters: apostrophes, Armenian's and Hebrew's, Catalan's dot, Mongolian's narrow space before endings.
_INNER = r"(?:['\u2018\u2019\uff07\u055a\u05f3\u05f4\u00b7\u2027\u202f]|(?<=\p{Hebrew})\"(?=\p{Hebrew}))"
_SPACE = r"\s\x{200B}"


def normalizer() -> normalizers.Normalizer:
    """Unicode's composed form (NFC), so that `Yorùbá` is the same however it was typed."""
    return normalizers.NFC()


def byte_level_words() -> pre_tokenizers.PreTokenizer:
    """As GPT-2 splits, but for words: a space goes with what follows; digits, letters, the rest stand apart."""
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
    """As BERT splits, but for words: without white space; Han characters, and symbols with their marks, alone.

    Args:
        alphabet: the characters that a token can begin with; others stand alone, so that a word with one of them is
            not unknown as a whole. All without.
        inner: the characters that a token can go on with; others begin a word.
    """
    endings, word = _word(r"\p{L}\p{N}&&[^\p{Han}]")
    # An extended grapheme cluster: an emoji with all that joins it.
    words = pre_tokenizers.Split(Regex(rf"{endings}|{word}|(?!\s)\X"), "removed", invert=True)
    if not (alphabet := set(alphabet)):
        return _capped(words)
    begins_only = Regex(rf"(?<=(?m:.)){_none_of(inner)}")
    return _capped(words, _split(_none_of(alphabet)), pre_tokenizers.Split(begins_only, "merged_with_next"))


def metaspace_words(special: Iterable[str]) -> pre_tokenizers.PreTokenizer:
    """As SentencePiece splits: before each space; names of special tokens behind their first character too.

    A text that holds such a name would be given that token: to Unigram it is a piece like others.
    """
    names = "|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in special)
    return _capped(pre_tokenizers.Metaspace(), _split(names))


def train(backend: Tokenizer, texts: Iterable[str], trainer: Any, say: Callable[[str], None] | None = None) -> None:
    """Train a tokenizer; Ctrl-C is answered at once, though the trainers do not listen.

    Args:
        backend: what is trained.
        texts: the corpus, gone through once, in another thread.
        trainer: of the library `tokenizers`.
        say: gets a line where words were cut; a warning is logged without.

    Raises:
        ConfigError: the library cannot, as for Unigram with fewer tokens than the text has characters.
        KeyboardInterrupt: on Ctrl-C; the library's work goes on in the background, and is thrown away.
    """
    cut = _Cut(backend)
    failed: list[BaseException] = []
    stopped = threading.Event()

    def read() -> Iterator[str]:
        for text in texts:
            if stopped.is_set():
                raise InterruptedError
            cut.count(text)
            yield text

    def work() -> None:
        try:
            backend.train_from_iterator(read(), trainer)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, name=_THREAD, daemon=True)
    thread.start()
    try:
        thread.join()
    finally:
        stopped.set()
    if failed:
        if type(failed[0]) is Exception:  # the library's own
            reason = reason_of(failed[0])
            raise ConfigError(f"no tokenizer can be trained ({reason}); ask for more tokens, or give another text")
        raise failed[0]
    if cut.words:
        (say or _LOG.warning)(cut.told())


def is_training() -> bool:
    """Whether a tokenizer is being trained, or was abandoned by Ctrl-C and still is."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


class _Cut:
    """Counts the words of a text that are longer than a word may be."""

    _long = re.compile(rf"[^ ]{{{LONGEST_WORD},}}")

    def __init__(self, backend: Tokenizer) -> None:
        self.normalizer, self.whole = backend.normalizer, backend.pre_tokenizer[0]
        self.words = self.longest = 0
        self.first = ""

    def count(self, text: str) -> None:
        for stretch in self._long.findall(text):
            for word, _ in self.whole.pre_tokenize_str(self.normalizer.normalize_str(stretch)):
                if len(word) > LONGEST_WORD and not word.strip("\u2581").isspace():
                    self.words += 1
                    self.longest = max(self.longest, len(word))
                    self.first = self.first or word[:20]

    def told(self) -> str:
        return (
            f"{self.words:,} {'words' if self.words > 1 else 'word'} of more than {LONGEST_WORD} characters (the "
            f"longest of {self.longest:,}; the first begins {self.first!r}): cut after every {LONGEST_WORD} to train "
            "the tokenizer, and to encode text"
        )


def _word(letters: str) -> tuple[str, str]:
    """Patterns of English endings and of words, of such characters and the marks on them."""
    letters = rf"[{letters}]"
    inside = rf"[{letters}{_MARKS}]"
    # Narrower than GPT-2's: not "so'm" and "o't" of Uzbek.
    endings = rf"['\u2019](?:s|d|re|ve|ll|(?<=[nN].)t|(?<=[iI].)m)(?!{inside})"
    # Not any number: the library's patterns fail after millions of tries.
    return endings, rf"{inside}+(?:(?!{endings}){_INNER}{inside}+){{0,{LONGEST_WORD}}}"


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _capped(words: pre_tokenizers.PreTokenizer, *then: pre_tokenizers.PreTokenizer) -> pre_tokenizers.PreTokenizer:
    """Words, the long ones in pieces, no letter without its marks."""
    return pre_tokenizers.Sequence([words, _split(rf"(?m:.){{{LONGEST_WORD}}}[{_MARKS}]{{0,8}}"), *then])


def _none_of(characters: Iterable[str]) -> str:
    """A pattern of any character but these, neighbours as ranges."""
    ranges: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    known = "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges)
    return f"[^{known}]" if known else "(?m:.)"
