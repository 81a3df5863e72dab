"""The page of ``report`` for models of many heads: nothing is cut off, too small or in another's colour."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from attention_guidance.commands.report.run_page import write_run_page

pytestmark = pytest.mark.browser


def estimate(value):
    return {"value": value, "low": value, "high": value}


def pages(n_layers, n_heads, n_runs, n_tokens=40):
    """A report of models as large as they are, whose patterns are not all the same."""
    chance = np.random.default_rng(0)
    runs = []
    for number in range(n_runs):
        names = ["first", "next"] if number == 0 else ["next", "period", "first"]
        masses = chance.dirichlet(np.full(len(names), 0.3), size=(n_layers, n_heads))
        heads = [
            {
                "layer": layer, "head": head,
                "follows": names[masses[layer, head].argmax()] if masses[layer, head].max() >= 0.5 else None,
                "guided_toward": None, "entropy": estimate(1.0),
                "patterns": {name: {"mass": estimate(m)} for name, m in zip(names, masses[layer, head], strict=True)},
            }
            for layer in range(n_layers) for head in range(n_heads)
        ]  # fmt: skip
        follows = [head["follows"] for head in heads]
        shares = {name: follows.count(name) / len(heads) for name in [*names, None]}
        taken = {
            "model": "m", "step": None, "validation_loss": None, "heads": heads,
            "shares": {name or "none": share for name, share in shares.items()},
        }  # fmt: skip
        positions = np.concatenate([chance.normal(0, 0.02, (len(heads) // 2, 2)), chance.normal(0, 1, (len(heads), 2))])
        maps = chance.dirichlet(np.full(n_tokens, 0.1), size=(len(heads), n_tokens))
        coded = base64.b64encode((255 * maps).round().astype(np.uint8).tobytes()).decode()
        tokens = ["internationalization"] * n_tokens
        runs.append(
            {
                "name": f"model{number}", "settings": {}, "final_loss": None, "validation": [], "guidance": [],
                "census": {
                    "patterns": names, "threshold": 0.5, "corpus": "text", "snapshots": [taken],
                    "sample": {"sequences": 8, "block_size": 16},
                    "similarity": {"divergence": [], "positions": positions[: len(heads)].tolist()},
                },
                "attention": [{"text": "x", "tokens": tokens, "left_out": 0, "maps": coded}],
            }
        )  # fmt: skip
    empty = {
        "probes": [],
        "skills": [],
        "downstream": [],
        "tiles": [],
        "has_slider": False,
        "command": None,
        "has_attention": True,
    }
    return {"schema_version": 1, "kind": "report", "runs": runs, **empty}


@pytest.fixture(scope="module")
def address(large):
    return (large / "12.html").as_uri()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Pages of two models of 12 heads, and of one of 16."""
    folder = tmp_path_factory.mktemp("large")
    write_run_page(pages(12, 12, 2), folder / "12.html")
    write_run_page(pages(4, 16, 1), folder / "16.html")
    return folder


def opened(visit, path, width, scheme="light"):
    page = visit(width, scheme)
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize(("name", "width"), [("12", 1280), ("12", 390), ("16", 1280)])
def test_every_head_of_a_grid_is_seen(visit, large, name, width):
    page = opened(visit, large / f"{name}.html", width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for card in page.locator(".census").all():
        box, last = card.bounding_box(), card.locator("tbody tr").first.locator("button").last.bounding_box()
        assert last["x"] + last["width"] <= box["x"] + box["width"]
        assert last["width"] >= 22
        texts = card.locator("tbody tr").first.locator("button")
        wide = texts.evaluate_all("all => all.filter(one => one.scrollWidth > one.clientWidth).length")
        assert wide == 0, "a number is wider than its cell"


def test_a_grid_that_does_not_fit_a_phone_scrolls_within_its_card(visit, large):
    page = opened(visit, large / "16.html", 390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    last = page.locator(".headgrid tbody tr").first.locator("button").last
    last.scroll_into_view_if_needed()
    box = last.bounding_box()
    assert box["width"] >= 22
    assert box["x"] + box["width"] <= 390
    assert page.locator(".headgrid tbody th").first.bounding_box()["x"] >= 0, "the layer's number stays"


@pytest.mark.parametrize("width", [390, 1280])
def test_no_text_of_a_figure_is_too_small_to_read(visit, large, width):
    page = opened(visit, large / "12.html", width)
    sizes = page.locator(".drawn svg text, .drawnpair svg text").evaluate_all(
        "all => all.map(text => { const svg = text.ownerSVGElement;"
        " return parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width"
        " / svg.viewBox.baseVal.width; })"
    )
    assert len(sizes) > 40
    assert min(sizes) >= 8.9


def test_the_legend_and_the_colours_are_those_of_all_models(visit, large):
    page = opened(visit, large / "12.html", 1280)
    assert page.locator(".legend span").all_inner_texts() == ["first", "next", "period"]
    for number, card in enumerate(page.locator(".census").all()):
        for button in card.locator("button").all()[:12]:
            says, colour = button.get_attribute("aria-label"), button.evaluate("e => e.style.getPropertyValue('--c')")
            for place, name in enumerate(["first", "next", "period"], 1):
                assert (f"follows {name}," in says) == (colour == f"var(--series{place})"), (number, says, colour)


def test_a_long_sentence_scrolls(visit, large):
    page = opened(visit, large / "12.html", 390)
    assert page.locator("#look-lines .word").count() == 40
    for name in ("map", "lines"):
        box = page.locator(f".scroll:has(> #look-{name})").bounding_box()
        assert box["width"] <= 390
        assert box["height"] <= 0.85 * 800 + 1
    last = page.locator("#look-lines .word").last
    last.scroll_into_view_if_needed()
    assert last.is_visible()


def test_heads_in_the_plane_say_which_they_are(visit, large):
    page = opened(visit, large / "12.html", 1280)
    titles = page.locator(".plane").nth(1).locator("title").all_text_contents()
    assert len(titles) == 144
    assert titles[13].startswith("layer 1 head 1: ")
