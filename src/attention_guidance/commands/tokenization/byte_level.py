"""Train a byte-level BPE tokenizer like RoBERTa's, or load any tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from attention_guidance.commands.tokenization.training import byte_level_words, normalizer, train
from attention_guidance.errors import ConfigError, reason_of

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""Special tokens of a trained tokenizer; the index is the id."""

# What transformers adds to the configuration of a tokenizer that it loads, and would save with it.
_HOW_IT_WAS_LOADED = ("is_local", "local_files_only")

MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
"""The 256 bytes and the special tokens."""

_SIZES = (
    (30_000, 512),
    (300_000, 2048),
    (2_000_000, 4096),
    (30_000_000, 8192),
    (300_000_000, 16384),
    (3_000_000_000, 32768),
)


def suggest_vocab_size(n_bytes: int) -> int:
    """Suggest a vocabulary size, from 512 to 50,048 tokens, for a corpus of `n_bytes` bytes of UTF-8."""
    return next((size for limit, size in _SIZES if n_bytes < limit), 50_048)


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    max_length: int,
    at_most: bool = False,
    say: Callable[[str], None] | None = None,
) -> PreTrainedTokenizerFast:
    """Train a lossless byte-level BPE tokenizer: decoding returns every text unchanged, in NFC.

    Training is deterministic: the same texts give the same vocabulary, in any process. The special tokens are
    `<s> <pad> </s> <unk> <mask>`, with ids 0 to 4; `<mask>` strips the spaces before it, as in RoBERTa. By default
    their names in a text are encoded as these tokens; pass `split_special_tokens=True` to encode them as text.

    Args:
        texts: The corpus, read once.
        vocab_size: Number of tokens, including special tokens and the 256 bytes.
        max_length: Maximum sequence length of the model in tokens, including special tokens.
        at_most: Accept fewer tokens if the texts do not support `vocab_size`.
        say: Called with a message if words longer than 128 characters were cut (default: log a warning).

    Returns:
        A fast tokenizer that `AutoTokenizer` can load.

    Raises:
        ConfigError: `vocab_size` is below 261, or above what the texts support (merges need pairs seen twice).
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(f"vocabulary size {vocab_size}: at least {MIN_VOCAB_SIZE} (256 bytes and 5 special tokens)")
    backend = _train_bpe(texts, vocab_size, say)
    if (found := backend.get_vocab_size()) < vocab_size and not at_most:
        raise ConfigError(
            f"vocabulary size {vocab_size}: this text supports only {found} tokens; "
            f"ask for {found} or fewer, or give more text"
        )
    start, pad, end, unknown, mask = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=start,
        eos_token=end,
        cls_token=start,
        sep_token=end,
        pad_token=pad,
        unk_token=unknown,
        # A string would lose the lstrip of the mask.
        mask_token=_special(mask),
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


# Special tokens that packing text into blocks needs.
FOR_BLOCKS = ("pad", "sep or eos", "cls or bos")


def load_tokenizer(path_or_name: str, needed: Iterable[str] = ("mask", *FOR_BLOCKS)) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder, or by name from the Hugging Face cache or hub.

    Args:
        path_or_name: The folder or the name.
        needed: The required special tokens (default: those for masked language modelling and packing).

    Raises:
        ConfigError: There is no such tokenizer, it has no vocabulary, is not fast, or lacks a required token.
    """
    from transformers import AutoTokenizer  # imports torch, which training a tokenizer does not need

    path = Path(path_or_name)
    # "runs/x" with a folder "runs" here is a mistyped path: looking it up on the hub would take a minute.
    is_local = path.exists() or path.is_absolute() or len(path.parts) > 2 or path_or_name.startswith((".", "~"))
    if not path.exists() and (is_local or (len(path.parts) == 2 and path.parent.is_dir())):
        raise ConfigError(f"tokenizer {path_or_name!r}: no such folder; give a folder written by save_pretrained")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"tokenizer {path_or_name!r}: a file; give the folder that holds it")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path_or_name, trust_remote_code=False)
    except Exception as error:  # a damaged tokenizer.json raises a bare Exception
        raise ConfigError(
            f"tokenizer {path_or_name!r}: cannot be loaded ({reason_of(error)}); give a folder with tokenizer.json and "
            "tokenizer_config.json, or a name on the Hugging Face hub"
        ) from error
    _require_usable(tokenizer, path_or_name, needed)
    for name in _HOW_IT_WAS_LOADED:
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of embeddings that a model needs: the highest id plus one, since a vocabulary may have gaps."""
    return 1 + int(max(tokenizer.get_vocab().values()))


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False, lstrip=token == "<mask>")  # noqa: S105 (a token of text)


def _train_bpe(texts: Iterable[str], vocab_size: int, say: Callable[[str], None] | None) -> Tokenizer:
    """Train byte-level BPE whose template adds RoBERTa's special tokens around a text."""
    # A word never contains both letters and brackets, so no merge can produce "</s>" or "<mask>".
    backend = Tokenizer(models.BPE())
    backend.normalizer, backend.pre_tokenizer = normalizer(), byte_level_words()
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[_special(token) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    train(backend, texts, trainer, say)
    start, end = ((token, SPECIAL_TOKENS.index(token)) for token in ("<s>", "</s>"))
    backend.post_processor = processors.RobertaProcessing(end, start, trim_offsets=True, add_prefix_space=False)
    return backend


def _require_usable(tokenizer: PreTrainedTokenizerBase, name: str, needed: Iterable[str]) -> None:
    if not tokenizer.is_fast:
        raise ConfigError(f"tokenizer {name!r}: a slow {type(tokenizer).__name__}; give one with tokenizer.json")
    # A model folder without tokenizer files loads without error, with special tokens only.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ConfigError(f"tokenizer {name!r}: it has no vocabulary; give a folder with tokenizer.json")
    available = {
        "mask": (tokenizer.mask_token,),
        "pad": (tokenizer.pad_token,),
        "sep or eos": (tokenizer.sep_token, tokenizer.eos_token),
        "cls or bos": (tokenizer.cls_token, tokenizer.bos_token),
    }
    if lacking := [kind for kind in needed if not any(available[kind])]:
        what = "a masked language model" if "mask" in lacking else "the model"
        raise ConfigError(
            f"tokenizer {name!r}: no {' and no '.join(lacking)} token; give the tokenizer of {what}, or train one"
        )
