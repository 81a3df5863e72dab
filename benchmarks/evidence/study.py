"""What a study is: runs of `pretrain` as data, and the section of the page that their results give."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .defaults import outdated

# A run of ten seconds on one core. The learning rate is the better one of 1e-3 and 3e-3 for both arms.
BASE: dict[str, Any] = {
    "preset": "tiny", "layers": 2, "hidden": 64, "attention_heads": 4, "feed_forward": 256, "block_size": 64,
    "batch_size": 32, "max_steps": 300, "learning_rate": 3e-3, "vocab_size": 1024, "max_validation_tokens": 8192,
}  # fmt: skip
UNGUIDED = {"heads": ""}
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Spec:
    """A run: what decides its result.

    Attributes:
        settings: Settings of `pretrain` beside `BASE`; `None` leaves one at its default.
        seed: Seed of initial weights, order and masks.
        text: `bible` (embedded), a folder of ../shared/data, or images by their name in `images.py`.
        change: Name of a change to the model, see `changes.py`; empty for none.
        watch: Name of what is measured during training, see `watches.py`; empty for nothing.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 1
    text: str = "bible"
    change: str = ""
    watch: str = ""

    @property
    def flags(self) -> dict[str, Any]:
        """All settings."""
        return {name: value for name, value in (BASE | dict(self.settings)).items() if value is not None}

    @property
    def identity(self) -> dict[str, Any]:
        """What a result is kept under."""
        of_run = {"text": self.text, "seed": self.seed, "change": self.change, "watch": self.watch}
        return {"settings": self.flags} | of_run

    def but(self, **settings: Any) -> Spec:
        """The same run with other settings."""
        return Spec(dict(self.settings) | settings, self.seed, self.text, self.change, self.watch)

    @property
    def unguided(self) -> Spec:
        """The same run without guidance."""
        return self.but(**UNGUIDED)


Record = dict[str, Any]


def key_of(identity: Mapping[str, Any]) -> str:
    """A key for a dictionary, from the fields of a run or of its result."""
    wanted = {name: identity[name] for name in ("settings", "text", "seed", "change", "watch")}
    return json.dumps(wanted, sort_keys=True)


class Kept:
    """The results of runs that are kept."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._by_key: dict[str, Record] = {}
        for record in records:
            self.add(record)

    def __contains__(self, spec: Spec) -> bool:
        return key_of(spec.identity) in self._by_key

    def __getitem__(self, spec: Spec) -> Record:
        return self._by_key[key_of(spec.identity)]

    def __iter__(self) -> Iterator[Record]:
        return iter({id(record): record for record in self._by_key.values()}.values())

    @property
    def seeds(self) -> list[int]:
        """The seeds of all runs, those of `SEEDS` first."""
        return [*SEEDS, *sorted({record["seed"] for record in self} - {*SEEDS})]

    def add(self, record: Record) -> None:
        """Add the result of a run; one that was watched is also that of the run without."""
        self._by_key[key_of(record)] = record
        self._by_key.setdefault(key_of(record | {"watch": ""}), record)

    def of(self, specs: Iterable[Spec]) -> list[Record]:
        """The results of those runs that are kept."""
        return [self[spec] for spec in specs if spec in self]


def read(path: Path) -> Kept:
    """Read the results of all runs but those that were made with other defaults than today's."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
    return Kept(record for record in map(json.loads, lines) if not outdated(record))


def append(path: Path, record: Record) -> None:
    """Add the result of a run to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


@dataclass(frozen=True)
class Section:
    """What the results of a study say.

    Attributes:
        verdict: `holds`, `holds in part` or `does not hold here`.
        because: One sentence, with the numbers behind the verdict.
        tables: Markdown tables, each a list of rows of cells, with the heading first.
        figures: Matplotlib figures by name.
    """

    verdict: str
    because: str
    tables: Sequence[Sequence[Sequence[str]]] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A claim, the runs that test it, and the rule that decides.

    Attributes:
        name: Name on the command line.
        claim: What is claimed.
        method: How it is tested.
        rule: When the claim holds, in part or not here.
        not_tried: What the study leaves open.
        runs: The runs for some seeds; which ones may depend on the results so far, as in a search for a learning rate.
        section: What the results of these runs say.
        run_seconds: Seconds of a run where none is measured.
        seeds: Which seeds are run unless others are asked for.
    """

    name: str
    claim: str
    method: str
    rule: str
    not_tried: str
    runs: Callable[[Kept, Sequence[int]], list[Spec]]
    section: Callable[[Kept], Section]
    run_seconds: float = 13.0
    seeds: Sequence[int] = SEEDS

    def left(self, kept: Kept, seeds: Sequence[int] | None = None) -> list[Spec]:
        """The runs that are still to be made, as far as they are known now."""
        runs = {key_of(spec.identity): spec for spec in self.runs(kept, seeds or self.seeds)}
        return [spec for spec in runs.values() if spec not in kept]
