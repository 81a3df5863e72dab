"""Uses of the public names as the docs show them, for mypy --strict (see pyproject.toml); nothing here runs."""

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attention_guidance import Guidance, Pattern, Schedule, Sequences, Targets, get_guidance, guide, match_heads
from attention_guidance.analysis import Look, look


def ways_to_give_heads(model: nn.Module, pattern: Pattern) -> None:
    counts = {"next": 1, "first": 2}
    fractions = {"next": 0.25}
    explicit = {"next": [0], "first": [2, 3]}
    own = {pattern: 1}
    by_number = {0: "next:1", 1: "first:2"}
    by_range = {"0-3": "next:1", "4-": "first:2"}
    nested = {0: {"next": 1}, 1: {"first": 2}}
    guide(model, "next:1 previous:1 first:4")
    for heads in (counts, fractions, explicit):
        guide(model, heads)
    guide(model, own)
    guide(model, by_number)
    guide(model, by_range)
    guide(model, nested)
    guide(model, {0: "next:1", "1-3": {"first": 2}})
    guide(model, {"next": 1, pattern: [2]})


def settings(model: nn.Module) -> Guidance:
    with guide(
        model, "next:1", 0.05, loss="log_mass", backend="blocked", schedule="cosine", total_steps=100
    ) as guidance:
        print(guidance)
    guide(model, "next:1", normalization="elementwise", schedule=Schedule("hold-then-linear", hold=0.2, end=1.0))
    guide(model, "speaker:1 mark:1", token_classes={"speaker": ["A:", "B:"], "mark": str.isupper})
    return get_guidance(model)


def matched(model: nn.Module, batches: list[dict[str, object]]) -> Guidance:
    matching = match_heads(model, {"next": 1, "previous": 1}, batches, loss="log_mass")
    return guide(model, matching.heads)


def looked_at(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Look:
    look(model, tokenizer, "The king saw himself")
    seen = look(model, tokenizer, "Is it?", "It is.", heads=[(0, 1), (2, 3)], words=True, hide_special=True)
    seen.save("look.html", overwrite=True)
    return seen


def to_the_second(sequences: Sequences) -> Targets | None:
    return None


def mistakes(model: nn.Module) -> None:
    guide(model, "next:1", loss="squared")  # type: ignore[arg-type]
    guide(model, "next:1", backend="flash")  # type: ignore[arg-type]
    guide(model, "next:1", schedule="step")  # type: ignore[arg-type]
    guide(model, {"next": None})  # type: ignore[dict-item]
