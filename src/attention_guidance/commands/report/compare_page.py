"""The HTML page of ``attention-guidance compare``: one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from attention_guidance.commands.report.figures import compare as figures
from attention_guidance.commands.report.figures.compare import ARMS, final_loss
from attention_guidance.commands.report.figures.drawing import finite, mean
from attention_guidance.commands.report.figures.svg import to_svg
from attention_guidance.commands.report.page import DIVERGED, check_schema, number, render, signed
from attention_guidance.commands.results import write_bytes


def write_compare_page(compare: Mapping[str, Any], maps: Mapping[str, Any] | None, path: Path) -> None:
    """Write the page of a comparison.

    `attention_guidance.commands.report.page` describes the pages. Equal input gives identical bytes.

    Args:
        compare: the content of ``compare.json`` (schema version 1).
        maps: attention maps at several points of training, or None.
        path: the file to write; its folder must exist.

    Raises:
        ValueError: the input has another schema, or no seeds.
    """
    check_schema(compare, "compare")
    if not compare["seeds"]:
        raise ValueError("the comparison has no seeds, so there is nothing to show")
    page = render(
        "compare.html",
        compare=compare,
        arms=ARMS,
        mean=mean,
        tiles=[_steps_tile(compare), _loss_tile(compare), _time_tile(compare), _memory_tile(compare)],
        made=_made(compare),
        grid=guidance_grid(compare),
        **_curves(compare),
        **_maps(maps),
    )
    write_bytes(path, page)


def _across(values: list[float], digits: int) -> str:
    """The range of the values over seeds as text, empty if they are equal."""
    low, high = (f"{end:,.{digits}f}".replace("-", "−") for end in (min(values, default=0.0), max(values, default=0.0)))
    return "" if low == high else f" Seeds: {low} to {high}."


def _known(compare: Mapping[str, Any], key: str) -> list[float]:
    values = (finite(seed.get(key)) for seed in compare["seeds"])
    return [value for value in values if value is not None]


def _steps_tile(compare: Mapping[str, Any]) -> dict[str, str]:
    title, steps = "Steps to match unguided", f"{compare['steps']:,}"
    reached, ratios = _known(compare, "steps_to_match"), _known(compare, "steps_ratio")
    total = len(compare["seeds"])
    if final_loss(compare, "unguided") is None:
        text = "Unguided diverged, so it has no final loss for guided to reach."
        return {"title": title, "value": "–", "text": text}
    if not reached:
        text = f"Guided never reached unguided’s final validation loss within {steps} steps."
        return {"title": title, "value": "never", "text": text}
    if len(reached) < total:
        span = " to ".join(f"{step:,.0f}" for step in sorted({min(reached), max(reached)}))
        text = (
            f"In {len(reached)} of {total} seeds guided reached unguided’s final loss, after {span} of {steps} steps; "
        )
        return {"title": title, "value": f"{len(reached)} of {total}", "text": text + "in the others it never did."}
    after = f"Guided reaches unguided’s final validation loss after {mean(reached):,.0f} of {steps} steps"
    clock = mean(_known(compare, "wall_clock_ratio"))
    clock_text = "" if clock is None else f", in {clock:.2f} of the training time"
    return {
        "title": title,
        "value": number(mean(ratios), 2, "–") + "×",
        "text": after + clock_text + "." + _across(ratios, 2),
    }


def _loss_tile(compare: Mapping[str, Any]) -> dict[str, str]:
    title, guided, unguided = "Final validation loss", *(final_loss(compare, arm) for arm in ARMS)
    if guided is None or unguided is None:
        lost = " ".join(
            f"{arm.capitalize()} diverged in {bad} of {len(compare['seeds'])} seeds."
            for arm in ARMS
            if (bad := sum(finite(seed[arm].get("final_loss")) is None for seed in compare["seeds"]))
        )
        return {"title": title, "value": DIVERGED, "text": lost + " There is no difference to report."}
    difference = guided - unguided
    unit = figures.unit(compare).removeprefix(",")
    ends = f"Guided ends at {guided:.2f}, unguided at {unguided:.2f}{unit}; lower is better."
    judged = "The two end level. " if abs(difference) < 0.005 else "Guided is worse. " if difference > 0 else ""
    spread = _across(_known(compare, "final_loss_difference"), 2)
    return {"title": title, "value": signed(difference), "text": judged + ends + spread}


def _time_tile(compare: Mapping[str, Any]) -> dict[str, str]:
    ratios = _known(compare, "step_time_ratio")
    ratio = mean(ratios)
    text = "Not measured." if ratio is None else f"A guided step takes {_more(ratio, 'longer', 'less time')}."
    return {
        "title": "Time of a step",
        "value": number(ratio, 2, "–") + "×" * bool(ratios),
        "text": text + _across(ratios, 2),
    }


def _memory_tile(compare: Mapping[str, Any]) -> dict[str, str]:
    memory = compare.get("peak_memory") or {}
    ratio = finite(memory.get("ratio"))
    if ratio is None:
        return {"title": "Peak memory", "value": "–", "text": "Not measured."}
    sizes = f"{number(memory.get('guided_mib'), 0, '?')} against {number(memory.get('unguided_mib'), 0, '?')} MiB"
    text = f"Training with guidance needs {_more(ratio, 'more', 'less')}: {sizes}."
    return {"title": "Peak memory", "value": f"{ratio:.2f}×", "text": text}


def _more(ratio: float, more: str, less: str) -> str:
    share = round(100 * (ratio - 1))
    return f"{share}\u00a0% {more}" if share > 0 else f"{-share}\u00a0% {less}" if share < 0 else "the same"


def _made(compare: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings of the comparison as (name, value); values that were not recorded are left out."""
    model = compare.get("model") or {}
    shape = ", ".join(f"{name} {size:,}" for name, size in model.items() if isinstance(size, int))
    steps = f"{compare['steps']:,} of {number(compare.get('tokens_per_step'), 0, '?')} tokens"
    rows = [
        ("Corpus", compare.get("corpus")),
        ("Model", shape),
        ("Steps", steps),
        ("Guided heads", compare.get("heads")),
        ("Weight a head", compare.get("weight")),
        ("Relative weight", compare.get("relative_weight")),
        ("Seeds", ", ".join(str(seed["seed"]) for seed in compare["seeds"])),
        ("Device", compare.get("device")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in (compare.get("versions") or {}).items())),
        ("Date", str(compare.get("date") or "").replace("T", " ").replace("+00:00", " UTC")),
    ]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def guidance_grid(compare: Mapping[str, Any]) -> dict[str, Any]:
    """Final guidance error of every guided head (mean over seeds), as a grid of layers and heads.

    Returns:
        ``heads`` (the columns) and ``rows`` of ``(layer, cells)``; a cell is None if the head was not guided, else
        ``pattern``, ``error`` (None if it diverged) and ``span`` (minimum and maximum over seeds, None for one seed).
    """
    errors: dict[tuple[int, int], list[object]] = {}
    patterns: dict[tuple[int, int], str] = {}
    for seed in compare["seeds"]:
        for item in seed["guided"].get("guidance") or []:
            key = (int(item["layer"]), int(item["head"]))
            errors.setdefault(key, []).append(item.get("error"))
            patterns[key] = str(item["pattern"])
    heads = sorted({head for _, head in errors})

    def cell(key: tuple[int, int]) -> dict[str, Any] | None:
        if key not in errors:
            return None
        known = [error for error in map(finite, errors[key]) if error is not None]
        span = (min(known), max(known)) if len(known) > 1 else None
        return {"pattern": patterns[key], "error": mean(errors[key]), "span": span}

    layers = sorted({layer for layer, _ in errors})
    return {"heads": heads, "rows": [(layer, [cell((layer, head)) for head in heads]) for layer in layers]}


def _curves(compare: Mapping[str, Any]) -> dict[str, Any]:
    """The wide and narrow drawings of the curves, the data of the readout, and the rows of the data table."""
    wide, narrow = figures.loss_curves(compare), figures.loss_curves(compare, (4.1, 3.7))
    means = {arm: dict(figures.mean_curve(compare, arm)) for arm in ARMS}
    points = [
        {(arm, point["step"]): point for arm in ARMS for point in seed[arm]["curve"]} for seed in compare["seeds"]
    ]
    steps = sorted({step for seed in points for _, step in seed})
    rows = [(step, [seed.get((arm, step)) for seed in points for arm in ARMS]) for step in steps]
    readout = {"steps": steps, **{arm: [means[arm].get(step) for step in steps] for arm in ARMS}}
    axes = wide.axes[0]
    readout |= {"x": list(map(float, axes.get_xlim())), "y": list(map(float, axes.get_ylim()))}
    drawings = {"wide": Markup(to_svg(wide)), "narrow": Markup(to_svg(narrow))}
    return {"curves": drawings, "readout": readout, "rows": rows}


def _maps(maps: Mapping[str, Any] | None) -> dict[str, Any]:
    """One card per head, and the map of one head at the end of training with its tokens."""
    if not maps or not (heads := figures.map_heads(maps)):
        return {"cards": [], "words": None}
    cards = [
        {"layer": layer, "head": head, "pattern": pattern, "svg": _svg(figures.attention_maps(maps, [(layer, head)]))}
        for layer, head, pattern in heads
    ]
    # With tokens, a head that attends to a neighbour is more informative than one that attends to the first token.
    layer, head, pattern = next((h for h in heads if h[2] in ("previous", "next")), heads[0])
    drawings = [(arm, _svg(figures.labelled_map(maps, arm, layer, head))) for arm in ARMS]
    words = {"layer": layer, "head": head, "pattern": pattern, "drawings": drawings, "text": maps.get("text") or ""}
    return {"cards": cards, "words": words}


def _svg(fig: Any) -> Markup:
    """Mark as safe: to_svg has already escaped all text."""
    return Markup(to_svg(fig))
