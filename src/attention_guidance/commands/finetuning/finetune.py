"""`attention-guidance finetune`: score any encoder downstream, over seeds; choices use dev, and test is used once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_guidance.attach import guide
from attention_guidance.commands.finetuning.baselines.baseline import Baseline, fit_baseline
from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.examples.encoding import encode
from attention_guidance.commands.finetuning.examples.reading import read_examples
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.fits.fit import try_out
from attention_guidance.commands.finetuning.fits.kept import (
    FINETUNE_FILE,
    NOT_FITTED,
    KeptFits,
    Request,
    request_of,
    scores_there,
)
from attention_guidance.commands.finetuning.fits.new_model import head_of, new_model
from attention_guidance.commands.finetuning.fits.runner import Runner, all_alike, at_the_end
from attention_guidance.commands.finetuning.scoring import outcome
from attention_guidance.commands.finetuning.settings import FinetuneSettings
from attention_guidance.commands.memory import names_batch_size
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.pretraining.loop.shortfalls import UNGUIDED
from attention_guidance.commands.printing import Console
from attention_guidance.commands.studies.models import USUAL_LENGTH, Subject, longest_sequence, subjects
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.studies.progress import Steps
from attention_guidance.commands.tokenization.coverage import misfits
from attention_guidance.commands.workspace import FINE_TUNING
from attention_guidance.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Small encoders need larger learning rates than those of papers, whose hidden size is 768 or more.
_SMALL = 512
LEARNING_RATES = {True: (2e-4, 5e-4, 1e-3), False: (1e-5, 3e-5, 5e-5)}
"""The learning rates to try by default, by whether the encoder is narrower than 512."""


@until_done()
@names_batch_size
def finetune(
    model: str,
    settings: FinetuneSettings,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fine-tune an encoder over seeds and score it.

    The learning rate is chosen on the development set with the first seed, and the epoch of each fine-tuning by its own
    score there. The test set is predicted once per seed, with the chosen weights.

    Args:
        model: folder of a model or of a run, or a name on the hub.
        settings: the task and training settings.
        output: the folder for `finetune.json`, predictions, the confusion matrix, and the model of the seed that is
            best on dev.
        resume: use existing results of the same model, files and settings: the scores, or the finished fits.
        overwrite: overwrite existing results; with `resume`, only those of other requests.
        quiet: print nothing.

    Returns:
        The results, as in `finetune.json`.

    Raises:
        GuidanceError: the input is invalid.
        FailedRunError: training diverged, or a model cannot be saved.
    """
    folder = Output(output, FINE_TUNING)
    console = Console(quiet=quiet)
    subject, tokenizer, data, request, there = _read(model, settings, output, resume=resume, overwrite=overwrite)
    if there is not None:
        console.print(f"{output.name}: already scored")
        lacks_baseline = settings.baseline and there.get("over_baseline") is None
        return _add_baseline(there, folder, data, Steps(console, quiet)) if lacks_baseline else there
    notes: list[str] = []

    def note(said: str) -> None:
        notes.append(said)
        console.print(said)

    texts = (" ".join(example.texts) for examples in data.splits.values() for example in examples)
    for said in (*data.notes, *misfits(tokenizer, texts), *_head_note(subject.source)):
        note(said)
    if settings.fit.heads and not settings.fit.weight:
        note(UNGUIDED)
    longest, rates = _length_and_rates(settings, subject, tokenizer)
    _check_compatible(subject, tokenizer, data, longest, settings)
    encoded = {
        split: encode(data, examples, tokenizer, longest, overlap=split != "train")
        for split, examples in data.splits.items()
    }
    for split, item in encoded.items():
        if item.n_lost:
            where = " where a well-formed sequence allows it" if data.scheme else ""
            note(f"{item.n_lost:,} words of {split} have no token; they are labelled {data.labels[0]}{where}")
    kept = KeptFits(output, request)
    kept.take_up(resume=resume, overwrite=overwrite)
    with Steps(console, quiet) as steps:
        runner = Runner(data, encoded, subject.source, tokenizer, settings.fit, steps, kept)
        tried = runner.try_rates(rates, settings.seed, note)
        for said in at_the_end(runner.on_dev(tried), rates):
            note(said)
        baseline = _baseline(data, steps, note) if settings.baseline else None
        fitted = runner.run(tried, settings.seeds_used, note, baseline)
        for said in all_alike(data, fitted):
            note(said)
    found = outcome.finetune_json(
        subject.name,
        data,
        encoded,
        settings.fit,
        fitted,
        longest=longest,
        request=request.whole,
        notes=notes,
        baseline=baseline,
    )
    found = outcome.write(folder, found, data, fitted, tokenizer, baseline)
    kept.forget()
    outcome.report(console, found)
    console.print(f"all results: {output / FINETUNE_FILE}, with the model and predictions beside it")
    return found


@names_batch_size
def check(
    model: str, settings: FinetuneSettings, output: Path, *, resume: bool = False, overwrite: bool = False
) -> None:
    """Check that a model can be fine-tuned, without doing so. Arguments are as for `finetune`.

    Args:
        model: folder of a model or of a run, or a name on the hub.
        settings: the task and training settings.
        output: the output folder.
        resume: use existing results of the same request.
        overwrite: overwrite existing results.

    Raises:
        GuidanceError: the model, its tokenizer, the files, the length or the heads to guide are incompatible, or the
            folder holds other results.
    """
    subject, tokenizer, data, _, there = _read(model, settings, output, resume=resume, overwrite=overwrite)
    if there is None:
        longest, _ = _length_and_rates(settings, subject, tokenizer)
        _check_compatible(subject, tokenizer, data, longest, settings)


def _read(
    model: str, settings: FinetuneSettings, output: Path, *, resume: bool, overwrite: bool
) -> tuple[Subject, PreTrainedTokenizerBase, Data, Request, dict[str, Any] | None]:
    """The model to fine-tune, its tokenizer, the data, the request, and existing scores of the same request.

    Raises:
        CorpusError: a file changed while it was read, so that results could be taken for those of other contents.
    """
    subject = subjects(model)[0]
    request = request_of(subject.source, settings)
    there = scores_there(output, subject.source, settings, request, resume=resume, overwrite=overwrite)
    # Batches need padding; the model was trained with any other special token that a task needs.
    tokenizer = subject.tokenizer("pad")
    data = read_examples(
        get_task(settings.task),
        settings.files,
        columns=settings.columns,
        repair=settings.repair,
        positive=settings.positive_label,
        errors=settings.errors,
    )
    if request_of(subject.source, settings) != request:
        names = ", ".join(map(str, settings.files.values()))
        raise CorpusError(f"{names}: a file, or the model, changed while it was read; run the command again")
    return subject, tokenizer, data, request, there


def _head_note(source: str) -> list[str]:
    head = head_of(source)
    return [] if head is None else [f"the model was already fine-tuned ({head}); its head is replaced by a new one"]


def _check_compatible(
    subject: Subject, tokenizer: PreTrainedTokenizerBase, data: Data, longest: int, settings: FinetuneSettings
) -> None:
    """Check that the model accepts the first examples, and that its heads can be guided.

    Raises:
        GuidanceError: they are incompatible.
    """
    untrained = new_model(data, subject.source, settings.fit)
    try_out(untrained, data, encode(data, data.splits["train"][:2], tokenizer, longest, overlap=False), tokenizer)
    if settings.fit.heads:
        guide(untrained, settings.fit.heads, settings.fit.weight, tokenizer=tokenizer).remove()


def _length_and_rates(
    settings: FinetuneSettings, subject: Subject, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, list[float]]:
    """Maximum tokens of an item and the learning rates to try: as requested, or by default what suits the model.

    Raises:
        ConfigError: the model accepts fewer tokens than requested.
    """
    encoder = subject.load()
    longest = settings.max_length or USUAL_LENGTH
    limit = longest_sequence(encoder, tokenizer, longest)
    if settings.max_length is not None and settings.max_length > limit:
        raise ConfigError(f"max_length={settings.max_length}: this model takes at most {limit} tokens")
    width = getattr(encoder.config, "hidden_size", _SMALL + 1)
    return min(longest, limit), [*map(float, settings.learning_rates)] or [*LEARNING_RATES[width < _SMALL]]


def _add_baseline(there: dict[str, Any], folder: Output, data: Data, steps: Steps) -> dict[str, Any]:
    """Add the baseline to existing results and write them again."""
    notes = [*there["notes"]]
    with steps:
        baseline = _baseline(data, steps, notes.append)
    # A baseline that failed before is noted only once.
    found = there | {"baseline": baseline and baseline.facts, "notes": [*dict.fromkeys(notes)]}
    return outcome.write_results(folder, found, data, baseline)


def _baseline(data: Data, steps: Steps, note: Callable[[str], None]) -> Baseline | None:
    """Fit the baseline without pre-training; None, with a note, if it cannot be fitted."""
    steps.begin("baseline without pre-training", None)
    try:
        return fit_baseline(data)
    except ValueError as error:  # a single label in training, texts without a character
        note(f"{NOT_FITTED} ({error})")
        return None
