"""`attention-guidance ablate`: the loss of a masked language model without each of its heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attention_guidance.adapters import adapter_of
from attention_guidance.adapters.base import ABLATING
from attention_guidance.analysis.ablation import Ablation, ablate
from attention_guidance.analysis.census import Census, Estimate, take_census
from attention_guidance.analysis.intervals import FEWEST
from attention_guidance.analysis.without_heads import Place, To
from attention_guidance.commands import results
from attention_guidance.commands.memory import names_batch_size
from attention_guidance.commands.objectives.masked_head import MaskedHead
from attention_guidance.commands.objectives.masking import Masking
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.printing import Console
from attention_guidance.commands.report.figures.ablation import all_figures
from attention_guidance.commands.studies.ablation.table import ablation_rows, report
from attention_guidance.commands.studies.census import checked_block_size, named_patterns
from attention_guidance.commands.studies.models import subjects
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.studies.progress import Steps
from attention_guidance.commands.studies.sample import Text, batches, sampled_blocks
from attention_guidance.commands.text.blocks import Blocks
from attention_guidance.errors import ConfigError, CorpusError
from attention_guidance.patterns import Pattern

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ABLATION_FILE = "ablate.json"
ABLATION_TABLE = "ablate.csv"
#: `to` with this value puts each head's own pattern in its place.
OWN_PATTERN = "pattern"


@dataclass(frozen=True)
class AblationSettings:
    """Settings of an ablation.

    Attributes:
        to: what is in place of a removed head's output: `zero`, `mean`, `pattern` (its own: that it was guided toward,
            or the one closest by squared error), or the name of one pattern for all heads.
        tokens: number of tokens to sample, special tokens included.
        block_size: tokens per block (default: 128, or the model's maximum if smaller).
        batch_size: blocks per forward pass.
        seed: seed of the sample, the masks and the bootstrap.
        greedy: number of heads to remove one after another; True for all of them.
    """

    to: str = "zero"
    tokens: int = 20_000
    block_size: int | None = None
    batch_size: int = 16
    seed: int = 1
    greedy: int | bool | None = None


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
        text: the text to measure the loss on.
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
    folder.json(ABLATION_FILE, content)
    folder.csv(ABLATION_TABLE, ablation_rows(content))
    for name, figure in all_figures(content).items():
        folder.figure(name, figure)
    report(console, content)
    console.print(f"results: {folder.path / ABLATION_FILE}, {ABLATION_TABLE}; figures are beside them")
    return content


def _measured(model: str, text: Text, settings: AblationSettings, steps: Steps) -> dict[str, Any]:
    (subject,) = subjects(model)
    tokenizer = subject.tokenizer()
    loaded = subject.load_masked_lm("heads are ablated in")
    adapter_of(loaded, ABLATING)  # before anything is measured, raises if it cannot be ablated
    blocks = _blocks(text, settings, loaded, tokenizer, steps)
    guided = subject.guided_patterns(tokenizer)
    patterns = {pattern.name: pattern for pattern in [*named_patterns((), tokenizer), *guided.values()]}
    steps.begin("finding the pattern of each head", len(blocks))
    taken = take_census(loaded.base_model, batches(blocks, settings.batch_size), patterns.values(), progress=steps.at)
    to = _own_patterns(taken, patterns, guided) if settings.to == OWN_PATTERN else settings.to
    found = _ablated(loaded, list(_masked(blocks, tokenizer, settings)), to, tokenizer, settings, taken, steps)
    toward = {place: pattern.name for place, pattern in guided.items()}
    return {
        **results.header("ablate"),
        "model": subject.name,
        "corpus": text.name,
        "sample": {
            "sequences": len(blocks),
            "tokens": blocks.n_tokens,
            "predicted": int(found.counts_N.sum()),
            "block_size": blocks.width,
            "seed": settings.seed,
        },
        "to": settings.to,
        "loss": _estimate(found.loss),
        "heads": list(_heads(found, taken, toward, to)),
        "groups": _groups(found, taken, toward),
        "greedy": list(_curve(found)) if settings.greedy else None,
    }


def _blocks(
    text: Text, settings: AblationSettings, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, steps: Steps
) -> Blocks:
    """The sample.

    Raises:
        ConfigError: too few tokens are asked for.
        CorpusError: the text has too few.
    """
    size = checked_block_size(settings.block_size, model, tokenizer)
    wanted = settings.tokens // size
    needs = f"intervals need {FEWEST} blocks of {size}, {FEWEST * size:,} tokens"
    if wanted < FEWEST:
        raise ConfigError(f"tokens={settings.tokens}: {needs}; give more, or a smaller block_size")
    steps.begin(f"sampling {wanted:,} blocks of {size} tokens", None)
    blocks = sampled_blocks(text, tokenizer, n_blocks=wanted, block_size=size, seed=settings.seed)
    if len(blocks) < FEWEST:
        raise CorpusError(
            f"{text.name}: {blocks.n_tokens:,} tokens are too few: {needs}; give more text, or a smaller block_size"
        )
    return blocks


def _masked(
    blocks: Blocks, tokenizer: PreTrainedTokenizerBase, settings: AblationSettings
) -> Iterator[dict[str, Tensor]]:
    """Yield batches with masked tokens and their labels, drawn once from the seed."""
    masking, rng = Masking.for_tokenizer(tokenizer), np.random.default_rng(settings.seed)
    drawn = [masking(ids_T, int(length), rng) for ids_T, length in zip(blocks.ids, blocks.lengths, strict=True)]
    inputs_NT, labels_NT = (np.stack([pair[n] for pair in drawn]) for n in range(2))
    n_done = 0
    for batch in batches(replace(blocks, ids=inputs_NT), settings.batch_size):
        n_batch = len(batch["input_ids"])
        yield batch | {"labels": torch.from_numpy(labels_NT[n_done : n_done + n_batch])}
        n_done += n_batch


def _own_patterns(
    taken: Census, patterns: Mapping[str, Pattern], guided: Mapping[Place, Pattern]
) -> dict[Place, Pattern]:
    """The pattern of each head: that it was guided toward, or the one closest to it by squared error."""
    closest_LH = np.nan_to_num(taken.squared_error.value, nan=np.inf).argmin(-1)
    closest = {place: patterns[taken.patterns[p]] for place, p in np.ndenumerate(closest_LH)}
    return {(layer, head): guided.get((layer, head), pattern) for (layer, head), pattern in closest.items()}


def _ablated(
    model: PreTrainedModel,
    given: list[dict[str, Tensor]],
    to: To,
    tokenizer: PreTrainedTokenizerBase,
    settings: AblationSettings,
    taken: Census,
    steps: Steps,
) -> Ablation:
    n_heads = taken.n_layers * taken.n_heads
    greedy = n_heads if settings.greedy is True else int(settings.greedy or 0)
    passes = len(given) * (n_heads + sum(n_heads - n for n in range(1, greedy)))
    steps.begin(f"measuring the loss without each of {n_heads} heads", passes)
    at_masked_tokens = MaskedHead(model)
    try:
        return ablate(model, given, to, greedy=greedy, tokenizer=tokenizer, seed=settings.seed, progress=steps.at)
    finally:
        at_masked_tokens.remove()


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
