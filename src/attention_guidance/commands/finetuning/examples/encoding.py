"""Tokenize examples. Sentences with labelled words are never truncated: long ones become overlapping windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_guidance.analysis.tokens import words_of_tokens
from attention_guidance.commands.annotations.words import join_words
from attention_guidance.commands.finetuning.examples.data import Data, Example
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
# The label of words outside entities comes first.
_OUTSIDE = 0


@dataclass(frozen=True)
class Place:
    """Where in a window a word is predicted.

    Attributes:
        token: the position of its first token in the window.
        word: its index in the sentence.
        margin: tokens to the nearest end of the window that cuts the sentence.
    """

    token: int
    word: int
    margin: int


@dataclass(frozen=True)
class Encoded:
    """The input of a model: one item per example, or per window of an example.

    Attributes:
        inputs: `input_ids`, `labels` and other outputs of the tokenizer, as lists.
        example: the index of each item's example.
        places: the words of each item (`tokens`), else empty.
        n_cut: number of truncated texts (never for `tokens`).
        n_windowed: number of sentences split into several windows.
        n_lost: number of words without a token, for which every label scores 0.
    """

    inputs: list[dict[str, Any]]
    example: list[int]
    places: list[list[Place]]
    n_cut: int = 0
    n_windowed: int = 0
    n_lost: int = 0


def encode(
    data: Data, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, longest: int, *, overlap: bool = True
) -> Encoded:
    """Tokenize examples.

    Args:
        data: the task.
        examples: the examples to encode.
        tokenizer: a fast tokenizer.
        longest: maximum tokens of an item, including special tokens.
        overlap: whether windows of a long sentence overlap by half, which helps prediction; training needs each word
            only once, at half the cost.

    Raises:
        ConfigError: `longest` leaves no room for a word between the special tokens, or no word has a token.
    """
    if data.task.kind == "tokens":
        return _encode_words(examples, tokenizer, longest, overlap, _continued(data))
    return _encode_texts(examples, tokenizer, longest)


def _encode_texts(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, longest: int) -> Encoded:
    inputs, n_cut = [], 0
    if examples:
        n_texts = len(examples[0].texts)
        n_special = tokenizer.num_special_tokens_to_add(pair=n_texts == 2)
        if longest < n_special + n_texts:
            raise ConfigError(
                f"`max_length`: {longest} tokens leave no room for text between the {n_special} special tokens"
            )
    for example in examples:
        settings = {"split_special_tokens": True, "return_attention_mask": False, "verbose": False}
        encoded = tokenizer(*example.texts, truncation=True, max_length=longest, **settings)
        whole = len(tokenizer(*example.texts, **settings)["input_ids"])
        n_cut += whole > len(encoded["input_ids"])
        label = list(example.label) if isinstance(example.label, tuple) else example.label
        inputs.append({**encoded, "labels": label})
    return Encoded(inputs, list(range(len(examples))), [[] for _ in examples], n_cut=n_cut)


def _continued(data: Data) -> list[int]:
    """For each label of a word, the label of its later tokens: that of the same entity, without beginning a new one."""
    numbers = {label: number for number, label in enumerate(data.labels)}
    if data.scheme is None:
        return [*numbers.values()]
    return [numbers.get(f"I-{label[2:]}", number) for label, number in numbers.items()]


def _labels_of_tokens(
    label: Sequence[int], word_of: Sequence[int], firsts: dict[int, int], continued: Sequence[int]
) -> list[int]:
    """The training label of each token, chosen so that a pipeline, which reads all tokens, finds the words' labels.

    The first token of a word has the word's label, and the others continue it. A token that is only the space before a
    word (a lone `▁` or `Ġ`) is inside an entity if the word continues one, else outside; if labels are not entities, it
    has the word's label.
    """
    labels = [IGNORED] * len(word_of)
    behind = IGNORED
    for token in reversed(range(len(word_of))):
        word = word_of[token]
        if word < 0:
            labels[token] = behind
            continue
        own = label[word]
        labels[token] = own if firsts[word] == token else continued[own]
        behind = own if continued[own] == own else _OUTSIDE
    return labels


def _encode_words(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, longest: int, overlap: bool, continued: list[int]
) -> Encoded:
    frame = _frame(tokenizer, (join_words(example.texts)[0] for example in examples))
    if frame is None:
        return Encoded([], [], [], n_lost=sum(len(example.texts) for example in examples))
    before, inner, after = frame
    n_before, room = len(before["input_ids"]), longest - len(before["input_ids"]) - len(after["input_ids"])
    if room < 2:
        raise ConfigError(f"`max_length`: {longest} tokens leave no room for words between the special tokens")
    inputs: list[dict[str, Any]] = []
    of_example: list[int] = []
    places: list[list[Place]] = []
    n_windowed = n_lost = 0
    for number, example in enumerate(examples):
        text, words = join_words(example.texts)
        encoded = tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            split_special_tokens=True,
            verbose=False,
        )
        ids = encoded["input_ids"]
        word_of = words_of_tokens(encoded["offset_mapping"], words).tolist() if ids else []
        firsts = {word: token for token, word in reversed(list(enumerate(word_of))) if word >= 0}
        of_token = _labels_of_tokens(example.label, word_of, firsts, continued)
        n_lost += len(words) - len(firsts)
        starts = _starts(len(ids), room, max(1, room // 2) if overlap else room)
        n_windowed += len(starts) > 1
        for start in starts:
            end = min(start + room, len(ids))
            found = []
            for word, token in sorted(firsts.items()):
                if start <= token < end:
                    left = token - start if start else len(ids)
                    right = end - 1 - token if end < len(ids) else len(ids)
                    found.append(Place(n_before + token - start, word, min(left, right)))
            within = {name: [value] * (end - start) for name, value in inner.items()}
            within |= {"input_ids": ids[start:end], "labels": of_token[start:end]}
            inputs.append({name: [*before[name], *values, *after[name]] for name, values in within.items()})
            of_example.append(number)
            places.append(found)
    return Encoded(inputs, of_example, places, n_windowed=n_windowed, n_lost=n_lost)


def _starts(n_tokens: int, room: int, step: int) -> list[int]:
    """Start of each window. If the step is half the room, every word is far from both ends of some window."""
    if n_tokens <= room:
        return [0]
    if step == room:
        return list(range(0, n_tokens, room))
    return [*range(0, n_tokens - room, step), n_tokens - room]


def _frame(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]
) -> tuple[dict[str, list[int]], dict[str, int], dict[str, list[int]]] | None:
    """Model inputs of the special tokens before a text, of one token of the text, and of the special tokens after it.

    They are copied from the tokenizer's output, including token types, so that the model later gets the same inputs.
    The first text that has a token is used; None if no text has one.
    """
    for text in texts:
        whole = tokenizer(
            text, return_special_tokens_mask=True, return_attention_mask=False, split_special_tokens=True, verbose=False
        )
        special: list[int] = whole.pop("special_tokens_mask")
        if 0 in special:
            break
    else:
        return None
    values = {name: [*of_name] for name, of_name in whole.items()} | {"labels": [IGNORED] * len(special)}
    start, end = special.index(0), len(special) - special[::-1].index(0)
    return (
        {name: of_name[:start] for name, of_name in values.items()},
        {name: of_name[start] for name, of_name in values.items()},
        {name: of_name[end:] for name, of_name in values.items()},
    )


def scores_of(data: Data, encoded: Encoded, examples: Sequence[Example], outputs: Sequence[Any]) -> list[Any]:
    """Scores of examples, from a model's outputs.

    Args:
        data: the task.
        encoded: the model's input.
        examples: the examples encoded in it.
        outputs: logits of each item: [labels], or [tokens, labels].

    Returns:
        An array for each example: [labels], or [words, labels] if words are labelled. A word of a long sentence is
        predicted in the window where it is farthest from a cut; a word without tokens scores 0 for every label.
    """
    if data.task.kind != "tokens":
        return list(outputs)
    scores = [np.zeros((len(example.texts), len(data.labels))) for example in examples]
    margins = [[-1] * len(example.texts) for example in examples]
    for number, places, logits in zip(encoded.example, encoded.places, outputs, strict=True):
        for place in places:
            if place.margin > margins[number][place.word]:
                margins[number][place.word] = place.margin
                scores[number][place.word] = logits[place.token]
    return scores
