"""Custom objectives: a user's function masks tokens and returns the labels.

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

# Ids [T], positions that may be changed [N], the tokenizer, a random generator -> ids [T] and labels [T].
OwnFunction = Callable[["NDArray[np.int64]", "NDArray[np.intp]", "PreTrainedTokenizerBase", np.random.Generator], Any]


def load_own(objective: str) -> OwnFunction:
    """Load the function `objective.py:function`.

    Raises:
        ConfigError: There is no such function, or its file fails to run.
    """
    file, _, name = objective.rpartition(":")
    if not Path(file).is_file():
        raise ConfigError(f"objective={objective!r}: no such file {file}")
    # The file can import modules in its folder, as a script can.
    folder = str(Path(file).resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        function = runpy.run_path(file).get(name)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ConfigError(f"objective={objective!r}: {file} fails: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise ConfigError(f"objective={objective!r}: {file} has no function {name!r}")
    return function  # type: ignore[no-any-return]


class OwnCorruption:
    """A user's function as a `Corruption`: called for each sequence, with its result checked.

    Args:
        name: Name of the objective, for error messages.
        function: Takes ids [T], the positions that may be changed [N], the tokenizer and a random generator; returns
            ids [T] and labels [T], -100 where nothing is predicted.
        tokenizer: The tokenizer of the run.
    """

    def __init__(self, name: str, function: OwnFunction, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name = name
        self.function = function
        self.tokenizer = tokenizer
        self._special = np.array(sorted(tokenizer.all_special_ids))
        self._n_ids = vocabulary_size(tokenizer)

    def __reduce__(self) -> tuple[Any, ...]:
        # Data loader workers load the function again: it is in no module, so it cannot be pickled.
        return _load_corruption, (self.name, self.tokenizer)

    def __call__(
        self,
        ids_T: NDArray[np.integer[Any]],
        length: int,
        generator: np.random.Generator,
        rate: float | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Call the function for one sequence.

        Raises:
            ConfigError: The function fails, or does not return two arrays of ids of the vocabulary, as long as the
                sequence, with at least one label.
        """
        candidates_N = np.flatnonzero(~np.isin(ids_T[:length], self._special))
        try:
            result = self.function(ids_T.astype(np.int64), candidates_N, self.tokenizer, generator)
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            frames = traceback.extract_tb(error.__traceback__)
            inside = [frame for frame in frames if frame.filename == self.name.rpartition(":")[0]]
            where = f" at {inside[-1].filename}:{inside[-1].lineno}" if inside else ""
            raise ConfigError(f"objective={self.name!r} fails{where}: {type(error).__name__}: {error}") from error
        try:
            inputs_T, labels_T = (np.asarray(row) for row in result)
        except (TypeError, ValueError) as error:
            raise self._invalid(f"returned {type(result).__name__}") from error
        for row in (inputs_T, labels_T):
            if row.shape != ids_T.shape or not np.issubdtype(row.dtype, np.integer):
                raise self._invalid(f"returned {row.dtype} of shape {row.shape}")
        for what, row in (("ids", inputs_T), ("labels", labels_T[labels_T != IGNORED])):
            if len(row) and not 0 <= row.min() <= row.max() < self._n_ids:
                raise ConfigError(
                    f"objective={self.name!r} returned {what} from {row.min()} to {row.max()}; the vocabulary has ids "
                    f"0 to {self._n_ids - 1}"
                )
        if len(candidates_N) and (labels_T == IGNORED).all():
            raise self._invalid("returned no label, so there is nothing to predict")
        return inputs_T.astype(np.int64), labels_T.astype(np.int64)

    def _invalid(self, what: str) -> ConfigError:
        return ConfigError(f"objective={self.name!r} {what}; it must return ids and labels, integers of shape (T,)")


def _load_corruption(name: str, tokenizer: PreTrainedTokenizerBase) -> OwnCorruption:
    return OwnCorruption(name, load_own(name), tokenizer)
