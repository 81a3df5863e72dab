"""The page of ``compare`` in a real browser: it fits, it is quiet, its read-out works, its text is only text."""

import math

import pytest

from attention_guidance.commands.report.compare_page import write_compare_page

pytestmark = pytest.mark.browser

EVIL = "</script><img src=x onerror=alert(1)>"


def demo():
    """One seed of 1,000 steps and 32 hostile tokens, in the shapes that ``compare`` writes."""

    def arm(final):
        curve = [{"step": s, "loss": final + 3 * math.exp(-s / 200), "accuracy": 0.2} for s in range(0, 1001, 100)]
        heads = [
            {"layer": layer, "head": head, "pattern": "next", "error": 0.1} for layer in range(2) for head in range(12)
        ]
        numbers = {"final_loss": final, "final_perplexity": 100.0, "final_accuracy": 0.3, "train_seconds": 800.0}
        return {"curve": curve, "guidance": heads, "step_seconds_p50": 0.5, **numbers}

    seed = {
        "seed": 1, "guided": arm(4.8), "unguided": arm(6.3), "steps_to_match": 260, "steps_ratio": 0.26,
        "final_loss_difference": -1.5, "step_time_ratio": 1.08, "wall_clock_ratio": 0.28,
    }  # fmt: skip
    compare = {
        "schema_version": 1, "kind": "compare", "date": "2026-11-22T23:10:00+00:00", "versions": {"torch": "2.13.0"},
        "device": "cpu", "command": "attention-guidance compare " + "x" * 200, "corpus": EVIL, "heads": EVIL,
        "weight": 0.1, "model": {"layers": 2}, "steps": 1000, "tokens_per_step": 4096, "seeds": [seed],
        "peak_memory": None, "verdict": EVIL,
    }  # fmt: skip
    tokens = [EVIL, "$a$", "שלום", "&amp;"] * 8
    maps = [{"layer": 0, "head": h, "pattern": EVIL, "weights": [[1 / 32] * 32] * 32} for h in range(3)]
    snapshots = [{"arm": a, "step": 0, "share": s, "maps": maps} for a in ("guided", "unguided") for s in (0.0, 1.0)]
    return compare, {"text": EVIL * 3, "tokens": tokens, "snapshots": snapshots}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "compare.html"
    write_compare_page(*demo(), path)
    return path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_fits_the_window(visit, width, scheme):
    page = visit(width, scheme)
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".curves svg:visible").count() == 1
    red = page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert (red < 60) == (scheme == "dark")


def test_text_is_only_text(visit):
    page = visit()
    assert page.locator("img").count() == 0
    assert page.locator("h1").inner_text() == EVIL
    assert page.locator(".words bdi").inner_text() == EVIL * 3
    assert page.locator(".words svg").first.locator("text").first.text_content() == EVIL[:11] + "…"


def test_hover_reads_the_curve(visit):
    page = visit()
    plot = page.locator(".curves .wide [data-part=plot]")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    # The line is drawn where the pointer's nearest evaluation is: at half of the way, step 500.
    page.mouse.move(box["x"] + box["width"] * 0.51, box["y"] + box["height"] / 2)
    expected = 3 * math.exp(-500 / 200)
    text = page.locator(".readout output").inner_text()
    assert text == f"step 500: guided {4.8 + expected:.2f}, unguided {6.3 + expected:.2f} (−1.50)"
    line = page.locator(".curves .wide .cursor line").bounding_box()
    assert line["x"] == pytest.approx(box["x"] + box["width"] / 2, abs=2)
    assert page.locator(".curves .wide .cursor circle").count() == 2


def test_keyboard_reads_the_curve(visit):
    page = visit(360, "dark")
    slider = page.get_by_label("Step", exact=True)
    slider.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".readout output").inner_text().startswith("step 900:")
    assert slider.get_attribute("aria-valuetext").startswith("step 900:")


def test_prints(visit):
    page = visit(scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator(".readout").is_visible()
    colour = page.evaluate("getComputedStyle(document.querySelector('h1')).color")
    assert colour == "rgb(27, 31, 36)"  # dark ink on paper, whatever the screen's theme
