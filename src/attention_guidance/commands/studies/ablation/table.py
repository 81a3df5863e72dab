"""The results of an ablation as a table and in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attention_guidance.commands.printing import Console, Table

# For each task: what is measured, its unit, what the intervals are over, and what counts as close to all heads.
_WORDS = {
    "loss": ("loss", "nats", "sequences", 0.1),
    "minimal-pairs": ("share of wrong pairs", "of the pairs", "pairs", 0.02),
}
_IN_PLACE = {"zero": "zeros", "mean": "their means", "pattern": "their own patterns"}
_PLURAL = {"guided_toward": "guided heads", "follows": "heads that follow a pattern"}


def ablation_rows(content: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """The rows of `ablate.csv`: one per head."""
    order = _order(content)
    for head in content["heads"]:
        number = order.get((head["layer"], head["head"]))
        row = {"layer": head["layer"], "head": head["head"], "difference": head["difference"]["value"]}
        row |= {f"difference_{end}": head["difference"][end] for end in ("low", "high")}
        row |= {name: head[name] or "" for name in ("follows", "mass", "guided_toward", "replaced_by")}
        then = "" if number is None else content["greedy"][number]["loss"]
        yield row | {"removed": "" if number is None else number + 1, "loss_then": then}


def report(console: Console, content: Mapping[str, Any]) -> None:
    """Print a row for each head (layer.head), and a conclusion."""
    order = _order(content)
    what, unit, over, _ = _WORDS[content["task"]]
    table = Table(
        title=f"{content['model']}: {what} without each head (in its place: {content['to']}) minus that with all heads "
        f"({content['loss']['value']:.3f} {unit}), with a 95 % interval over {content['sample'][over]:,} {over}"
    )
    for heading in ("head", "difference", "interval", "follows", *(("goes", "then") if order else ())):
        table.add_column(heading, justify="left" if heading == "follows" else "right", no_wrap=True)
    for head in content["heads"]:
        place, difference = (head["layer"], head["head"]), head["difference"]
        cells = [f"{place[0]}.{place[1]}", f"{difference['value']:+.4f}", _interval(difference), _pattern(head)]
        if place in order:
            cells += [str(order[place] + 1), f"{content['greedy'][order[place]]['loss']:.3f}"]
        table.add_row(*cells, *([""] * (len(table.columns) - len(cells))))
    console.print(table)
    if any(head["guided_toward"] for head in content["heads"]):
        console.print("* guided toward this pattern in training")
    console.print(conclusion(content))


def conclusion(content: Mapping[str, Any]) -> str:
    """One sentence: how many heads are missed, whether guided ones are missed more, and how many can go."""
    heads, (what, unit, _, close) = content["heads"], _WORDS[content["task"]]
    n_needed = sum(head["difference"]["low"] > 0 for head in heads)
    place = _IN_PLACE.get(content["to"], content["to"])
    parts = [
        f"With {place} in place, the {what} is shown to rise without {n_needed} of {len(heads)} heads, one at a time"
    ]
    if groups := content["groups"]:
        gap, name = groups["gap"], _PLURAL[groups["by"]]
        verdict = f"it rises {'more' if gap['value'] > 0 else 'less'} without {name} than without others"
        if gap["low"] <= 0 <= gap["high"]:
            verdict = f"no difference between {name} and others is shown"
        means = f"{groups['mean']['value']:+.4f} against {groups['others']['value']:+.4f} {unit} a head"
        parts.append(f"{verdict}: {means}, a gap of {gap['value']:+.4f} ({_interval(gap)})")
    if content["greedy"]:
        n_close = next((n for n, step in enumerate(content["greedy"]) if step["difference"]["value"] > close), None)
        n_gone = len(content["greedy"]) if n_close is None else n_close
        last = content["greedy"][-1]
        parts.append(
            f"{n_gone} can go, the least needed first, before the {what} has risen by {close} {unit} "
            f"({len(content['greedy'])} gone: {last['loss']:.3f})"
        )
    return "; ".join(parts) + "."


def _order(content: Mapping[str, Any]) -> dict[tuple[int, int], int]:
    """The number of each head in the order of its removal, from 0."""
    return {(step["layer"], step["head"]): number for number, step in enumerate(content["greedy"] or ())}


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{estimate['low']:+.4f} to {estimate['high']:+.4f}"


def _pattern(head: Mapping[str, Any]) -> str:
    """The pattern that a head follows, with its mass, and a star if it was guided; else what it was guided toward."""
    if head["follows"] is None:
        return "·" if head["guided_toward"] is None else f"·, *{head['guided_toward']}"
    star = {None: "", head["follows"]: "*"}.get(head["guided_toward"], f", *{head['guided_toward']}")
    return f"{head['follows']} {head['mass']:.2f}{star}"
