"""Answer the questions of a probe by the word with the most attention.

Attention between words (Clark et al. 2019, section 4.1): attention to a word is summed over its tokens, attention from
a word is averaged over its tokens. Special tokens are not words, and a word is no candidate for itself.

Shape suffixes: B batch, T tokens, W words, N questions, L layers, H heads, D directions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attention_guidance.analysis.observe import attention_map, observing
from attention_guidance.analysis.tokens import between_words, words_of_tokens
from attention_guidance.commands.probes.questions import Question, QuestionedText
from attention_guidance.commands.text.corpora import LONGEST_DOCUMENT
from attention_guidance.errors import AttachError, ConfigError, CorpusError
from attention_guidance.loss.call import AttentionCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROTOCOLS = ("words", "authors")
#: Forward: from the word to the answer; backward: from the answer to the word.
DIRECTIONS = ("forward", "backward")
_OFFSETS = 10
# Batches of texts longer than this (tokens) are smaller.
_LONG = 512


@dataclass(frozen=True)
class Answers:
    """The correctness of every head on every question.

    Attributes:
        right: [N, L, H, D], 1 if the answer is correct, else 0; if several words share the highest attention, the share
            of them that is correct. D are the requested directions.
        directions: Names of the directions.
        labels: Label of each question.
        texts: [N], index of each question's text; questions about one text are not independent.
        offsets: Offsets of the fixed-offset baselines.
        right_by_offset: [N, offsets], whether the word at this offset is correct.
        right_by_rule: [N] for each rule of the questions.
        right_by_chance: [N], the share of the candidates that is correct.
        n_texts: Number of texts that the model read.
        skipped: Number of skipped texts by reason.
    """

    right: npt.NDArray[np.float32]
    directions: tuple[str, ...]
    labels: tuple[str, ...]
    texts: npt.NDArray[np.int64]
    offsets: tuple[int, ...]
    right_by_offset: npt.NDArray[np.float32]
    right_by_rule: dict[str, npt.NDArray[np.float32]]
    right_by_chance: npt.NDArray[np.float32]
    n_texts: int
    skipped: dict[str, int]


def answer(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[QuestionedText],
    *,
    protocol: str = "words",
    directions: Sequence[str] = DIRECTIONS,
    longest: int = 512,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> Answers:
    """Compute the answers of every head of a model to questions about texts, in evaluation mode.

    Args:
        model: Any encoder that `guide` supports and that is not guided; it is left unchanged.
        tokenizer: The model's tokenizer, a fast one.
        texts: Texts with questions. Texts without questions, longer than `longest` tokens or 2**19 characters, or with
            a word that has no token are skipped and counted.
        protocol: `words`, or `authors`: as in the script of the paper's authors, only texts in which each word is one
            token; the answer is the largest weight among all tokens, including special ones and the word itself.
        directions: Any of `forward` and `backward`.
        longest: Maximum number of tokens that the model can read.
        batch_size: Texts per forward pass.
        progress: Called with the number of texts done after each batch.

    Raises:
        ConfigError: The protocol or a direction is unknown, or the tokenizer does not give offsets.
        CorpusError: No question is left.
        AttachError: The model is guided, or its attention cannot be observed.
    """
    for name, value, known in [("protocol", protocol, PROTOCOLS), *(("direction", d, DIRECTIONS) for d in directions)]:
        if value not in known:
            raise ConfigError(f"unknown {name} {value!r}; expected one of {', '.join(known)}")
    if not tokenizer.is_fast:
        raise ConfigError(f"probes need a fast tokenizer, which returns offsets; {type(tokenizer).__name__} is slow")
    skipped: Counter[str] = Counter()
    tokenized = list(_tokenize(texts, tokenizer, protocol, longest, skipped))
    if not tokenized:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "there is no text"
        raise CorpusError(f"no question is left to ask: {reasons}")
    right = _answers_of_heads(model, tokenizer, tokenized, protocol, directions, batch_size, progress)
    return _with_baselines(right, tokenized, protocol, tuple(directions), dict(skipped))


@dataclass(frozen=True)
class _TokenizedText:
    """A tokenized text.

    Attributes:
        ids: Token ids.
        word_of: Word of each token, -1 for none. Under `authors` each token is a word.
        n_words: Number of words.
        questions: Questions in terms of these words.
    """

    ids: list[int]
    word_of: npt.NDArray[np.int64]
    n_words: int
    questions: tuple[Question, ...]


def _tokenize(
    texts: Iterable[QuestionedText],
    tokenizer: PreTrainedTokenizerBase,
    protocol: str,
    longest: int,
    skipped: Counter[str],
) -> Iterator[_TokenizedText]:
    for text in texts:
        if not isinstance(text, QuestionedText):
            raise ConfigError(f"a text is a {type(text).__name__}; give a QuestionedText, with its words")
        if not text.questions:
            skipped["without a question"] += 1
            continue
        if len(text.text) > LONGEST_DOCUMENT:
            skipped[f"longer than {LONGEST_DOCUMENT:,} characters"] += 1
            continue
        encoded = tokenizer(
            text.text,
            return_offsets_mapping=True,
            return_attention_mask=False,
            split_special_tokens=True,
            verbose=False,
        )
        ids = encoded["input_ids"]
        word_of = words_of_tokens(encoded["offset_mapping"], text.words)
        counts = np.bincount(word_of[word_of >= 0], minlength=len(text.words))
        if len(ids) > longest:
            skipped[f"longer than {longest} tokens"] += 1
        elif (counts == 0).any():
            skipped["with a word that has no token of its own"] += 1
        elif protocol == "words":
            yield _TokenizedText(ids, word_of, len(text.words), text.questions)
        elif (counts != 1).any():
            skipped["with a word of several tokens"] += 1
        else:
            token_of = {int(word): token for token, word in enumerate(word_of) if word >= 0}
            yield _TokenizedText(
                ids, np.arange(len(ids)), len(ids), tuple(_to_tokens(q, token_of) for q in text.questions)
            )


def _to_tokens(question: Question, to: dict[int, int]) -> Question:
    """Convert a question from words to tokens; all tokens are candidates."""
    guesses = tuple((name, None if word is None else to[word]) for name, word in question.guesses)
    return Question(to[question.word], frozenset(to[w] for w in question.right), None, question.label, guesses)


def _answers_of_heads(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[_TokenizedText],
    protocol: str,
    directions: Sequence[str],
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> npt.NDArray[np.float32]:
    """Correctness [N, L, H, D], with questions in the order of the texts."""
    first_question = np.cumsum([0, *(len(text.questions) for text in texts)])
    layers: dict[int, Tensor] = {}
    current: list[_Batch] = []

    def observe(layer: int, call: AttentionCall) -> None:
        map_BHTT = attention_map(call)
        if map_BHTT.shape[2:] != (current[0].length, current[0].length):
            raise AttachError(
                f"layer {layer} attends from {map_BHTT.shape[2]} to {map_BHTT.shape[3]} positions, but the texts have "
                f"{current[0].length} tokens; probes need attention maps of the whole text"
            )
        if not bool(torch.isfinite(map_BHTT).all()):
            raise AttachError("the model's attention is not finite; check its weights and its precision")
        layers[layer] = current[0].correctness(map_BHTT, directions)

    result: npt.NDArray[np.float32] | None = None
    with observing(model, observe, once=True) as observed:
        done = 0
        for numbers in _batches([len(text.ids) for text in texts], batch_size):
            current[:] = [_Batch([texts[n] for n in numbers], protocol, observed.device)]
            observed(current[0].inputs(tokenizer.pad_token_id or 0))
            right_NLHD = torch.stack([layers[layer] for layer in sorted(layers)], 1).cpu().numpy()
            if result is None:
                result = np.zeros((first_question[-1], *right_NLHD.shape[1:]), np.float32)
            places = [np.arange(first_question[n], first_question[n + 1]) for n in numbers]
            result[np.concatenate(places)] = right_NLHD
            done += len(numbers)
            if progress is not None:
                progress(done)
    assert result is not None
    return result


def _batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices of the texts of each batch: texts of similar length, for less padding, and fewer if they are long."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        # Memory is dominated by the maps, quadratic in the length.
        most = max(1, min(batch_size, batch_size * _LONG**2 // lengths[number] ** 2))
        if len(batch) >= most:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


class _Batch:
    """The questions of a batch as tensors.

    Attributes:
        candidates_NW, right_NW: Bool masks of the candidate words and of the correct ones.
    """

    def __init__(self, texts: Sequence[_TokenizedText], protocol: str, device: torch.device) -> None:
        self.texts, self.first_of_ties = texts, protocol == "authors"
        n_words = max(text.n_words for text in texts)
        self.length = max(len(text.ids) for text in texts)
        token_to_word = torch.zeros(len(texts), self.length, n_words)
        for b, text in enumerate(texts):
            tokens = np.flatnonzero(text.word_of >= 0)
            token_to_word[b, tokens, torch.from_numpy(text.word_of[tokens])] = 1
        self.token_to_word_BTW = token_to_word.to(device)
        pairs = [(b, question) for b, text in enumerate(texts) for question in text.questions]
        self.text_N = torch.tensor([b for b, _ in pairs], device=device)
        self.word_N = torch.tensor([question.word for _, question in pairs], device=device)
        candidates, right = torch.zeros(2, len(pairs), n_words, dtype=torch.bool)
        for n, (b, question) in enumerate(pairs):
            candidates[n, _candidates(question, texts[b].n_words, include_self=self.first_of_ties)] = True
            right[n, list(question.right)] = True
        self.candidates_NW, self.right_NW = candidates.to(device), (candidates & right).to(device)

    def inputs(self, pad: int) -> dict[str, Any]:
        """Inputs of the model."""
        ids = torch.full((len(self.texts), self.length), pad)
        mask = torch.zeros_like(ids)
        for b, text in enumerate(self.texts):
            ids[b, : len(text.ids)] = torch.tensor(text.ids)
            mask[b, : len(text.ids)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def correctness(self, map_BHTT: Tensor, directions: Sequence[str]) -> Tensor:
        """Correctness of each head of a layer, [N, H, D]."""
        words_BHWW = between_words(map_BHTT.float(), self.token_to_word_BTW[:, None])
        results = []
        for direction in directions:
            attention_BHWW = words_BHWW if direction == "forward" else words_BHWW.mT
            attention_NHW = attention_BHWW[self.text_N, :, self.word_N]
            attention_NHW = attention_NHW.masked_fill(~self.candidates_NW[:, None], -1.0)
            if self.first_of_ties:
                best_NH = attention_NHW.argmax(-1)
                results.append(self.right_NW.gather(1, best_NH).float())
            else:
                best_NHW = (attention_NHW == attention_NHW.amax(-1, keepdim=True)) & self.candidates_NW[:, None]
                right_NH = (best_NHW & self.right_NW[:, None]).sum(-1)
                results.append(right_NH / best_NHW.sum(-1).clamp(min=1))
        return torch.stack(results, -1)


def _candidates(question: Question, n_words: int, include_self: bool = False) -> list[int]:
    """The candidate words of a question."""
    candidates = range(n_words) if question.candidates is None else question.candidates
    return [word for word in candidates if include_self or word != question.word]


def _with_baselines(
    right: npt.NDArray[np.float32],
    texts: Sequence[_TokenizedText],
    protocol: str,
    directions: tuple[str, ...],
    skipped: dict[str, int],
) -> Answers:
    pairs = [(number, text, question) for number, text in enumerate(texts) for question in text.questions]
    offsets = tuple(k for k in range(-_OFFSETS, _OFFSETS + 1) if k)
    by_offset = [[question.word + k in question.right for k in offsets] for _, _, question in pairs]
    rules = dict.fromkeys(name for _, _, question in pairs for name, _ in question.guesses)
    guesses = [dict(question.guesses) for _, _, question in pairs]
    chance = []
    for _, text, question in pairs:
        candidates = _candidates(question, text.n_words, include_self=protocol == "authors")
        chance.append(len(question.right.intersection(candidates)) / max(1, len(candidates)))
    return Answers(
        right=right,
        directions=directions,
        labels=tuple(question.label for _, _, question in pairs),
        texts=np.array([number for number, _, _ in pairs]),
        offsets=offsets,
        right_by_offset=np.array(by_offset, np.float32),
        right_by_rule={
            rule: np.array(
                [guess.get(rule) in question.right for guess, (_, _, question) in zip(guesses, pairs, strict=True)],
                np.float32,
            )
            for rule in rules
        },
        right_by_chance=np.array(chance, np.float32),
        n_texts=len(texts),
        skipped=skipped,
    )
