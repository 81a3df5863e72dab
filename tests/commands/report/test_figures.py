"""Figures that say what is: ticks that can be told apart, labels that do not overlap, colours of what is followed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from attention_guidance.commands.report.figures import census as census_figures
from attention_guidance.commands.report.figures import minimal_pairs as pairs_figures
from attention_guidance.commands.report.figures import run as run_figures
from attention_guidance.commands.report.figures import skill as skill_figures
from attention_guidance.commands.report.figures.svg import series


def estimate(value):
    return {"value": value, "low": value, "high": value}


def census(n_layers, n_heads, masses, patterns=("next", "first"), positions=None):
    heads = [
        {
            "layer": layer, "head": head, "guided_toward": None, "entropy": estimate(1.0),
            "follows": next((p for p, m in zip(patterns, masses[layer, head], strict=True) if m >= 0.5), None),
            "patterns": {p: {"mass": estimate(m)} for p, m in zip(patterns, masses[layer, head], strict=True)},
        }
        for layer in range(n_layers)
        for head in range(n_heads)
    ]  # fmt: skip
    snapshot = {"model": "m", "step": 1, "heads": heads}
    return {
        "patterns": list(patterns), "threshold": 0.5, "snapshots": [snapshot],
        "similarity": None if positions is None else {"positions": positions.tolist()},
    }  # fmt: skip


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    return figure


def labels_of(figure):
    return [text for text in figure.axes[0].texts if text.get_text()]


def point(run, step, loss, accuracy):
    return {"run": run, "step": step, "loss": loss, "max": accuracy, "mean": accuracy, "chance": 0.2}


@pytest.mark.parametrize(
    "losses", [(7.16, 7.2, 7.24), (7.2001, 7.2002, 7.2003), (2.0, 7.5, 9.9), (1234.1, 1234.2, 1234.3), (7.2, 7.2, 7.2)]
)
def test_ticks_of_skill_are_told_apart(losses):
    points = [point("a", n, loss, 0.3 + loss / 1e5) for n, loss in enumerate(losses)]
    correlations = [{"run": None, "measure": m, "spearman": None} for m in ("max", "mean")]
    content = {"task": "t", "runs": ["a"], "points": points, "correlations": correlations}
    for ax in drawn(skill_figures.scatter(content)).axes:
        for axis in (ax.xaxis, ax.yaxis):
            shown = [label.get_text() for label in axis.get_ticklabels()]
            assert len(set(shown)) == len(shown) > 1
            assert axis.get_offset_text().get_text() == ""


@pytest.mark.parametrize("values", [(7.2001, 7.2002), (1e-7, 3e-7), (123456.1, 123456.3)])
def test_ticks_of_curves_are_whole_numbers_without_an_offset(values):
    run = {"name": "a", "validation": [[n, value] for n, value in enumerate(values)]}
    ax = drawn(run_figures.curves([run], "validation")).axes[0]
    shown = [label.get_text() for label in ax.yaxis.get_ticklabels()]
    assert len(set(shown)) == len(shown) > 1
    assert ax.yaxis.get_offset_text().get_text() == ""


def test_labels_of_the_plane_lie_over_nothing():
    """144 heads of which most attend alike."""
    chance = np.random.default_rng(0)
    masses = chance.dirichlet([0.3, 0.3], size=(12, 12)) * chance.integers(0, 2, (12, 12, 1))
    positions = np.concatenate([chance.normal(0, 0.03, (100, 2)), chance.normal(0, 0.6, (44, 2))])
    content = census(12, 12, masses, positions=positions)
    figure = drawn(census_figures.head_plane(content))
    boxes = [text.get_window_extent() for text in labels_of(figure)]
    assert 40 < len(boxes) < 144
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    points = figure.axes[0].transData.transform(positions)
    assert not any(box.contains(x, y) for box in boxes for x, y in points)
    frame = figure.axes[0].get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    shown = {text.get_text() for text in labels_of(figure)}
    follows = {f"{h['layer']}.{h['head']}" for h in content["snapshots"][0]["heads"] if h["follows"]}
    assert len(shown & follows) / len(follows) > len(shown - follows) / (144 - len(follows))


@pytest.mark.parametrize("positions", [np.array([[0.0, 0], [1, 0], [0, 1], [1, 1]]), np.zeros((4, 2))])
def test_few_heads_are_all_named_where_there_is_room(positions):
    content = census(2, 2, np.zeros((2, 2, 2)), positions=positions)
    shown = [text.get_text() for text in labels_of(drawn(census_figures.head_plane(content)))]
    assert shown == ["0.0", "0.1", "1.0", "1.1"]


def test_a_head_has_the_colour_of_what_it_follows_alone():
    masses = np.array([[[0.03, 0.01], [0.49, 0.3], [0.5, 0.1], [0.1, 0.9]]])
    ax = census_figures.head_grid(census(1, 4, masses)).axes[0]
    cells = [patch for patch in ax.patches if isinstance(patch, Rectangle) and patch.get_width() == 1]
    assert [cell.get_facecolor()[3] for cell in cells] == [0, 0, 0.75 * 0.5, 0.75 * 0.9]
    assert [to_hex(cell.get_facecolor()[:3]) for cell in cells[2:]] == [series(0), series(1)]
    assert "number: mean attention on the pattern's targets" in ax.get_xlabel()


def test_a_pattern_has_one_colour_in_all_models():
    first, second = census(1, 1, np.ones((1, 1, 1)), ["first"]), census(1, 1, np.ones((1, 1, 2)), ["next", "first"])
    names = census_figures.patterns_of([first, second])
    assert names == ["first", "next"]
    assert census_figures.colours(second, names) == {"next": series(1), "first": series(0)}
    assert census_figures.colours(second) == {"next": series(0), "first": series(1)}


def test_ticks_of_minimal_pairs_are_told_apart():
    accuracy = {"value": 0.6, "low": 0.5, "high": None, "pairs": 40}
    snapshots = [
        {"step": step, "accuracy": accuracy | {"value": value, "high": 0.8}, "paradigms": [accuracy | {"name": "a"}]}
        for step, value in ((10, 0.5), (20, 0.6))
    ]
    figures = pairs_figures.all_figures({"model": "m", "snapshots": snapshots})
    assert [*figures] == ["minimal_pairs", "steps"]
    ticks = [label.get_text() for label in drawn(figures["minimal_pairs"]).axes[0].xaxis.get_ticklabels()]
    assert ticks[1:-1] == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    _, curve, *intervals = figures["steps"].axes[0].lines
    assert ([*curve.get_xdata()], [*curve.get_ydata()]) == ([10, 20], [0.5, 0.6])
    assert [[*line.get_ydata()] for line in intervals] == [[0.5, 0.8]] * 2
    assert [*pairs_figures.all_figures({"model": "m", "snapshots": snapshots[1:]})] == ["minimal_pairs"]
