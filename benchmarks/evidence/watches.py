"""What is measured during training, without changing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.analysis.census import take_census
from attention_guidance.commands.annotations.minimal_pairs import MinimalPair, read_minimal_pairs
from attention_guidance.commands.probes.pseudo_likelihood import pseudo_log_likelihoods

if TYPE_CHECKING:
    from attention_guidance.commands.pretraining.run import Run

#: The patterns that are looked for.
PATTERNS = ("next", "previous", "first", "same", "delimiter", "period")
_SEQUENCES = 16
# Of each paradigm.
_PAIRS = 20


class Watch(TrainerCallback):  # type: ignore[misc]
    """Measure a model at steps that the watch chooses, and at the end.

    Args:
        run: The run, before it trains.
        data: Folder of texts.

    Attributes:
        found: What is kept in the results.
    """

    found: Any

    def __init__(self, run: Run, data: Path) -> None:
        self.run, self.data = run, data
        self.total = run.config.max_steps
        self.begin()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure before the step."""
        if self.wants(state.global_step):
            self.measure(self._copy(), state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the trained model."""
        self.measure(self._copy(), state.global_step)

    def _copy(self) -> PreTrainedModel:
        """The model as it is now, without guidance; the random numbers of training stay as they are."""
        with torch.random.fork_rng(devices=[]):
            copy = self.run.objective.new_model(self.run.model.config)
        copy.load_state_dict(self.run.model.state_dict())
        return copy.eval()

    def begin(self) -> None:
        """Set up."""
        raise NotImplementedError

    def wants(self, step: int) -> bool:
        """Whether to measure before this step."""
        raise NotImplementedError

    def measure(self, model: PreTrainedModel, step: int) -> None:
        """Measure, and add to what is found."""
        raise NotImplementedError


class CensusWatch(Watch):
    """The mass of each head on each pattern, every few steps in the first third, then less often."""

    def begin(self) -> None:
        """See `Watch`."""
        blocks = self.run.data.validation
        self.ids_BT = torch.stack([torch.from_numpy(blocks[n][0].astype("int64")) for n in range(_SEQUENCES)])
        self.found = {"patterns": list(PATTERNS), "snapshots": []}

    def wants(self, step: int) -> bool:
        """See `Watch`: every 60th of the first third, then every 30th."""
        return step % max(1, self.total // (60 if step <= self.total // 3 else 30)) == 0

    def measure(self, model: PreTrainedModel, step: int) -> None:
        """See `Watch`."""
        census = take_census(model, {"input_ids": self.ids_BT}, PATTERNS, tokenizer=self.run.data.tokenizer)
        self.found["uniform"] = census.uniform_mass.mean(0).round(4).tolist()
        self.found["snapshots"].append({"step": step, "mass": census.mass.value.round(4).tolist()})


class PairsWatch(Watch):
    """The share of minimal pairs of which the model prefers the acceptable sentence, at each fifth of the run."""

    def begin(self) -> None:
        """See `Watch`."""
        by_paradigm: dict[str, list[MinimalPair]] = {}
        for pair in read_minimal_pairs(self.data / "blimp"):
            by_paradigm.setdefault(pair.paradigm, []).append(pair)
        pairs = [pair for of_one in by_paradigm.values() for pair in of_one[:_PAIRS]]
        self.sentences = [sentence for pair in pairs for sentence in (pair.good, pair.bad)]
        self.found = {"pairs": len(pairs), "snapshots": []}

    def wants(self, step: int) -> bool:
        """See `Watch`."""
        return step > 0 and step % max(1, self.total // 5) == 0

    def measure(self, model: PreTrainedModel, step: int) -> None:
        """See `Watch`."""
        scores = pseudo_log_likelihoods(model, self.run.data.tokenizer, self.sentences)
        right = [0.5 if good == bad else float(good > bad) for good, bad in zip(scores[::2], scores[1::2], strict=True)]
        self.found["snapshots"].append({"step": step, "right": round(sum(right) / len(right), 4)})


WATCHES: dict[str, Callable[[Any, Path], Watch]] = {"census": CensusWatch, "pairs": PairsWatch}
