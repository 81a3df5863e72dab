"""Train a byte-level BPE, WordPiece (BERT) or Unigram (XLM-RoBERTa) tokenizer."""

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
    """Train a tokenizer.

    Args:
        kind: `bpe` (bytes, no unknown characters), `wordpiece` or `unigram` (characters; only those that are not in the
            text are unknown). All keep accents, case and joiners, which distinguish words in many languages, and
            normalize text to NFC.
        texts: The corpus, read once.
        vocab_size: Number of tokens, including special tokens.
        max_length: Maximum sequence length in tokens, including special tokens.
        at_most: Accept fewer tokens if the texts do not support `vocab_size`.
        say: Called with a message if words longer than 128 characters were cut (default: log a warning).

    Raises:
        ConfigError: The kind is unknown, or the texts do not support the size.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown tokenizer kind {kind!r}; expected one of {', '.join(KINDS)}")
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
    )
    train(backend, texts, trainer, say)
    tokens = backend.get_vocab().keys() - set(special)
    inner = {token.removeprefix("##") for token in tokens if len(token) == 3 and token.startswith("##")}
    backend.pre_tokenizer = bert_words(filter(lambda token: len(token) == 1, tokens), inner)
    return _wrap(backend, _BERT["cls"], _BERT["sep"], max_length, **{f"{k}_token": v for k, v in _BERT.items()})


def _unigram(
    texts: Iterable[str], vocab_size: int, max_length: int, at_most: bool, say: _Say
) -> PreTrainedTokenizerBase:
    start, pad, end, unknown, mask = SPECIAL_TOKENS
    backend = Tokenizer(models.Unigram())
    backend.normalizer, backend.pre_tokenizer = normalizer(), metaspace_words(SPECIAL_TOKENS)
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), unk_token=unknown, show_progress=False
    )
    train(backend, texts, trainer, say)
    mask_token = AddedToken(mask, special=True, normalized=False, lstrip=True)
    tokens = {"bos_token": start, "eos_token": end, "cls_token": start, "sep_token": end, "pad_token": pad}
    return _wrap(backend, start, end, max_length, **tokens, unk_token=unknown, mask_token=mask_token)


def _wrap(
    backend: Tokenizer, start: str, end: str, max_length: int, **tokens: str | AddedToken
) -> PreTrainedTokenizerBase:
    """Wrap a trained tokenizer for transformers; it adds special tokens around one text or a pair."""
    special = [(token, backend.token_to_id(token)) for token in (start, end)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", pair=f"{start} $A {end} $B:1 {end}:1", special_tokens=special
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=max_length, clean_up_tokenization_spaces=False, **tokens
    )


KINDS: dict[str, Callable[[Iterable[str], int, int, bool, _Say], PreTrainedTokenizerBase]] = {
    "bpe": _bpe,
    "wordpiece": _wordpiece,
    "unigram": _unigram,
}
