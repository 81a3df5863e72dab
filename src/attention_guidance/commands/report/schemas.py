"""Types of the JSON files that studies read: results of probes, skill, finetune and runs, and the Trainer's log."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from attention_guidance.commands.setting import AT_LEAST_1, NOT_NEGATIVE, Rule

# Larger figures exceed the limits of renderers.
_MOST = 512

Count = Annotated[int, NOT_NEGATIVE]
Size = Annotated[int, AT_LEAST_1, Rule(f"must be at most {_MOST}", lambda value: value <= _MOST)]
Share = Annotated[float, Rule("must lie between 0 and 1", lambda value: 0 <= value <= 1)]
Direction = Literal["forward", "backward"]
NOT_EMPTY = Rule("must not be empty", bool)


class Estimate(TypedDict):
    """A value with its interval; null if unknown."""

    value: Share | None
    low: Share | None
    high: Share | None


class BestHead(Estimate):
    """The best head for a label."""

    layer: Count
    head: Count
    direction: Direction


class Baseline(Estimate):
    """The best baseline for a label."""

    name: str


class Label(TypedDict):
    """Scores on the questions of one label."""

    label: str
    questions: Count
    best: BestHead
    baseline: Baseline
    intervals_apart: bool


class Baselines(TypedDict):
    """Baselines over all questions; further keys are rules of the task."""

    chance: Share | None


class ProbeCounts(TypedDict):
    """Numbers of texts and questions."""

    texts: Count
    questions: Count
    skipped_texts: dict[str, Count]


class ProbeContent(TypedDict):
    """The content of `probe.json` that the page shows."""

    schema_version: Literal[1]
    kind: Literal["probe"]
    task: Literal["reflexive", "coreference", "gap", "dependency"]
    model: str
    data: str
    protocol: str
    distractors: bool | str
    layers: Size
    heads: Size
    directions: Annotated[list[Direction], NOT_EMPTY]
    accuracy: dict[str, list[list[Share]]]
    max: Share | None
    mean: Share | None
    baselines: Baselines
    counts: ProbeCounts
    labels: Annotated[list[Label], NOT_EMPTY]


def _is_rectangular(probe: Any) -> bool:
    directions, rows = probe["directions"], [len(probe["accuracy"].get(name, ())) for name in probe["directions"]]
    columns = {len(row) for name in directions for row in probe["accuracy"].get(name, ())}
    return len({*directions}) == len(directions) and {*rows} == {probe["layers"]} and columns == {probe["heads"]}


_RECTANGULAR = Rule("must have an accuracy for each direction, layer and head", _is_rectangular)
ProbeResult = Annotated[ProbeContent, _RECTANGULAR]


class PairsAccuracy(TypedDict):
    """An accuracy on minimal pairs; its interval is null if there are too few."""

    value: Share
    low: Share | None
    high: Share | None
    pairs: Count


class PairsGroup(PairsAccuracy):
    """That of a field, phenomenon or paradigm."""

    name: str


class PairsSnapshot(TypedDict):
    """The accuracies of one model."""

    model: str
    step: Count | None
    skipped: Count
    accuracy: PairsAccuracy
    fields: list[PairsGroup]
    phenomena: list[PairsGroup]
    paradigms: Annotated[list[PairsGroup], NOT_EMPTY]


class PairsResult(TypedDict):
    """The content of `minimal_pairs.json` that the page shows."""

    schema_version: Literal[1]
    kind: Literal["minimal_pairs"]
    model: str
    data: str
    pairs: Count
    snapshots: Annotated[list[PairsSnapshot], NOT_EMPTY]


class Point(TypedDict):
    """A checkpoint in `skill.json`: accuracies over heads, or that of the model."""

    run: str
    step: Count
    loss: float
    max: NotRequired[Share]
    mean: NotRequired[Share]
    accuracy: NotRequired[Share]
    chance: Share


class Correlation(TypedDict):
    """A rank correlation, of one run or (null) of all."""

    run: str | None
    measure: Literal["max", "mean", "accuracy"]
    spearman: float | None


class SkillContent(TypedDict):
    """The content of `skill.json` that the page shows."""

    schema_version: Literal[1]
    kind: Literal["skill"]
    task: Literal["reflexive", "coreference", "gap", "dependency", "minimal-pairs"]
    data: str
    runs: Annotated[list[str], NOT_EMPTY]
    points: Annotated[list[Point], NOT_EMPTY]
    correlations: list[Correlation]


def _has_overall(skill: Any) -> bool:
    """Whether what the points measure is what is correlated over all runs."""
    overall = {item["measure"] for item in skill["correlations"] if item["run"] is None}
    return bool(overall) and all(overall == {*_MEASURES} & {*point} for point in skill["points"])


_MEASURES = ("max", "mean", "accuracy")
SkillResult = Annotated[SkillContent, Rule("must have a correlation of each measure over all runs", _has_overall)]


class Score(TypedDict):
    """The score of a fine-tuned model over seeds."""

    mean: float | None
    seeds: Count


class FinetuneResult(TypedDict):
    """The content of `finetune.json` that the page shows."""

    schema_version: Literal[1]
    kind: Literal["finetune"]
    task: str
    model: str
    scores: dict[str, Score]


class LogEntry(TypedDict):
    """An entry of the Trainer's log."""

    step: Count
    eval_loss: NotRequired[float | None]
    guidance: NotRequired[float | None]


class TrainerLog(TypedDict):
    """The content of `trainer_state.json` that is read back."""

    log_history: list[LogEntry]


class CurvePoint(TypedDict):
    """The validation loss at one step."""

    step: Count
    loss: float | None


class RunResults(TypedDict):
    """The content of `results.json` of a run that is read back."""

    final_loss: NotRequired[float | None]
    curve: NotRequired[list[CurvePoint] | None]
