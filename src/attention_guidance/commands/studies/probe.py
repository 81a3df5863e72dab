"""`attention-guidance probe`: do heads look from a word to the word that a linguist would point at?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from attention_guidance.commands import results
from attention_guidance.commands.annotations.conll2012 import read_conll2012
from attention_guidance.commands.annotations.gap import read_gap
from attention_guidance.commands.annotations.reflexives import DISTRACTORS, read_reflexives
from attention_guidance.commands.annotations.treebanks import read_trees
from attention_guidance.commands.probes import tasks
from attention_guidance.commands.probes.answers import DIRECTIONS, PROTOCOLS, Answers, answer
from attention_guidance.commands.probes.questions import QuestionedText
from attention_guidance.commands.probes.scores import LabelScores, as_json, score
from attention_guidance.commands.report.figures import probe as probe_figures
from attention_guidance.commands.studies.models import USUAL_LENGTH, Subject, longest_sequence, subjects
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.studies.progress import Steps
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE_FILE = "probe.json"
PROBE_TABLE = "probe.csv"

# Why a part of a document is left out.
_REPEATED = "read from another file already (gold goes before auto)"


@dataclass(frozen=True)
class _Data:
    """Annotated data, and what turns it into questions.

    Attributes:
        path: the file or folder.
        n_tokens: the length of a text in tokens.
        longest: tokens of a text into which long documents are cut.
        distractors: sentences to put in front.
        seed: of their draw.
        left_out: counts what is left out, by reason.
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
    """A probe: how its data become questions.

    Attributes:
        ask: makes them.
        directions: in which directions heads are asked.
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
    """What is asked of models.

    Attributes:
        data: the annotated file or folder.
        task: one of `TASKS`.
        protocol: `words` or `authors`; see `attention_guidance.commands.probes.answers`.
        distractors: put a sentence in front of each reflexive sentence: the built-in ones (True) or those of a file.
        seed: of distractors, halves and bootstrap.
        batch_size: texts in a forward pass.

    Raises:
        ConfigError: an unknown task or protocol, or a combination that means nothing.
    """

    data: Path
    task: str
    protocol: str = "words"
    distractors: bool | Path = False
    seed: int = 1
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name, value, known in (("--task", self.task, TASKS), ("--protocol", self.protocol, PROTOCOLS)):
            if value not in known:
                raise ConfigError(f"{name} {value!r}: expected one of {', '.join(known)}")
        if self.batch_size < 1:
            raise ConfigError(f"--batch-size {self.batch_size}: must be at least 1")
        if self.task != "reflexive" and (self.distractors or self.protocol == "authors"):
            what = "--distractors" if self.distractors else "--protocol authors"
            raise ConfigError(f"{what} is for --task reflexive, not for {self.task}")

    def texts(self, tokenizer: PreTrainedTokenizerBase, longest: int, left_out: Counter[str]) -> list[QuestionedText]:
        """The questioned texts.

        Args:
            tokenizer: the model's.
            longest: the most tokens that the model can read.
            left_out: counts what is left out of the data, by reason.

        Raises:
            CorpusError: data that cannot be read.
        """

        def count(text: str) -> int:
            return len(tokenizer(text, return_attention_mask=False, verbose=False)["input_ids"])

        # Documents are cut as for every other model; texts that come whole may be as long as this one takes.
        cut = min(longest, USUAL_LENGTH)
        data = _Data(self.data, count, cut, self._distractors(), self.seed, left_out)
        return list(TASKS[self.task].ask(data))

    def _distractors(self) -> Sequence[str]:
        if isinstance(self.distractors, bool):
            return DISTRACTORS if self.distractors else ()
        try:
            found = [line.strip() for line in self.distractors.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--distractors {self.distractors}: cannot be read ({error})") from error
        if not found:
            raise ConfigError(f"--distractors {self.distractors}: no line in it; give a sentence a line")
        return found

    def answers(self, subject: Subject, progress: Callable[[int], None] | None = None) -> Answers:
        """What the heads of a model answer.

        Raises:
            GuidanceError: a model that cannot be loaded or looked at, data that cannot be read.
        """
        model, tokenizer = subject.load(), subject.tokenizer()
        longest = longest_sequence(model, tokenizer)
        left_out: Counter[str] = Counter()
        answers = answer(
            model, tokenizer, self.texts(tokenizer, longest, left_out), protocol=self.protocol,
            directions=TASKS[self.task].directions, longest=longest, batch_size=self.batch_size, progress=progress,
        )  # fmt: skip
        return replace(answers, skipped={**left_out, **answers.skipped})

    def facts(self) -> dict[str, Any]:
        """What was asked, as JSON."""
        return {
            "data": "/".join(self.data.absolute().parts[-2:]),
            "task": self.task,
            "protocol": self.protocol,
            "distractors": self.distractors if isinstance(self.distractors, bool) else self.distractors.name,
            "seed": self.seed,
        }


def probe(
    model: str, asked: Probe, output: Path, *, resamples: int = 1000, overwrite: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Probe the heads of a model and write down how good they are.

    Args:
        model: folder of a model or of a run, or a name on the hub.
        asked: the questions.
        output: the folder for `probe.json`, `probe.csv` and the figures.
        resamples: of the bootstrap.
        overwrite: replace the probe in the folder.
        quiet: print nothing.

    Returns:
        The scores, as in `probe.json`.

    Raises:
        GuidanceError: bad input.
    """
    if resamples < 100:
        raise ConfigError(f"--resamples {resamples}: must be at least 100")
    folder = Output.of_study(output, PROBE_FILE, overwrite)
    console = Console(quiet=quiet, markup=False)
    subject = subjects(model)[0]
    with Steps(console, quiet) as steps:
        steps.begin(f"asking {subject.name}", None)
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
    folder.json(PROBE_FILE, content)
    folder.csv(PROBE_TABLE, probe_rows(scores, answers))
    for name, figure in probe_figures.all_figures(content).items():
        folder.figure(name, figure)
    report(console, content)
    console.print(f"every figure: {folder.path / PROBE_FILE}, {PROBE_TABLE}; pictures beside them", highlight=False)
    return content


def summary(answers: Answers, scores: Sequence[LabelScores]) -> dict[str, Any]:
    """The figures of all questions together: accuracy of every head, `max` and `mean` over them, counts."""
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
        "counts": {
            "texts": answers.n_texts, "questions": everything.n, "skipped_texts": answers.skipped
        },
    }  # fmt: skip


def probe_rows(scores: Sequence[LabelScores], answers: Answers) -> Iterable[dict[str, object]]:
    """The rows of `probe.csv`: one for each label, layer, head and direction."""
    for of_label in scores:
        for place in np.ndindex(of_label.heads.shape[:3]):
            value, low, high = of_label.heads[place]
            layer, head, direction = place
            yield {
                "label": of_label.label, "layer": layer, "head": head, "direction": answers.directions[direction],
                "accuracy": value, "accuracy_low": low, "accuracy_high": high, "questions": of_label.n,
            }  # fmt: skip


def report(console: Console, content: Mapping[str, Any]) -> None:
    """Print the best head of each label beside the baselines."""
    counts = content["counts"]
    console.print(
        f"{counts['questions']:,} questions in {counts['texts']:,} texts{left_out(counts['skipped_texts'])}",
        highlight=False,
    )
    console.print(
        f"over all heads: max {content['max']:.3f} (flattered by its choice), mean {content['mean']:.3f}, "
        f"chance {content['baselines']['chance']:.3f}",
        highlight=False,
    )
    table = Table(title="Best head, chosen on one half of the texts, scored on the other (95 % interval)")
    for heading in ("label", "n", "head", "direction", "accuracy", "best baseline", "apart"):
        table.add_column(heading, justify="left" if heading in ("label", "direction") else "right")
    for label in content["labels"]:
        best, baseline = label["best"], label["baseline"]
        table.add_row(
            label["label"], f"{label['questions']:,}", f"{best['layer']}.{best['head']}", best["direction"],
            _told(best), f"{baseline['name']}  {_told(baseline)}",
            "yes" if label["intervals_apart"] else "no",
        )  # fmt: skip
    console.print(table)


def left_out(skipped: Mapping[str, int]) -> str:
    """What follows the number of texts in a line that says which were left out."""
    return f", texts left out: {'; '.join(f'{n:,} {why}' for why, n in skipped.items())}" if skipped else ""


def _told(accuracy: Mapping[str, float]) -> str:
    if not math.isfinite(accuracy["low"]):
        return "–" if not math.isfinite(accuracy["value"]) else f"{accuracy['value']:.2f} (too few texts)"
    return f"{accuracy['value']:.2f} ({accuracy['low']:.2f}-{accuracy['high']:.2f})"
