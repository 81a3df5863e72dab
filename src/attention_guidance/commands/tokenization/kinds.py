"""Tokenizers of other kinds than byte-level BPE: WordPiece as BERT's, Unigram as XLM-RoBERTa's."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from attention_guidance.commands.tokenization.byte_level import SPECIAL_TOKENS, train_tokenizer
from attention_guidance.commands.tokenization.training import bert_words, metaspace_words, normalizer, train
from attention_guidance.errors import ConfigError

_Say = Callable[[str], None] | None
_BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def train_kind(
    kind: str,
    texts: Iterable[str],
    vocab_size: int,
    *,
    max_length: int,
    at_most: bool = False,
    say: Callable[[str], None] | None = None,
) -> PreTrainedTokenizerBase:
    """Train a tokenizer of a kind.

    Args:
        kind: `bpe` (bytes, no unknown character), `wordpiece` or `unigram` (characters; those that the text lacks are
            unknown, they alone). Accents, case, joiners are kept by all: they tell words apart in many languages. All
            write text in Unicode's composed form (NFC).
        texts: the corpus, gone through once.
        vocab_size: number of tokens, special ones included.
        max_length: longest sequence in tokens, special ones included.
        at_most: be content with fewer tokens where the texts do not support so many.
        say: gets a line where words are longer than 128 characters, and cut there; a warning is logged without.

    Raises:
        ConfigError: an unknown kind, a size that the texts do not support.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown kind of tokenizer {kind!r}; expected one of {', '.join(KINDS)}")
    tokenizer = KINDS[kind](texts, vocab_size, max_length, at_most, say)
    if len(tokenizer) < vocab_size and not at_most:
        raise ConfigError(
            f"vocabulary size {vocab_size}: this text supports only {len(tokenizer)} tokens; ask for {len(tokenizer)} "
            "or fewer, or give more text"
        )
    return tokenizer


def _bpe(texts: Iterable[str], vocab_size: int, max_length: int, at_most: bool, say: _Say) -> PreTrainedTokenizerBase:
    return train_tokenizer(texts, vocab_size, max_length=max_length, at_most=at_most, say=say)


def _wordpiece(
    texts: Iterable[str], vocab_size: int, max_length: int, at_most: bool, say: _Say
) -> PreTrainedTokenizerBase:
    special = list(_BERT.values())
    backend = Tokenizer(models.WordPiece(unk_token=_BERT["unk"], max_input_chars_per_word=200))
    backend.normalizer, backend.pre_tokenizer = normalizer(), bert_words()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=special, show_progress=False
    )  # fmt: skip
    train(backend, texts, trainer, say)
    tokens = backend.get_vocab().keys() - set(special)
    inner = {token.removeprefix("##") for token in tokens if len(token) == 3 and token.startswith("##")}
    backend.pre_tokenizer = bert_words(filter(lambda token: len(token) == 1, tokens), inner)
    return _finished(backend, _BERT["cls"], _BERT["sep"], max_length, **{f"{k}_token": v for k, v in _BERT.items()})


def _unigram(
    texts: Iterable[str], vocab_size: int, max_length: int, at_most: bool, say: _Say
) -> PreTrainedTokenizerBase:
    start, pad, end, unknown, mask = SPECIAL_TOKENS
    backend = Tokenizer(models.Unigram())
    backend.normalizer, backend.pre_tokenizer = normalizer(), metaspace_words(SPECIAL_TOKENS)
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), unk_token=unknown, show_progress=False
    )  # fmt: skip
    train(backend, texts, trainer, say)
    return _finished(
        backend, start, end, max_length, bos_token=start, eos_token=end, cls_token=start, sep_token=end,
        pad_token=pad, unk_token=unknown, mask_token=AddedToken(mask, special=True, normalized=False, lstrip=True),
    )  # fmt: skip


def _finished(
    backend: Tokenizer, start: str, end: str, max_length: int, **tokens: str | AddedToken
) -> PreTrainedTokenizerBase:
    """As transformers has it, with the special tokens around one text or two."""
    numbers = [(token, backend.token_to_id(token)) for token in (start, end)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", pair=f"{start} $A {end} $B:1 {end}:1", special_tokens=numbers
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=max_length, clean_up_tokenization_spaces=False, **tokens
    )


KINDS: dict[str, Callable[[Iterable[str], int, int, bool, _Say], PreTrainedTokenizerBase]] = {
    "bpe": _bpe,
    "wordpiece": _wordpiece,
    "unigram": _unigram,
}
