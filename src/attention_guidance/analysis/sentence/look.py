"""`look(model, tokenizer, ...)`: the attention of all heads on a sentence or a pair, as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from attention_guidance.adapters import checked_model
from attention_guidance.adapters.base import LOOKING
from attention_guidance.adapters.modules import has_encoder_and_decoder
from attention_guidance.analysis.given import check_unicode
from attention_guidance.analysis.maps import attention_maps
from attention_guidance.analysis.sentence.layout import page, whole_picture
from attention_guidance.analysis.sentence.picture import Picture
from attention_guidance.analysis.tokens import between_words, token_texts, words_of_text, words_of_tokens
from attention_guidance.errors import AttachError, ConfigError, GuidanceError, reason_of
from attention_guidance.files import saving, whole_file
from attention_guidance.printable import visible

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Maps = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, repr=False)
class Look:
    """The attention of all heads of a model on one sentence, or on a pair. A notebook shows it as a picture.

    Examples:
        >>> seen = look(model, tokenizer, "the king saw him")
        >>> seen.tokens
        ['[CLS]', 'the', 'king', 'saw', 'him', '[SEP]']
        >>> seen.maps_LHTT.shape
        (2, 4, 6, 6)

    Attributes:
        title: the model's class and the text.
        tokens: T tokens as the text that they stand for, or words.
        sentence_T: the sentence that each belongs to, 0 or 1; -1 for special tokens that the tokenizer has added.
        maps_LHTT: attention, [layers, heads, T, T], float32; rows attend to columns and sum to 1.
        heads: (layer, head) of the heads that are drawn large.
    """

    title: str
    tokens: list[str]
    sentence_T: npt.NDArray[np.int64]
    maps_LHTT: Maps
    heads: tuple[tuple[int, int], ...]

    def html(self) -> str:
        """A page that needs no other file and no network; a click on a thumbnail chooses a head."""
        return page(self.title, self.tokens, self._border(), self.maps_LHTT, self.heads)

    def svg(self) -> str:
        """The picture as SVG, on white."""
        return self._picture().svg(f"Attention of {self.title}", alone=True)

    def png(self) -> bytes:
        """The picture as PNG, on white.

        Raises:
            ConfigError: matplotlib, which draws it, is not installed.
        """
        try:
            return self._picture().png()
        except ImportError as error:
            raise ConfigError(f"a PNG needs matplotlib ({reason_of(error)}): pip install matplotlib") from error

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Save the picture; the file appears once it is complete.

        Args:
            path: a file that ends in .html (interactive), .svg or .png (needs matplotlib).
            overwrite: whether to replace a file that exists.

        Raises:
            ConfigError: another ending, a folder, or the file exists.
            SaveError: the file cannot be written.
        """
        path = Path(path)
        makes: dict[str, Callable[[], str | bytes]] = {".html": self.html, ".svg": self.svg, ".png": self.png}
        if path.suffix.lower() not in makes:
            raise ConfigError(f"{path} does not end in {', '.join(makes)}")
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; give a file, such as {path / 'look.html'}")
        if path.exists() and not overwrite:
            raise ConfigError(f"{path} exists already; replace it with overwrite=True")
        made = makes[path.suffix.lower()]()
        with whole_file(path) as file, saving(path):
            file.write(made if isinstance(made, bytes) else made.encode("utf-8", "backslashreplace"))

    def _repr_html_(self) -> str:
        # In a frame, the styles and scripts of the notebook and of the page do not meet.
        height = round(self._picture().height)
        return (
            f'<iframe srcdoc="{escape(self.html())}" title="{escape(visible(self.title))}" '
            f'style="width: 100%; height: {height}px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        n_layers, n_heads, n_tokens, _ = self.maps_LHTT.shape
        title = textwrap.shorten(visible(self.title), 100, placeholder=" ...")
        return f"<Look of {title}: {n_tokens} tokens, {n_layers} layers of {n_heads} heads>"

    def _picture(self) -> Picture:
        return whole_picture(self.title, self.tokens, self._border(), self.maps_LHTT, self.heads)

    def _border(self) -> int | None:
        """The first token of the second sentence."""
        return int(np.argmax(self.sentence_T == 1)) if (self.sentence_T == 1).any() else None


def look(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    pair: str | None = None,
    *,
    heads: Sequence[tuple[int, int]] | None = None,
    words: bool = False,
    hide_special: bool = False,
) -> Look:
    """The attention of all heads of a model on a sentence: what a notebook shows, and `save` writes.

    Examples:
        >>> look(model, tokenizer, "the king saw him", heads=[(0, 1), (1, 3)])
        <Look of BertForMaskedLM: the king saw him: 6 tokens, 2 layers of 4 heads>

    Args:
        model: a model of transformers that returns attention maps, also one that cannot be guided; of an
            encoder-decoder such as T5, the encoder is used. The model is left as it was.
        tokenizer: the model's tokenizer.
        text: the sentence; special tokens such as `[MASK]` may be written in it.
        pair: a second sentence.
        heads: (layer, head), from 0, of the heads to draw large; the others are thumbnails (default: layer 0, head 0).
        words: whether to show words, not tokens: attention to a word is the sum over its tokens, attention from a word
            the mean (Clark et al. 2019). Needs a fast tokenizer.
        hide_special: whether to leave out the special tokens that the tokenizer adds, and to scale rows to sum to 1.

    Raises:
        AttachError: the model returns no map of the whole sentence for each head, or cannot be run on text.
        ConfigError: an empty text, one that is longer than the model takes or has lone surrogates, or a head that does
            not exist.
    """
    model = _encoder(model)
    texts = _checked_texts(tokenizer, text, pair, words)
    encoded = tokenizer(*texts, return_offsets_mapping=tokenizer.is_fast, verbose=False)
    sentence_T = _sentences(tokenizer, encoded, texts)
    if not (sentence_T >= 0).any():
        raise ConfigError(f"text={text!r}: the tokenizer finds no token in it")
    maps_LHTT = _maps(model, tokenizer.model_input_names, encoded, texts)
    chosen = _checked_heads(heads, *maps_LHTT.shape[:2])
    tokens, place_T = token_texts(tokenizer, encoded["input_ids"]), np.arange(len(sentence_T))
    if words:
        tokens, place_T = _words(tokenizer, encoded, texts, sentence_T, tokens)
    if hide_special:
        kept = np.flatnonzero(sentence_T >= 0)
        maps_LHTT, place_T, sentence_T = maps_LHTT[:, :, kept][..., kept], place_T[kept], sentence_T[kept]
        maps_LHTT = maps_LHTT / maps_LHTT.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    names, first, unit_T = np.unique(place_T, return_index=True, return_inverse=True)
    if words:
        maps_LHTT = between_words(maps_LHTT, torch.nn.functional.one_hot(torch.from_numpy(unit_T)).float())
    title = f"{type(model).__name__}: {' / '.join(texts)}"
    return Look(title, [tokens[name] for name in names], sentence_T[first], maps_LHTT.numpy(), chosen)


def _checked_texts(tokenizer: PreTrainedTokenizerBase, text: str, pair: str | None, words: bool) -> list[str]:
    """The sentence, or both.

    Raises:
        ConfigError: see `look`.
    """
    if not callable(tokenizer):
        raise ConfigError(f"tokenizer is a {type(tokenizer).__name__}; load it: AutoTokenizer.from_pretrained(...)")
    texts = [text] if pair is None else [text, pair]
    for name, sentence in zip(("text", "pair"), texts, strict=False):
        if not isinstance(sentence, str) or not sentence.strip():
            raise ConfigError(f"{name}={sentence!r}: give a sentence, a string with at least one word")
        check_unicode(name, sentence)
    if words and not tokenizer.is_fast:
        raise ConfigError(f"words need a fast tokenizer, which returns offsets; {type(tokenizer).__name__} is slow")
    return texts


def _encoder(model: PreTrainedModel) -> PreTrainedModel:
    """The model, without the wrapper of torch.compile; of an encoder-decoder the encoder."""
    model = checked_model(model, LOOKING)  # type: ignore[assignment]
    both = hasattr(model, "set_attn_implementation") and has_encoder_and_decoder(model)
    return model.get_encoder() if both else model


def _maps(model: PreTrainedModel, names: Sequence[str], encoded: Any, texts: Sequence[str]) -> torch.Tensor:
    """The maps [L, H, T, T] for these inputs of the model.

    Raises:
        AttachError: see `look`, or the attention is not finite.
    """
    inputs = {name: torch.tensor([encoded[name]]) for name in names if name in encoded}
    try:
        maps_LHTT = attention_maps(model, inputs)
    except GuidanceError:
        raise
    except (TypeError, ValueError, IndexError, AttributeError) as error:  # of other inputs, or of a smaller vocabulary
        raise AttachError(
            f"{type(model).__name__} cannot be run on {texts[0][:40]!r} ({reason_of(error)}); give a model that reads "
            "text, and its own tokenizer"
        ) from error
    n_tokens, n_positions = len(encoded["input_ids"]), maps_LHTT.shape[-1]
    if n_positions != n_tokens:
        raise AttachError(f"{type(model).__name__} returns maps of {n_positions} positions for {n_tokens} tokens")
    if not bool(torch.isfinite(maps_LHTT).all()):
        raise AttachError("the model's attention is not finite; check its weights and its precision")
    return maps_LHTT


def _sentences(tokenizer: PreTrainedTokenizerBase, encoded: Any, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """The sentence of each token, -1 for special tokens that the tokenizer has added."""
    if tokenizer.is_fast:
        return np.array([-1 if number is None else number for number in encoded.sequence_ids(0)])
    ids, sentence_T, at = encoded["input_ids"], np.full(len(encoded["input_ids"]), -1), 0
    for number, text in enumerate(texts):
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        at = next((start for start in range(at, len(ids)) if ids[start : start + len(own)] == own), at)
        sentence_T[at : at + len(own)] = number
        at += len(own)
    return sentence_T


def _words(
    tokenizer: PreTrainedTokenizerBase,
    encoded: Any,
    texts: Sequence[str],
    sentence_T: npt.NDArray[np.int64],
    tokens: Sequence[str],
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Words in order, and the word of each token; an added special token is one. Every token is a part of a word."""
    spans = [words_of_text(text, tokenizer.all_special_tokens) for text in texts]
    word_T = np.full(len(tokens), -1)
    for number in range(len(texts)):
        at = np.flatnonzero(sentence_T == number)
        word_T[at] = words_of_tokens([encoded["offset_mapping"][t] for t in at], spans[number])
        for t in at[-2::-1]:  # a sign for a space alone (sentencepiece) belongs to what follows
            word_T[t] = word_T[t + 1] if word_T[t] < 0 else word_T[t]
    alone_T = word_T < 0
    begins_T = alone_T | (np.diff(word_T, prepend=-2) != 0) | (np.diff(sentence_T, prepend=-2) != 0)
    names = [
        tokens[t] if alone_T[t] else texts[sentence_T[t]][slice(*spans[sentence_T[t]][word_T[t]])]
        for t in np.flatnonzero(begins_T).tolist()
    ]
    return names, begins_T.cumsum() - 1


def _checked_heads(heads: Sequence[tuple[int, int]] | None, n_layers: int, n_heads: int) -> tuple[tuple[int, int], ...]:
    """The heads, without duplicates.

    Raises:
        ConfigError: not pairs, none, or one that does not exist.
    """
    try:
        chosen = [(0, 0)] if heads is None else [(index(layer), index(head)) for layer, head in heads]
    except (TypeError, ValueError):
        chosen = []
    if not chosen:
        raise ConfigError(f"heads={heads!r}: give pairs of layer and head, such as [(0, 1), (2, 3)]")
    for layer, head in chosen:
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise ConfigError(
                f"layer {layer}, head {head} does not exist: the model has layers 0 to {n_layers - 1}, each with heads "
                f"0 to {n_heads - 1}"
            )
    return tuple(dict.fromkeys(chosen))
