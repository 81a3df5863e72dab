"""What every head answers to the questions of a probe: the word that its attention is most on.

Word level (Clark et al. 2019, section 4.1): the attention to a word is the sum over its tokens, that from a word the
mean over its tokens. Special tokens are no words, and a word is not asked about itself.

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
from attention_guidance.commands.annotations.words import words_of_tokens
from attention_guidance.commands.probes.questions import Question, QuestionedText
from attention_guidance.errors import AttachError, ConfigError, CorpusError
from attention_guidance.loss.call import AttentionCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROTOCOLS = ("words", "authors")
#: The word looks at the right one; the right one looks at the word.
DIRECTIONS = ("forward", "backward")
_OFFSETS = 10
# Batches of longer texts hold fewer of them.
_LONG = 512


@dataclass(frozen=True)
class Answers:
    """How right every head was on every question.

    Attributes:
        right: [N, L, H, D], 1 where the answer is right, 0 where it is wrong; where several words share the largest
            attention, the share of them that are right. D are the directions that were asked for.
        directions: their names.
        labels: of each question.
        texts: [N], the number of each question's text; questions of one text are not independent.
        offsets: of the fixed-offset baselines.
        right_by_offset: [N, offsets], whether the word so many places away is right.
        right_by_rule: [N] for each rule of the questions.
        right_by_chance: [N], the share of the words to choose from that are right.
        n_texts: how many texts were read by the model.
        skipped: how many texts were left out, by reason.
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
    """Let every head of a model answer the questions of some texts, in evaluation mode.

    Args:
        model: any encoder that `guide` takes and that is not guided; it comes back as it was.
        tokenizer: the model's, a fast one.
        texts: what to ask. Texts without a question, of more tokens than `longest` or with a word that has no token of
            its own are skipped and counted.
        protocol: `words`, or `authors`: as the script of the paper's authors, only texts in which each word is one
            token; a head's answer is its largest weight among all tokens, special ones and the word itself included.
        directions: which of `forward` and `backward` to ask for.
        longest: the most tokens that the model can read.
        batch_size: texts in a forward pass.
        progress: called with the number of texts after each batch.

    Raises:
        ConfigError: an unknown protocol or direction, or a tokenizer that does not tell where its tokens are.
        CorpusError: no question is left.
        AttachError: the model is guided or cannot be looked at.
    """
    for name, value, known in [("protocol", protocol, PROTOCOLS), *(("direction", d, DIRECTIONS) for d in directions)]:
        if value not in known:
            raise ConfigError(f"unknown {name} {value!r}; expected one of {', '.join(known)}")
    if not tokenizer.is_fast:
        raise ConfigError(
            f"probes need a fast tokenizer, which tells where its tokens are; {type(tokenizer).__name__} is none"
        )
    skipped: Counter[str] = Counter()
    read = list(_read(texts, tokenizer, protocol, longest, skipped))
    if not read:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "there is no text"
        raise CorpusError(f"no question is left to ask: {reasons}")
    heads_answers = _heads_answers(model, tokenizer, read, protocol, directions, batch_size, progress)
    return _with_baselines(heads_answers, read, protocol, tuple(directions), dict(skipped))


@dataclass(frozen=True)
class _Read:
    """A text as the model reads it.

    Attributes:
        ids: its tokens.
        word_of: the word of each token, -1 for those of none. Under `authors` each token is a word.
        n_words: how many.
        questions: in the numbers of these words.
    """

    ids: list[int]
    word_of: npt.NDArray[np.int64]
    n_words: int
    questions: tuple[Question, ...]


def _read(
    texts: Iterable[QuestionedText],
    tokenizer: PreTrainedTokenizerBase,
    protocol: str,
    longest: int,
    skipped: Counter[str],
) -> Iterator[_Read]:
    for text in texts:
        if not isinstance(text, QuestionedText):
            raise ConfigError(f"a text to ask about is a {type(text).__name__}; give a QuestionedText, with its words")
        if not text.questions:
            skipped["without a question"] += 1
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
            yield _Read(ids, word_of, len(text.words), text.questions)
        elif (counts != 1).any():
            skipped["with a word of several tokens"] += 1
        else:
            token_of = {int(word): token for token, word in enumerate(word_of) if word >= 0}
            yield _Read(ids, np.arange(len(ids)), len(ids), tuple(_moved(q, token_of) for q in text.questions))


def _moved(question: Question, to: dict[int, int]) -> Question:
    """A question in other numbers; every token may be the answer."""
    guesses = tuple((name, None if word is None else to[word]) for name, word in question.guesses)
    return Question(to[question.word], frozenset(to[w] for w in question.right), None, question.label, guesses)


def _heads_answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[_Read],
    protocol: str,
    directions: Sequence[str],
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> npt.NDArray[np.float32]:
    """[N, L, H, D], questions in the order of the texts."""
    first_question = np.cumsum([0, *(len(text.questions) for text in texts)])
    layers: dict[int, Tensor] = {}
    asked: list[_Asked] = []

    def see(layer: int, call: AttentionCall) -> None:
        map_BHTT = attention_map(call)
        if map_BHTT.shape[2:] != (asked[0].length, asked[0].length):
            raise AttachError(
                f"layer {layer} attends from {map_BHTT.shape[2]} to {map_BHTT.shape[3]} positions where the texts have "
                f"{asked[0].length} tokens; probes need a map of the whole text"
            )
        if not bool(torch.isfinite(map_BHTT).all()):
            raise AttachError("the model's attention is not finite; look at its weights and its precision")
        layers[layer] = asked[0].judge(map_BHTT, directions)

    result: npt.NDArray[np.float32] | None = None
    with observing(model, see, once=True) as watched:
        done = 0
        for numbers in _batches([len(text.ids) for text in texts], batch_size):
            asked[:] = [_Asked([texts[n] for n in numbers], protocol, watched.device)]
            watched(asked[0].inputs(tokenizer.pad_token_id or 0))
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
    """The numbers of the texts of each batch: texts of like lengths, since less is padding; fewer of the very long."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        # Memory goes with the maps, which grow with the square of the length.
        most = max(1, min(batch_size, batch_size * _LONG**2 // lengths[number] ** 2))
        if len(batch) >= most:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


class _Asked:
    """The questions of a batch as tensors.

    Attributes:
        among_NW, right_NW: bool, the words to choose from and those that are right.
    """

    def __init__(self, texts: Sequence[_Read], protocol: str, device: torch.device) -> None:
        self.texts, self.first_of_ties = texts, protocol == "authors"
        n_words = max(text.n_words for text in texts)
        self.length = max(len(text.ids) for text in texts)
        of_word = torch.zeros(len(texts), self.length, n_words)
        for b, text in enumerate(texts):
            tokens = np.flatnonzero(text.word_of >= 0)
            of_word[b, tokens, torch.from_numpy(text.word_of[tokens])] = 1
        self.of_word_BTW = of_word.to(device)
        self.mean_of_word_BWT = (of_word / of_word.sum(1, keepdim=True).clamp(min=1)).mT.to(device)
        pairs = [(b, question) for b, text in enumerate(texts) for question in text.questions]
        self.text_N = torch.tensor([b for b, _ in pairs], device=device)
        self.word_N = torch.tensor([question.word for _, question in pairs], device=device)
        among, right = torch.zeros(2, len(pairs), n_words, dtype=torch.bool)
        for n, (b, question) in enumerate(pairs):
            among[n, _choices(question, texts[b].n_words, with_itself=self.first_of_ties)] = True
            right[n, list(question.right)] = True
        self.among_NW, self.right_NW = among.to(device), (among & right).to(device)

    def inputs(self, pad: int) -> dict[str, Any]:
        """What the model is called with."""
        ids = torch.full((len(self.texts), self.length), pad)
        mask = torch.zeros_like(ids)
        for b, text in enumerate(self.texts):
            ids[b, : len(text.ids)] = torch.tensor(text.ids)
            mask[b, : len(text.ids)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def judge(self, map_BHTT: Tensor, directions: Sequence[str]) -> Tensor:
        """How right each head of a layer is, [N, H, D]."""
        words_BHWW = self.mean_of_word_BWT[:, None] @ map_BHTT.float() @ self.of_word_BTW[:, None]
        results = []
        for direction in directions:
            seen_BHWW = words_BHWW if direction == "forward" else words_BHWW.mT
            seen_NHW = seen_BHWW[self.text_N, :, self.word_N]
            seen_NHW = seen_NHW.masked_fill(~self.among_NW[:, None], -1.0)
            if self.first_of_ties:
                best_NH = seen_NHW.argmax(-1)
                results.append(self.right_NW.gather(1, best_NH).float())
            else:
                best_NHW = (seen_NHW == seen_NHW.amax(-1, keepdim=True)) & self.among_NW[:, None]
                right_NH = (best_NHW & self.right_NW[:, None]).sum(-1)
                results.append(right_NH / best_NHW.sum(-1).clamp(min=1))
        return torch.stack(results, -1)


def _choices(question: Question, n_words: int, with_itself: bool = False) -> list[int]:
    """The words that a question may be answered with."""
    among = range(n_words) if question.among is None else question.among
    return [word for word in among if with_itself or word != question.word]


def _with_baselines(
    right: npt.NDArray[np.float32],
    texts: Sequence[_Read],
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
        choices = _choices(question, text.n_words, with_itself=protocol == "authors")
        chance.append(len(question.right.intersection(choices)) / max(1, len(choices)))
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
