"""`attention-guidance probe`: do heads attend to linguistically related words?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_guidance.commands import results
from attention_guidance.commands.annotations.conll2012 import read_conll2012
from attention_guidance.commands.annotations.gap import read_gap
from attention_guidance.commands.annotations.reflexives import DISTRACTORS, read_reflexives
from attention_guidance.commands.annotations.treebanks import read_trees
from attention_guidance.commands.memory import names_batch_size
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.printing import Console, Table
from attention_guidance.commands.probes import tasks
from attention_guidance.commands.probes.answers import DIRECTIONS, PROTOCOLS, Answers, answer
from attention_guidance.commands.probes.questions import QuestionedText
from attention_guidance.commands.probes.scores import LabelScores, as_json, score
from attention_guidance.commands.report.figures import probe as probe_figures
from attention_guidance.commands.studies.models import USUAL_LENGTH, Subject, longest_sequence, subjects
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.studies.progress import Steps
from attention_guidance.commands.text.corpora import LONGEST_DOCUMENT
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE_FILE = "probe.json"
PROBE_TABLE = "probe.csv"

# Reason for skipping a part of a document.
_REPEATED = "read from another file already (gold goes before auto)"


@dataclass(frozen=True)
class _Data:
    """Annotated data, and the settings for making questions from it.

    Attributes:
        path: the file or folder.
        n_tokens: function that counts the tokens of a text.
        longest: maximum length in tokens; longer documents are split.
        distractors: sentences to put in front of the texts.
        seed: seed for the choice of distractors.
        left_out: number of skipped texts by reason, updated while reading.
    """

    path: Path
    n_tokens: Callable[[str], int]
    longest: int
    distractors: Sequence[str]
    seed: int
    left_out: Counter[str]


def _reflexives(data: _Data) -> Iterable[QuestionedText]:
    return tasks.reflexive_texts(read_reflexives(data.path), distractors=data.distractors, seed=data.seed)


def _coreference(data: _Data) -> Iterable[QuestionedText]:
    documents = read_conll2012(data.path, lambda document: data.left_out.update([_REPEATED]))
    return tasks.coreference_texts(documents, data.n_tokens, data.longest)


@dataclass(frozen=True)
class Task:
    """A probing task.

    Attributes:
        ask: makes questions from annotated data.
        directions: the directions of attention to probe.
    """

    ask: Callable[[_Data], Iterable[QuestionedText]]
    directions: tuple[str, ...]


TASKS = {
    "reflexive": Task(_reflexives, DIRECTIONS[:1]),
    "coreference": Task(_coreference, DIRECTIONS[:1]),
    "gap": Task(lambda data: tasks.gap_texts(read_gap(data.path)), DIRECTIONS[:1]),
    "dependency": Task(lambda data: tasks.dependency_texts(read_trees(data.path)), DIRECTIONS),
}


@dataclass(frozen=True)
class Probe:
    """Settings of a probe.

    Attributes:
        data: the annotated file or folder.
        task: one of `TASKS`.
        protocol: `words` or `authors`; see `attention_guidance.commands.probes.answers`.
        distractors: put a sentence in front of each reflexive sentence: a built-in one (True) or one from a file.
        seed: seed for distractors, the split into halves, and the bootstrap.
        batch_size: texts per forward pass.

    Raises:
        ConfigError: an unknown task or protocol, or options that do not fit together.
    """

    data: Path
    task: str
    protocol: str = "words"
    distractors: bool | Path = False
    seed: int = 1
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name, value, known in (("task", self.task, TASKS), ("protocol", self.protocol, PROTOCOLS)):
            if value not in known:
                raise ConfigError(f"{name}={value!r} must be one of {', '.join(known)}")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} must be at least 1")
        if self.task != "reflexive" and (self.distractors or self.protocol == "authors"):
            what = "`distractors`" if self.distractors else "protocol=authors"
            raise ConfigError(f"{what} works only with task=reflexive, not with {self.task}")

    def texts(self, tokenizer: PreTrainedTokenizerBase, longest: int, left_out: Counter[str]) -> list[QuestionedText]:
        """The texts with their questions.

        Args:
            tokenizer: the model's tokenizer.
            longest: the model's maximum sequence length in tokens.
            left_out: number of skipped texts by reason, updated in place.

        Raises:
            CorpusError: the data cannot be read.
        """

        def count(text: str) -> int:
            if len(text) > LONGEST_DOCUMENT:  # tokenizing would need gigabytes
                return len(text)
            return len(tokenizer(text, return_attention_mask=False, verbose=False)["input_ids"])

        # Documents are split in the same way for every model; other texts may be as long as this model accepts.
        cut = min(longest, USUAL_LENGTH)
        data = _Data(self.data, count, cut, self._distractors(), self.seed, left_out)
        return list(TASKS[self.task].ask(data))

    def _distractors(self) -> Sequence[str]:
        if isinstance(self.distractors, bool):
            return DISTRACTORS if self.distractors else ()
        try:
            found = [line.strip() for line in self.distractors.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"distractors={str(self.distractors)!r}: cannot be read ({error})") from error
        if not found:
            raise ConfigError(f"distractors={str(self.distractors)!r}: the file is empty; give one sentence per line")
        return found

    def answers(self, subject: Subject, progress: Callable[[int], None] | None = None) -> Answers:
        """The answers of all heads of a model.

        Raises:
            GuidanceError: the model cannot be loaded or observed, or the data cannot be read.
        """
        model, tokenizer = subject.load(), subject.tokenizer()
        longest = longest_sequence(model, tokenizer)
        left_out: Counter[str] = Counter()
        texts, directions = self.texts(tokenizer, longest, left_out), TASKS[self.task].directions
        ask = partial(answer, model, tokenizer, longest=longest, batch_size=self.batch_size, progress=progress)
        answers = ask(texts, protocol=self.protocol, directions=directions)
        return replace(answers, skipped={**left_out, **answers.skipped})

    def skill(self, subject: Subject) -> tuple[dict[str, float], dict[str, Any]]:
        """The accuracies of a model for `skill`: of the best head, the mean over heads, chance; and counts of texts.

        Raises:
            GuidanceError: see `answers`.
        """
        answers = self.answers(subject)
        by_head = answers.right.mean(0)
        accuracies = {"max": by_head.max(), "mean": by_head.mean(), "chance": answers.right_by_chance.mean()}
        counts = {"texts": answers.n_texts, "skipped_texts": answers.skipped}
        return {name: float(value) for name, value in accuracies.items()}, counts

    def facts(self) -> dict[str, Any]:
        """The settings as JSON."""
        return {
            "data": "/".join(self.data.absolute().parts[-2:]),
            "task": self.task,
            "protocol": self.protocol,
            "distractors": self.distractors if isinstance(self.distractors, bool) else self.distractors.name,
            "seed": self.seed,
        }


@until_done()
@names_batch_size
def probe(
    model: str, asked: Probe, output: Path, *, resamples: int = 1000, overwrite: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Probe the heads of a model and write their scores.

    Args:
        model: folder of a model or run, or a name on the Hugging Face hub.
        asked: the settings of the probe.
        output: folder for `probe.json`, `probe.csv` and the figures.
        resamples: number of bootstrap resamples.
        overwrite: whether to replace an existing probe in the folder.
        quiet: whether to print nothing.

    Returns:
        The content of `probe.json`.

    Raises:
        GuidanceError: bad input.
    """
    if resamples < 100:
        raise ConfigError(f"resamples={resamples} must be at least 100")
    folder = Output.of_study(output, PROBE_FILE, overwrite)
    console = Console(quiet=quiet)
    subject = subjects(model)[0]
    with Steps(console, quiet) as steps:
        steps.begin(f"probing {subject.name}", None)
        answers = asked.answers(subject, steps.at)
        steps.begin("scoring", None)
        scores = score(answers, seed=asked.seed, resamples=resamples)
    content = {
        **results.header("probe"),
        "model": subject.name,
        **asked.facts(),
        **summary(answers, scores),
        "labels": as_json(scores),
    }
    folder.csv(PROBE_TABLE, probe_rows(scores, answers))
    for name, figure in probe_figures.all_figures(content).items():
        folder.figure(name, figure)
    folder.json(PROBE_FILE, content)
    report(console, content)
    console.print(f"results: {folder.path / PROBE_FILE}, {PROBE_TABLE}; figures are beside them")
    return content


def summary(answers: Answers, scores: Sequence[LabelScores]) -> dict[str, Any]:
    """Scores over all questions: the accuracy of every head, its maximum and mean over heads, and counts."""
    everything = scores[0]
    return {
        "layers": answers.right.shape[1],
        "heads": answers.right.shape[2],
        "directions": list(answers.directions),
        "accuracy": {
            direction: np.round(everything.heads[:, :, d, 0], 6).tolist()
            for d, direction in enumerate(answers.directions)
        },
        "max": everything.max,
        "mean": everything.mean,
        "baselines": {
            "best": {"name": everything.baseline, "value": everything.baseline_accuracy.value},
            "chance": everything.chance,
            **{rule: accuracy.value for rule, accuracy in everything.rules.items()},
        },
        "counts": {"texts": answers.n_texts, "questions": everything.n, "skipped_texts": answers.skipped},
    }


def probe_rows(scores: Sequence[LabelScores], answers: Answers) -> Iterable[dict[str, object]]:
    """The rows of `probe.csv`: one per label, layer, head and direction."""
    for of_label in scores:
        for place in np.ndindex(of_label.heads.shape[:3]):
            value, low, high = of_label.heads[place]
            layer, head, direction = place
            row: dict[str, object] = {"label": of_label.label, "layer": layer, "head": head}
            accuracy = {"accuracy": value, "accuracy_low": low, "accuracy_high": high}
            yield {**row, "direction": answers.directions[direction], **accuracy, "questions": of_label.n}


def report(console: Console, content: Mapping[str, Any]) -> None:
    """Print the best head of each label beside the baselines."""
    counts = content["counts"]
    console.print(f"{counts['questions']:,} questions in {counts['texts']:,} texts{left_out(counts['skipped_texts'])}")
    console.print(
        f"over all heads: max {content['max']:.3f} (biased upward by selection), mean {content['mean']:.3f}, "
        f"chance {content['baselines']['chance']:.3f}"
    )
    table = Table(title="Best head, chosen on one half of the texts, scored on the other (95 % interval)")
    for heading in ("label", "n", "head", "direction", "accuracy", "best baseline", "apart"):
        table.add_column(heading, justify="left" if heading in ("label", "direction") else "right")
    for label in content["labels"]:
        best, baseline = label["best"], label["baseline"]
        head, apart = f"{best['layer']}.{best['head']}", "yes" if label["intervals_apart"] else "no"
        accuracies = _shown(best), f"{baseline['name']}  {_shown(baseline)}"
        table.add_row(label["label"], f"{label['questions']:,}", head, best["direction"], *accuracies, apart)
    console.print(table)


def left_out(skipped: Mapping[str, int], what: str = "texts") -> str:
    """The end of a printed line about texts or pairs: how many were left out and why; empty if none were."""
    return f", {what} left out: {'; '.join(f'{n:,} {why}' for why, n in skipped.items())}" if skipped else ""


def _shown(accuracy: Mapping[str, float]) -> str:
    if not math.isfinite(accuracy["low"]):
        return "–" if not math.isfinite(accuracy["value"]) else f"{accuracy['value']:.2f} (too few texts)"
    return f"{accuracy['value']:.2f} ({accuracy['low']:.2f}-{accuracy['high']:.2f})"
