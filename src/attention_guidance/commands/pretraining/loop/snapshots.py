"""Snapshots of attention during training: the maps of a few heads on one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypedDict

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments

from attention_guidance.analysis.maps import attention_maps
from attention_guidance.assignment import GuidedHead
from attention_guidance.commands.reading.json_files import read_json
from attention_guidance.commands.results import write_json
from attention_guidance.commands.setting import NOT_NEGATIVE

_LONGEST = 24


def chosen_heads(guided: tuple[GuidedHead, ...], n_layers: int, n_heads: int) -> list[dict[str, Any]]:
    """Choose a guided head of each pattern and an unguided head, in the middle layer or the nearest guided layer."""
    middle = n_layers // 2
    by_pattern: dict[str, GuidedHead] = {}
    for head in sorted(guided, key=lambda head: (abs(head.layer - middle), head.layer, head.head)):
        by_pattern.setdefault(head.pattern.name, head)
    shown = [{"layer": head.layer, "head": head.head, "pattern": name} for name, head in by_pattern.items()]
    taken = {(head.layer, head.head) for head in guided}
    free = next((head for head in range(n_heads) if (middle, head) not in taken), None)
    return [*shown[:6], *([{"layer": middle, "head": free, "pattern": None}] if free is not None else [])]


class _Map(TypedDict):
    """The map of a head."""

    layer: Annotated[int, NOT_NEGATIVE]
    head: Annotated[int, NOT_NEGATIVE]
    pattern: str | None
    weights: list[list[float]]


class _Snapshot(TypedDict):
    """The content of a file of a snapshot."""

    step: Annotated[int, NOT_NEGATIVE]
    share: float
    maps: list[_Map]


class AttentionSnapshots(TrainerCallback):  # type: ignore[misc]
    """Save the maps of some heads at the start, after 1 %, and at the end of a run.

    Args:
        folder: Folder to save to; when a run resumes, its earlier snapshots are kept.
        encoder: The encoder to inspect.
        ids_T: Token ids of the sentence, as from `shown_ids`.
        heads: Layer, head and pattern of each map.
        max_steps: Number of steps of the run.
    """

    def __init__(
        self, folder: Path, encoder: PreTrainedModel, ids_T: Tensor, heads: list[dict[str, Any]], max_steps: int
    ) -> None:
        self.folder = folder
        self.heads = heads
        self.shares = {0: 0.0, max(1, round(0.01 * max_steps)): 0.01, max_steps: 1.0}
        self.encoder = encoder
        self.ids_T = ids_T

    @staticmethod
    def shown_ids(text: str, tokenizer: PreTrainedTokenizerBase, longest: int) -> Tensor:
        """The token ids to show: the start of a text, no longer than the model supports."""
        at_most = min(_LONGEST, longest)
        ids_T: Tensor = tokenizer(text, truncation=True, max_length=at_most, return_tensors="pt")["input_ids"][0]
        return ids_T

    def on_train_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the first snapshot."""
        self._take(state.global_step)

    def on_step_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take a snapshot if one is due."""
        self._take(state.global_step)

    def _take(self, step: int) -> None:
        path = self.folder / f"step-{step}.json"
        if step not in self.shares or path.exists():
            return
        maps = attention_maps(self.encoder, self.ids_T)
        shown = [head | {"weights": maps[head["layer"], head["head"]].tolist()} for head in self.heads]
        write_json(path, {"step": step, "share": self.shares[step], "maps": _rounded(shown)})

    @staticmethod
    def load(folder: Path) -> list[dict[str, Any]]:
        """Load all snapshots in a folder, sorted by step."""
        taken = [read_json(path, _Snapshot) for path in folder.glob("step-*.json")]
        return sorted(taken, key=lambda snapshot: snapshot["step"])


def _rounded(maps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Round the weights to four decimals, more than a figure can show."""
    return [head | {"weights": [[round(w, 4) for w in row] for row in head["weights"]]} for head in maps]
