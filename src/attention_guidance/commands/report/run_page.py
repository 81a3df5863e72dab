"""The HTML page of ``attention-guidance report``: runs, heads, maps and probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from attention_guidance.commands.report.figures import census as census_figures
from attention_guidance.commands.report.figures import minimal_pairs as pairs_figures
from attention_guidance.commands.report.figures import probe as probe_figures
from attention_guidance.commands.report.figures import run as run_figures
from attention_guidance.commands.report.figures import skill as skill_figures
from attention_guidance.commands.report.figures.drawing import finite
from attention_guidance.commands.report.figures.svg import to_svg
from attention_guidance.commands.report.figures.tokens import printable, shown_token, shown_tokens, whole_token
from attention_guidance.commands.report.page import check_schema, render
from attention_guidance.commands.results import write_bytes

Content = Mapping[str, Any]


def write_run_page(report: Content, path: Path) -> None:
    """Write the page of a report.

    `attention_guidance.commands.report.page` describes the pages. Equal input gives identical bytes.

    Args:
        report: the content of ``report.json`` (schema version 1).
        path: the file to write; its folder must exist.

    Raises:
        ValueError: the input has another schema, or no runs.
    """
    check_schema(report, "report")
    if not report["runs"]:
        raise ValueError("the report has no runs, so there is nothing to show")
    runs = report["runs"]
    names = census_figures.patterns_of(run["census"] for run in runs)
    charts = [chart for key in run_figures.CURVES if (chart := _chart(runs, key)) is not None]
    page = render(
        "run.html",
        report=report,
        runs=runs,
        charts=charts,
        settings=_settings(runs),
        patterns=names,
        grids=[_grid(run, number, names) for number, run in enumerate(runs)],
        developments=[(number, svg) for number, run in enumerate(runs) if (svg := _over_steps(run, names)) is not None],
        planes=[
            (number, run["name"], _svg(census_figures.head_plane(run["census"], names)))
            for number, run in enumerate(runs)
            if run["census"]["similarity"] is not None
        ],
        **studied(report),
        downstream=report["downstream"],
        made=_made(report),
        data={
            "charts": [chart["readout"] for chart in charts],
            "census": [_census_data(run, names) for run in runs],
            "attention": [_attention_data(run) for run in runs],
        },
    )
    write_bytes(path, page)


def figures(report: Content) -> dict[str, Figure]:
    """All figures of the page by name, for files and notebooks."""
    drawn = {
        key: run_figures.curves([run for run in report["runs"] if run[key]], key)
        for key in run_figures.CURVES
        if any(run[key] for run in report["runs"])
    }
    names = census_figures.patterns_of(run["census"] for run in report["runs"])
    for run in report["runs"]:
        of_run = census_figures.all_figures(run["census"], names)
        drawn |= {f"{run['name']}-{name}": fig for name, fig in of_run.items()}
    for number, probe in enumerate(report["probes"]):
        named = probe_figures.all_figures(probe)
        drawn |= {f"probe-{number + 1}-{probe['task']}-{name}": fig for name, fig in named.items()}
    for number, pairs in enumerate(report.get("pairs", ())):
        drawn |= {f"pairs-{number + 1}-{name}": fig for name, fig in pairs_figures.all_figures(pairs).items()}
    for number, skill in enumerate(report["skills"]):
        drawn[f"skill-{number + 1}-{skill['task']}"] = skill_figures.scatter(skill)
    return drawn


def studied(report: Content) -> dict[str, Any]:
    """The parts of the page about results of `probe` and `skill`."""
    return {
        "probes": [_probe(probe) for probe in report["probes"]],
        "pairs": [_pairs(content) for content in report.get("pairs", ())],
        "skills": [(skill, _svg(skill_figures.scatter(skill))) for skill in report["skills"]],
    }


def _svg(fig: Figure) -> Markup:
    """Mark as safe: to_svg has already escaped all text."""
    return Markup(to_svg(fig))


def _chart(runs: Sequence[Content], key: str) -> dict[str, Any] | None:
    """The wide and narrow drawings of a curve and the data of its readout; None if no run has this curve."""
    if not any(run[key] for run in runs):
        return None
    wide, narrow = (run_figures.curves(runs, key, size) for size in (run_figures.Wide, run_figures.Narrow))
    steps = sorted({step for run in runs for step, _ in run[key]})
    of_runs = [dict(run[key]) for run in runs]
    readout = {
        "title": run_figures.CURVES[key],
        "steps": steps,
        "series": [
            {"name": run["name"], "values": [finite(values.get(step)) for step in steps]}
            for run, values in zip(runs, of_runs, strict=True)
            if run[key]
        ],
        "numbers": [number for number, run in enumerate(runs) if run[key]],
        "x": list(map(float, wide.axes[0].get_xlim())),
        "y": list(map(float, wide.axes[0].get_ylim())),
    }
    rows = [(step, [finite(values.get(step)) for values in of_runs]) for step in steps]
    drawings = {"wide": _svg(wide), "narrow": _svg(narrow)}
    return {"key": key, "title": run_figures.CURVES[key], **drawings, "readout": readout, "rows": rows}


def _settings(runs: Sequence[Content]) -> list[tuple[str, list[str]]]:
    """The settings of the runs: one row per setting, one column per run; settings that no run has are left out."""
    names = dict.fromkeys(name for run in runs for name in run["settings"])
    return [(name, [str(run["settings"].get(name, "–")) for run in runs]) for name in names]


def _grid(run: Content, number: int, names: Sequence[str]) -> dict[str, Any]:
    """The last snapshot as a table, which the page's script updates when the slider moves."""
    taken = run["census"]["snapshots"][-1]
    n_layers, n_heads = census_figures.size(taken)
    cells = {(head["layer"], head["head"]): _cell(head, names) for head in taken["heads"]}
    rows = [(layer, [cells[layer, head] for head in range(n_heads)]) for layer in range(n_layers)]
    grid = {"rows": rows, "heads": range(n_heads), "step": _step(taken), "shares": taken["shares"]}
    of_census = {key: run["census"][key] for key in ("threshold", "sample", "corpus")}
    return {"run": number, "name": run["name"], **grid, **of_census}


def _cell(head: Content, names: Sequence[str]) -> dict[str, Any]:
    name, mass = census_figures.strongest(head)
    colour = names.index(head["follows"]) % 7 + 1 if head["follows"] else None
    place = {"layer": head["layer"], "head": head["head"], "strongest": name, "mass": mass, "colour": colour}
    measured = {"follows": head["follows"], "guided": head["guided_toward"], "entropy": head["entropy"]["value"]}
    return place | measured


def _step(snapshot: Content) -> str:
    return census_figures.step_name(snapshot)


def _over_steps(run: Content, names: Sequence[str]) -> Markup | None:
    return _svg(census_figures.development(run["census"], names)) if len(run["census"]["snapshots"]) > 1 else None


def _census_data(run: Content, names: Sequence[str]) -> dict[str, Any]:
    """All snapshots in compact form: for each head, the pattern it follows, its masses and its entropy."""
    census = run["census"]
    patterns = census["patterns"]
    snapshots = [
        {
            "step": taken["step"],
            "name": _step(taken),
            "loss": finite(taken["validation_loss"]),
            "shares": [taken["shares"][name] for name in [*patterns, "none"]],
            "follows": [patterns.index(h["follows"]) if h["follows"] else -1 for h in taken["heads"]],
            "masses": [[_rounded(h["patterns"][name]["mass"]["value"]) for name in patterns] for h in taken["heads"]],
            "entropy": [_rounded(h["entropy"]["value"]) for h in taken["heads"]],
        }
        for taken in census["snapshots"]
    ]
    heads = census["snapshots"][-1]["heads"]
    return {
        "patterns": [shown_token(name) for name in patterns],
        "colours": [names.index(name) for name in patterns],
        "heads": [[h["layer"], h["head"]] for h in heads],
        "guided": [h["guided_toward"] for h in heads],
        "snapshots": snapshots,
    }


def _rounded(value: object) -> float | None:
    known = finite(value)
    return None if known is None else round(known, 3)


def _attention_data(run: Content) -> dict[str, Any]:
    """The sentences of a run, with the maps of all heads."""
    sentences = [
        {
            "text": printable(sentence["text"]),
            "tokens": shown_tokens(sentence["tokens"]),
            "whole": [whole_token(token) for token in sentence["tokens"]],
            "leftOut": sentence.get("left_out", 0),
            "maps": sentence["maps"],
        }
        for sentence in run["attention"]
    ]
    return {"name": run["name"], "sentences": sentences}


def _probe(probe: Content) -> dict[str, Any]:
    drawn = {name: _svg(fig) for name, fig in probe_figures.all_figures(probe).items()}
    beaten = [label["label"] for label in probe["labels"] if label["label"] != "all" and label["intervals_apart"]]
    kept = [label["label"] for label in probe["labels"] if label["label"] != "all" and not label["intervals_apart"]]
    return {"content": probe, "figures": drawn, "beaten": beaten, "kept": kept}


def _pairs(content: Content) -> dict[str, Any]:
    last = content["snapshots"][-1]
    kinds = (("field", "fields"), ("phenomenon", "phenomena"), ("paradigm", "paradigms"))
    rows = [("", {"name": "all paradigms", **last["accuracy"]})]
    rows += [(kind, row) for kind, key in kinds for row in last[key]]
    drawn = {name: _svg(fig) for name, fig in pairs_figures.all_figures(content).items()}
    return {"content": content, "last": last, "rows": rows, "figures": drawn}


def _made(report: Content) -> list[tuple[str, str]]:
    """Device, versions and date of the report, as (name, value)."""
    versions = ", ".join(f"{name} {version}" for name, version in (report.get("versions") or {}).items())
    rows = [
        ("Device", report.get("device")),
        ("Versions", versions),
        ("Date", str(report.get("date") or "").replace("T", " ").replace("+00:00", " UTC")),
    ]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]
