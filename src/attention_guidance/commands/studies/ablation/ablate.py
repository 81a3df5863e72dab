"""`attention-guidance ablate`: the loss of a masked language model without each of its heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attention_guidance.analysis.ablation import Ablation, ablate, check_greedy
from attention_guidance.analysis.census import Census, Estimate, take_census
from attention_guidance.analysis.without_heads import HeadRemoval, Place, To, check_targets, pattern_in_place
from attention_guidance.commands import results
from attention_guidance.commands.memory import names_batch_size
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.printing import Console
from attention_guidance.commands.report.figures.ablation import all_figures
from attention_guidance.commands.studies.ablation.samples import Sample, pair_sample, text_sample
from attention_guidance.commands.studies.ablation.table import ablation_rows, report
from attention_guidance.commands.studies.census import named_patterns
from attention_guidance.commands.studies.models import subjects
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.studies.progress import Steps
from attention_guidance.commands.studies.sample import Text, batches
from attention_guidance.commands.tokenization.byte_level import FOR_BLOCKS
from attention_guidance.errors import ConfigError
from attention_guidance.patterns import Pattern

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ABLATION_FILE = "ablate.json"
ABLATION_TABLE = "ablate.csv"
#: The tasks.
LOSS, PAIRS = "loss", "minimal-pairs"
#: `to` with this value puts each head's own pattern in its place.
OWN_PATTERN = "pattern"
_NO_PATTERN = ("zero", "mean", OWN_PATTERN)


@dataclass(frozen=True)
class AblationSettings:
    """Settings of an ablation.

    Attributes:
        task: `loss`, that of masked tokens in nats, or `minimal-pairs`, the share of pairs that the model gets wrong.
        to: what is in place of a removed head's output: `zero`, `mean`, `pattern` (its own: that it was guided toward,
            or the one closest by squared error), or the name of one pattern for all heads.
        tokens: number of tokens to sample for `loss`, special tokens included.
        block_size: tokens per block for `loss` (default: 128, or the model's maximum if smaller).
        pairs: number of pairs to sample for `minimal-pairs`.
        batch_size: blocks per forward pass; pairs per batch.
        seed: seed of the sample, the masks and the bootstrap.
        greedy: number of heads to remove one after another; True for all of them.

    Raises:
        ConfigError: an unknown task, or one that `to` is not for.
    """

    task: str = LOSS
    to: str = "zero"
    tokens: int = 20_000
    block_size: int | None = None
    pairs: int = 200
    batch_size: int = 16
    seed: int = 1
    greedy: int | bool | None = None

    def __post_init__(self) -> None:
        if self.task not in (LOSS, PAIRS):
            raise ConfigError(f"task={self.task!r} must be {LOSS} or {PAIRS}")
        if self.task == PAIRS and self.to == "mean":
            raise ConfigError(f"to='mean' is the mean over masked text; with task={PAIRS!r}, give zero or a pattern")


@until_done()
@names_batch_size
def ablate_heads(
    model: str,
    text: Text,
    output: Path,
    settings: AblationSettings | None = None,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure the loss without each head, and write the results.

    Args:
        model: folder of a masked language model or run, or a name on the Hugging Face hub.
        text: the text to measure the loss on, or the file or folder of minimal pairs.
        output: folder for `ablate.json`, `ablate.csv` and the figures.
        settings: settings of the ablation (default: `AblationSettings()`).
        overwrite: whether to replace an existing ablation in the folder.
        quiet: whether to print nothing.

    Returns:
        The content of `ablate.json`.

    Raises:
        GuidanceError: bad input.
    """
    folder = Output.of_study(output, ABLATION_FILE, overwrite)
    console = Console(quiet=quiet)
    with Steps(console, quiet) as steps:
        content = _measured(model, text, settings or AblationSettings(), steps)
    folder.csv(ABLATION_TABLE, ablation_rows(content))
    for name, figure in all_figures(content).items():
        folder.figure(name, figure)
    folder.json(ABLATION_FILE, content)
    report(console, content)
    console.print(f"results: {folder.path / ABLATION_FILE}, {ABLATION_TABLE}; figures are beside them")
    return content


def _measured(model: str, text: Text, settings: AblationSettings, steps: Steps) -> dict[str, Any]:
    (subject,) = subjects(model)
    tokenizer = subject.tokenizer("mask", *FOR_BLOCKS)
    to: To = settings.to if settings.to in _NO_PATTERN else pattern_in_place(settings.to, tokenizer)
    loaded = subject.load_masked_lm("heads are ablated in")
    # Whatever cannot be ablated is refused before anything is measured.
    removal = HeadRemoval(loaded)
    greedy = len(removal.places) if settings.greedy is True else int(settings.greedy or 0)
    check_greedy(removal, greedy)
    steps.begin("drawing a sample", None)
    sample = _sample(text, loaded, tokenizer, settings)
    if isinstance(to, Pattern):
        check_targets(loaded, to, batches(sample.blocks, settings.batch_size))
    guided = subject.guided_patterns(tokenizer)
    patterns = {pattern.name: pattern for pattern in [*named_patterns((), tokenizer), *guided.values()]}
    steps.begin("finding the pattern of each head", len(sample.blocks))
    looked_at = batches(sample.blocks, settings.batch_size)
    taken = take_census(loaded.base_model, looked_at, patterns.values(), progress=steps.at)
    if to == OWN_PATTERN:
        to = _own_patterns(taken, patterns, guided)
    found = _ablated(loaded, sample, to, greedy, settings, taken, steps)
    toward = {place: pattern.name for place, pattern in guided.items()}
    return {
        **results.header("ablate"),
        "model": subject.name,
        "corpus": sample.corpus,
        "task": settings.task,
        "sample": sample.facts,
        "to": settings.to,
        "loss": _estimate(found.loss),
        "heads": list(_heads(found, taken, toward, to)),
        "groups": _groups(found, taken, toward),
        "greedy": list(_curve(found)) if settings.greedy else None,
    }


def _sample(
    text: Text, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: AblationSettings
) -> Sample:
    how = {"batch_size": settings.batch_size, "seed": settings.seed}
    if settings.task == LOSS:
        return text_sample(text, model, tokenizer, tokens=settings.tokens, block_size=settings.block_size, **how)
    if len(text.files) != 1:
        raise ConfigError(f"task={PAIRS!r} needs one file or folder of pairs, not {len(text.files)}")
    return pair_sample(Path(text.files[0]), model, tokenizer, n_pairs=settings.pairs, **how)


def _own_patterns(
    taken: Census, patterns: Mapping[str, Pattern], guided: Mapping[Place, Pattern]
) -> dict[Place, Pattern]:
    """The pattern of each head: that it was guided toward, or the one closest to it by squared error."""
    closest_LH = np.nan_to_num(taken.squared_error.value, nan=np.inf).argmin(-1)
    closest = {place: patterns[taken.patterns[p]] for place, p in np.ndenumerate(closest_LH)}
    return {(layer, head): guided.get((layer, head), pattern) for (layer, head), pattern in closest.items()}


def _ablated(
    model: PreTrainedModel,
    sample: Sample,
    to: To,
    greedy: int,
    settings: AblationSettings,
    taken: Census,
    steps: Steps,
) -> Ablation:
    n_heads = taken.n_layers * taken.n_heads
    passes = len(sample.given) * (n_heads + sum(n_heads - n for n in range(1, greedy)))
    steps.begin(f"measuring the {settings.task} without each of {n_heads} heads", passes)
    how: dict[str, Any] = {"greedy": greedy, "seed": settings.seed, "progress": steps.at}
    return ablate(model, sample.given, to, measure=sample.measure, **how)


def _heads(found: Ablation, taken: Census, toward: Mapping[Place, str], to: To) -> Iterator[dict[str, Any]]:
    followed, difference = taken.followed(), found.difference
    for layer, head in np.ndindex(taken.n_layers, taken.n_heads):
        name = followed[layer][head]
        by = to.get((layer, head)) if isinstance(to, Mapping) else to if to not in ("zero", "mean") else None
        yield {
            "layer": layer,
            "head": head,
            "difference": _estimate(difference, layer, head),
            "follows": name,
            "mass": None if name is None else float(taken.mass.value[layer, head, taken.patterns.index(name)]),
            "guided_toward": toward.get((layer, head)),
            "replaced_by": None if by is None else str(by),
        }


def _groups(found: Ablation, taken: Census, toward: Mapping[Place, str]) -> dict[str, Any] | None:
    """What guided heads are worth on average, or heads that follow a pattern if none was guided, against the others."""
    chosen_LH = np.zeros((taken.n_layers, taken.n_heads))
    for layer, head in np.ndindex(chosen_LH.shape):
        chosen_LH[layer, head] = (layer, head) in toward if toward else taken.followed()[layer][head] is not None
    n_chosen = int(chosen_LH.sum())
    if n_chosen in (0, chosen_LH.size):
        return None
    these_LH, others_LH = chosen_LH / n_chosen, (1 - chosen_LH) / (chosen_LH.size - n_chosen)
    return {
        "by": "guided_toward" if toward else "follows",
        "heads": n_chosen,
        "mean": _estimate(found.weighted(these_LH)),
        "others": _estimate(found.weighted(others_LH)),
        "gap": _estimate(found.weighted(these_LH - others_LH)),
    }


def _curve(found: Ablation) -> Iterator[dict[str, Any]]:
    curve, loss = found.curve, float(found.loss.value)
    for number, (layer, head) in enumerate(found.order):
        difference = _estimate(curve, number)
        yield {"layer": layer, "head": head, "loss": loss + difference["value"], "difference": difference}


def _estimate(of: Estimate, *place: int) -> dict[str, float]:
    return {end: float(getattr(of, end)[place]) for end in ("value", "low", "high")}
