"""An objective of the user's own: a function that hides or changes tokens and says what is to be named.

Shape suffixes: T positions, N candidates.
"""

from __future__ import annotations

import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_guidance.commands.objectives.masking import IGNORED
from attention_guidance.commands.tokenization.byte_level import vocabulary_size
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

# Ids [T], positions that may be changed [N], the tokenizer, a source of chance -> ids [T] and labels [T].
OwnFunction = Callable[["NDArray[np.int64]", "NDArray[np.intp]", "PreTrainedTokenizerBase", np.random.Generator], Any]


def load_own(objective: str) -> OwnFunction:
    """The function that `objective.py:function` names.

    Raises:
        ConfigError: there is none, or its file cannot be run.
    """
    file, _, name = objective.rpartition(":")
    if not Path(file).is_file():
        raise ConfigError(f"objective={objective!r}: there is no file {file}")
    # What lies beside the file can be imported, as from a script.
    beside = str(Path(file).resolve().parent)
    if beside not in sys.path:
        sys.path.insert(0, beside)
    try:
        function = runpy.run_path(file).get(name)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ConfigError(f"objective={objective!r}: {file} fails: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise ConfigError(f"objective={objective!r}: {file} has no function {name!r}")
    return function  # type: ignore[no-any-return]


class OwnCorruption:
    """A user's function as a `Corruption`: asked for each sequence, and its answer looked at.

    Args:
        name: what it is called, for messages.
        function: takes ids [T], the positions that may be changed [N], the tokenizer and a source of chance; gives ids
            [T] and labels [T], -100 where nothing is to be predicted.
        tokenizer: the run's.
    """

    def __init__(self, name: str, function: OwnFunction, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name = name
        self.function = function
        self.tokenizer = tokenizer
        self._special = np.array(sorted(tokenizer.all_special_ids))
        self._n_ids = vocabulary_size(tokenizer)

    def __reduce__(self) -> tuple[Any, ...]:
        # Processes that load data load the function anew: what a file has been run for is in no module.
        return _loaded, (self.name, self.tokenizer)

    def __call__(
        self,
        ids_T: NDArray[np.integer[Any]],
        length: int,
        generator: np.random.Generator,
        rate: float | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ask for one sequence.

        Raises:
            ConfigError: the function fails, or the answer is not two rows of as many whole numbers of the vocabulary,
                or has nothing to predict.
        """
        candidates_N = np.flatnonzero(~np.isin(ids_T[:length], self._special))
        try:
            answer = self.function(ids_T.astype(np.int64), candidates_N, self.tokenizer, generator)
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            frames = traceback.extract_tb(error.__traceback__)
            inside = [frame for frame in frames if frame.filename == self.name.rpartition(":")[0]]
            where = f" at {inside[-1].filename}:{inside[-1].lineno}" if inside else ""
            raise ConfigError(f"objective={self.name!r} fails{where}: {type(error).__name__}: {error}") from error
        try:
            inputs_T, labels_T = (np.asarray(row) for row in answer)
        except (TypeError, ValueError) as error:
            raise self._wrong(f"gave {type(answer).__name__}") from error
        for row in (inputs_T, labels_T):
            if row.shape != ids_T.shape or not np.issubdtype(row.dtype, np.integer):
                raise self._wrong(f"gave {row.dtype} of shape {row.shape}")
        for what, row in (("ids", inputs_T), ("labels", labels_T[labels_T != IGNORED])):
            if len(row) and not 0 <= row.min() <= row.max() < self._n_ids:
                raise ConfigError(
                    f"objective={self.name!r} gave {what} from {row.min()} to {row.max()}; those of the vocabulary go "
                    f"from 0 to {self._n_ids - 1}"
                )
        if len(candidates_N) and (labels_T == IGNORED).all():
            raise self._wrong("gave no label, so that there is nothing to learn")
        return inputs_T.astype(np.int64), labels_T.astype(np.int64)

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"objective={self.name!r} {what}; it must give ids and labels, whole numbers of shape (T,)")


def _loaded(name: str, tokenizer: PreTrainedTokenizerBase) -> OwnCorruption:
    return OwnCorruption(name, load_own(name), tokenizer)
