"""What a fine-tuning saves so that it can be resumed: each finished fit, and in the end the scores."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict, cast

from attention_guidance.commands import results
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.fits.fit import Fit
from attention_guidance.commands.finetuning.fits.new_model import new_model
from attention_guidance.commands.finetuning.settings import FitSettings
from attention_guidance.commands.pretraining.saving.checkpoints import damage, write_whole
from attention_guidance.commands.pretraining.settings.arguments import best_device
from attention_guidance.commands.reading.json_files import read_json
from attention_guidance.commands.setting import AT_LEAST_1, Rule
from attention_guidance.commands.workspace import FINE_TUNING, State, Workspace
from attention_guidance.errors import CorpusError, RunError, SaveError
from attention_guidance.files import remove

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from attention_guidance.commands.finetuning.examples.data import Data
    from attention_guidance.commands.finetuning.settings import FinetuneSettings

logger = logging.getLogger(__name__)

FINETUNE_FILE = FINE_TUNING.finished
MODEL_FOLDER = "model"
#: Beginning of the note on a baseline that was asked for.
NOT_FITTED = "the baseline without pre-training could not be fitted"
# Settings that decide which fits there are, but not the result of each.
_NOT_OF_ONE_FIT = ("seeds", "seed", "learning_rates", "baseline")
_FACTS = "fit.json"
# Files that define a model; a checkpoint also has the optimizer's state.
_OF_MODEL = ("*.safetensors", "*.bin", "config.json", "token*", "vocab*", "merges.txt", "spiece.model")


@dataclass(frozen=True)
class Request:
    """What results belong to: hashes that include the contents of the model and the files at one time.

    Attributes:
        whole: of the whole request except the baseline.
        of_fit: of what decides a single fit, except learning rate and seed, which are in the fit's name.
    """

    whole: str
    of_fit: str


def request_of(source: str, settings: FinetuneSettings) -> Request:
    """The request for the current contents of the model and the files."""
    folder = Path(source)
    weights = {file.name: _digest(file) for pattern in _OF_MODEL for file in folder.glob(pattern) if file.is_file()}
    asked = dataclasses.asdict(settings) | {
        "model": weights or source,
        "baseline": None,
        "learning_rates": [*map(float, settings.learning_rates)],
        "columns": [*map(str, settings.columns or ())],
        "files": digests(settings.files),
    }
    of_fit = {name: value for name, value in asked.items() if name not in _NOT_OF_ONE_FIT}
    return Request(_digest_of(asked), _digest_of(of_fit))


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """A digest of the contents of each file."""
    return {split: _digest(file) for split, file in files.items()}


def check_unchanged(files: Mapping[str, Path], before: dict[str, str]) -> None:
    """Check that files still have the contents that were read.

    Args:
        files: the files of a task.
        before: their `digests` when they were read first.

    Raises:
        CorpusError: a file has changed.
    """
    now = digests(files)
    if changed := [str(files[split]) for split in files if now[split] != before[split]]:
        raise CorpusError(f"{changed[0]}: the file changed while the command read it; run the command again")


def _digest_of(asked: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=16).hexdigest()


def scores_there(
    output: Path, source: str, settings: FinetuneSettings, request: Request, *, resume: bool, overwrite: bool
) -> dict[str, Any] | None:
    """Existing scores of the same request, or None; also None, with a warning, if their model is missing or damaged.

    Args:
        output: the folder of a fine-tuning, see `Workspace.claim`.
        source: the folder or name of the model.
        settings: the task and training settings.
        request: what is asked for.
        resume: use existing results of the same request.
        overwrite: allow replacing results of another request.

    Raises:
        RunError: the folder holds results that may not be replaced, or something else.
    """
    content: Any = None

    def other() -> str | None:
        nonlocal content
        what = "{} of another model, other files or settings"
        if not (output / FINETUNE_FILE).exists():
            kept = KeptFits(output, request)
            return what.format("unfinished fits") if kept.others else None
        content = finished_request(output)
        if content is None or content.get("request") != request.whole:
            return what.format("scores")
        if settings.baseline and get_task(settings.task).is_combined and _never_had_baseline(content):
            return "scores without a baseline, and the fits to combine with one are gone"
        return None

    state = Workspace(output, FINE_TUNING).claim(resume=resume, overwrite=overwrite, other=other, uses=[source])
    if state is not State.FINISHED:
        return None
    if (problem := damage(output / MODEL_FOLDER)) is not None:
        logger.warning("%s is damaged (%s); fine-tuning again", output / MODEL_FOLDER, problem)
        return None
    return cast("dict[str, Any]", content)


def _never_had_baseline(content: dict[str, Any]) -> bool:
    return content.get("baseline") is None and not any(str(note).startswith(NOT_FITTED) for note in content["notes"])


def finished_request(output: Path) -> Any:
    """The content of the scores in a folder; None if they are damaged."""
    try:
        return read_json(output / FINETUNE_FILE, dict[str, Any])
    except RunError:
        return None


def facts_of(folder: Path) -> Fit | None:
    """The facts of a fit in a folder; None if they are damaged."""
    try:
        facts = read_json(folder / _FACTS, _Facts)
    except RunError:
        return None
    return Fit(**{name: facts.get(name) for name in _Facts.__annotations__})


class _Facts(TypedDict):
    """The fields of `Fit`."""

    epoch: Annotated[int, AT_LEAST_1]
    dev: Annotated[list[dict[str, float | None]], Rule("must not be empty", bool)]
    seconds: float
    tokens_per_second: float
    threshold: NotRequired[float | None]


class KeptFits:
    """Fits of an unfinished fine-tuning, saved with their models so that only one model is in memory at a time.

    Args:
        output: the output folder.
        request: fits of other requests are ignored.
    """

    def __init__(self, output: Path, request: Request) -> None:
        self.output, self.folder = output, output / "fits" / request.of_fit

    def take_up(self, *, resume: bool, overwrite: bool) -> None:
        """Start from the saved fits, or without any.

        Args:
            resume: use saved fits; otherwise remove them.
            overwrite: remove fits of other requests.
        """
        for folder in self.others if overwrite else ():
            remove(folder)
        if not resume:
            self.forget()

    @property
    def others(self) -> list[Path]:
        """Folders of fits of other requests."""
        return [path for mark in FINE_TUNING.begun for path in self.output.glob(mark) if path != self.folder]

    def get(self, name: str) -> Fit | None:
        """Load a saved fit; None if it is missing or, with a warning, damaged."""
        folder = self.folder / name
        if not folder.exists():
            return None
        if (problem := damage(folder)) is not None:
            logger.warning("the fit %s is damaged (%s); fitting again", folder, problem)
            return None
        return facts_of(folder)

    def load(self, name: str, data: Data, settings: FitSettings) -> PreTrainedModel:
        """Load the model of a saved fit, on the best available device."""
        model: Any = new_model(data, str(self.folder / name), settings, fresh=False)
        moved: PreTrainedModel = model.to(best_device())
        return moved.eval()

    def put(self, name: str, fit: Fit, model: PreTrainedModel) -> None:
        """Save a fit and its model."""

        def write(folder: Path) -> None:
            model.save_pretrained(folder)
            results.write_json(folder / _FACTS, dataclasses.asdict(fit))

        write_model(self.folder / name, write)

    def forget(self) -> None:
        """Remove all saved fits."""
        remove(self.folder)
        if self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()


def write_fine_tuned(
    target: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
    more: Callable[[Path], None],
) -> None:
    """Save a finished model with its tokenizer, set to truncate and read special tokens as in fine-tuning.

    The saved tokenizer truncates at the same length, and reads the name of a special token, such as [SEP], as text.

    Args:
        target: the folder.
        model: the model.
        tokenizer: the tokenizer of fine-tuning; not modified.
        longest: maximum tokens of an item.
        more: writes the other files of the folder.

    Raises:
        SaveError: the folder cannot be written.
    """
    own = copy.deepcopy(tokenizer)
    own.model_max_length = longest
    own.split_special_tokens = own.init_kwargs["split_special_tokens"] = True  # `init_kwargs` is what gets saved

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        own.save_pretrained(folder)
        more(folder)

    write_model(target, write)


def write_model(target: Path, write: Callable[[Path], None]) -> None:
    """Call `write_whole`; its error says how to continue.

    Raises:
        SaveError: the folder cannot be written.
    """
    try:
        write_whole(target, write)
    except SaveError as error:
        raise SaveError(f"{error}; once it can be written, run the same command with `resume`") from error.__cause__


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise CorpusError(f"{file}: cannot be read ({error.strerror}); give a readable file") from error
