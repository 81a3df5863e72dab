"""Uses of the public names as the docs show them, for mypy --strict and pyright (see pyproject.toml); nothing runs."""

from collections.abc import Iterator, Mapping
from typing import Literal, assert_type

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from attention_guidance import (
    Guidance,
    GuidanceError,
    GuidedHead,
    HeadGuidance,
    HeadMatching,
    Pattern,
    Schedule,
    Sequences,
    Targets,
    get_guidance,
    get_pattern,
    guide,
    match_heads,
)
from attention_guidance.analysis import (
    Ablation,
    Census,
    Look,
    ablate,
    attention_map,
    attention_maps,
    head_divergence,
    head_positions,
    look,
    observing,
    take_census,
    without_heads,
)
from attention_guidance.loss.call import AttentionCall
from attention_guidance.patterns import Custom, First, Offset, TokenClass

Name = Literal["next", "first"]


def first_program(ids: Tensor) -> None:
    model = BertForMaskedLM(BertConfig())
    guidance = guide(model, heads="next:1 previous:1 first:1", weight=0.1)
    print(guidance, guidance.weight, guidance.current_weight)
    guidance.remove()


def ways_to_give_heads(model: nn.Module, pattern: Pattern, own_names: dict[Name, int]) -> None:
    counts = {"next": 1, "first": 2}
    fractions = {"next": 0.25}
    explicit = {"next": [0], "first": [2, 3]}
    own = {pattern: 1}
    by_number = {0: "next:1", 1: "first:2"}
    by_range = {"0-3": "next:1", "4-": "first:2"}
    nested = {0: {"next": 1}, 1: {"first": 2}}
    of_layer: Mapping[Literal[0], Mapping[Name, tuple[int, ...]]] = {0: {"next": (0, 1)}}
    guide(model, "next:1 previous:1 first:4")
    for heads in (counts, fractions, explicit):
        guide(model, heads)
    guide(model, {"next": 1, "first": [2, 3]})
    guide(model, own)
    guide(model, own_names)
    guide(model, of_layer)
    guide(model, by_number)
    guide(model, by_range)
    guide(model, nested)
    guide(model, {0: "next:1", "1-3": {"first": 2}})
    guide(model, {"next": 1, pattern: [2]})


def settings(model: nn.Module, loss: Literal["squared_error", "log_mass"]) -> Guidance:
    with guide(model, "next:1", 0.05, loss=loss, backend="blocked", schedule="cosine", total_steps=100) as guidance:
        print(guidance)
    for shape in ("constant", "linear", "hold-then-linear", "cosine"):
        guide(model, "next:1", schedule=shape)
        Schedule(shape)
    for backend in ("auto", "reference", "blocked", "triton"):
        guide(model, "next:1", backend=backend)
    for normalization in ("query", "elementwise"):
        guide(model, "next:1", normalization=normalization)
    guide(model, "next:1", schedule=Schedule("hold-then-linear", hold=0.2, end=1.0), within=model)
    return get_guidance(model)


def own_patterns(model: nn.Module, tokenizer: PreTrainedTokenizerBase, words: dict[Name, list[str]]) -> None:
    def twin(sequences: Sequences) -> Tensor:
        ids = sequences.input_ids_BT
        assert ids is not None
        return ids[:, :, None] == ids[:, None]

    def mirror(sequences: Sequences) -> Targets:
        return Targets(torch.arange(sequences.valid_BT.shape[1]).flip(0)[None, :, None])

    customs = {"twin": Custom("twin", twin), "mirror": Custom("mirror", mirror)}
    named: dict[Name, Custom] = {"next": Custom("next", twin)}
    guide(model, "twin:1 mirror|next:1", patterns=customs)
    guide(model, "next:1", patterns=named)
    guide(model, "next:1", token_classes=words, tokenizer=tokenizer)
    guide(model, "speaker:1 mark:1", token_classes={"speaker": ["A:", "B:"], "mark": str.isupper, "id": {4, 5}})
    period = get_pattern("period", tokenizer)
    assert_type(period, TokenClass)
    assert_type(get_pattern("next"), Pattern)
    after_stop = get_pattern("next").where(period.members_of, name="after a stop")
    guide(model, heads={after_stop: 1, "previous": 1})
    print(get_pattern("previous|first").describe("the cat sat"), (Offset(-1) | First()).describe(["a", "b"]))
    print(after_stop.describe("the cat. the dog.", tokenizer))


def in_a_loop(model: nn.Module, loader: list[dict[str, Tensor]], guidance: Guidance) -> list[HeadGuidance]:
    for batch in loader:
        loss: Tensor = model(**batch).loss + guidance.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        guidance.step()
    with guidance.measure(), torch.no_grad():
        for batch in loader:
            model(**batch)
    heads: list[GuidedHead] = list(guidance.heads)
    print(guidance.explain_backend(), guidance.rows_per_head(), heads, guidance.callback())
    return guidance.per_head()


def matched(model: nn.Module, batches: list[dict[str, Tensor]], one_pass: Iterator[dict[str, object]]) -> Guidance:
    matching: HeadMatching = match_heads(model, {"next": 1, "previous": 1}, batches, loss="log_mass")
    match_heads(model, "next:1", one_pass, across_layers=True)
    return guide(model, matching.heads)


def looked_at(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Look:
    look(model, tokenizer, "The king saw himself")
    seen = look(model, tokenizer, "Is it?", "It is.", heads=[(0, 1), (2, 3)], words=True, hide_special=True)
    seen.save("look.html", overwrite=True)
    return seen


def measured(model: PreTrainedModel, batches: list[dict[str, Tensor]], tokenizer: PreTrainedTokenizerBase) -> Census:
    census = take_census(model, batches, "next first")
    followed: str | None = census.followed()[0][2]
    mass: npt.NDArray[np.float64] = census.mass.value
    take_census(model, ["A text.", "Another."], ["next", First(), "period"], tokenizer=tokenizer)
    take_census(model, "A text.", Offset(2), tokenizer=tokenizer, token_classes={"comma": [","]})
    take_census(model, torch.tensor([[1, 2]]), {"next": None, "first": None})
    take_census(model, np.array([[1, 2]]), "next")
    print(attention_maps(model, "A text.", tokenizer=tokenizer).shape, followed, mass)
    print(head_positions(head_divergence(model, batches, rows=64)))

    def see(layer: int, call: AttentionCall) -> None:
        print(layer, attention_map(call).shape)

    with observing(model, see, once=True) as watched:
        watched(batches[0])
    return census


def ablated(model: nn.Module, batches: list[dict[str, Tensor]], pattern_of: dict[tuple[int, int], str]) -> Ablation:
    def measure(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return model(**batch).logits.sum((1, 2)), torch.ones(len(batch["input_ids"]))

    found = ablate(model, batches, to="mean", greedy=4)
    worth: float = found.difference.value[0, 3]
    own: dict[tuple[int, int], Pattern] = {(0, 0): Offset(1)}
    ablate(model, batches, "zero", measure=measure)
    ablate(model, batches, Offset(-1), seed=2)
    ablate(model, batches, pattern_of)
    ablate(model, batches, own)
    ablate(model, batches, {(0, 0): "next", (0, 1): First()})
    with without_heads(model, [(0, 3), (1, 0)]):
        print(worth, found.order)
    with without_heads(model, np.array([[0, 3]]), "mean", batches=batches):
        pass
    return found


def mistakes(model: nn.Module, text: str) -> None:
    guide(model, "next:1", loss="squared")  # type: ignore[arg-type]
    guide(model, "next:1", backend="flash")  # type: ignore[arg-type]
    guide(model, "next:1", normalization="row")  # type: ignore[arg-type]
    guide(model, "next:1", schedule="step")  # type: ignore[arg-type]
    guide(model, "next:1", schedule=text)  # type: ignore[arg-type]
    Schedule("step")  # type: ignore[arg-type]
    guide(model, {"next": None})  # type: ignore[dict-item]
    guide(model, "next:1", token_classes={"a": 3})  # type: ignore[dict-item]
    get_pattern(3)  # type: ignore[call-overload]
    raise GuidanceError(3)  # type: ignore[arg-type]
