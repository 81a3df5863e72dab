"""The page of ``report`` in a real browser: slider, hover and choice of a head do what they say; text is only text."""

import base64
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from attention_guidance.commands.report.run_page import write_run_page

pytestmark = pytest.mark.browser

EVIL = "</script><img src=x onerror=alert(1)>"
PATTERNS = ["next", "first", EVIL]
STEPS = range(100, 2001, 100)
TOKENS = ["<s>", EVIL, "$a$", "שלום", "end"]


def estimate(value):
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def head(layer, number, masses, guided):
    best = max(range(3), key=lambda p: masses[p])
    return {
        "layer": layer, "head": number, "follows": PATTERNS[best] if masses[best] >= 0.5 else None,
        "guided_toward": "next" if guided else None, "entropy": estimate(1.0),
        "patterns": {name: {"mass": estimate(mass)} for name, mass in zip(PATTERNS, masses, strict=True)},
    }  # fmt: skip


def census(guided):
    """Head 0 of each layer comes to follow `next` as the steps go by where it is guided; head 1 never follows any."""
    snapshots = []
    for step in STEPS:
        mass = step / 2000 if guided else 0.2
        heads = [
            head(layer, n, [mass if n == 0 else 0.1, 0.15, 0.05], guided and n == 0) for layer in (0, 1) for n in (0, 1)
        ]
        follows = [h["follows"] for h in heads]
        shares = {name: follows.count(name) / 4 for name in PATTERNS} | {"none": follows.count(None) / 4}
        snapshots.append({"model": EVIL, "step": step, "validation_loss": 5.0, "shares": shares, "heads": heads})
    return {
        "patterns": PATTERNS, "threshold": 0.5, "corpus": EVIL, "snapshots": snapshots,
        "sample": {"sequences": 8, "block_size": 16},
        "similarity": {"divergence": [], "positions": [[0, 0], [1, 0], [0, 1], [1, 1]]},
    }  # fmt: skip


def attention():
    """Each head looks one token further than the one before it."""
    maps = np.stack([np.roll(np.eye(5), shift, axis=1) for shift in range(4)])
    coded = base64.b64encode((255 * maps).astype(np.uint8).tobytes()).decode()
    return [
        {"text": EVIL, "tokens": TOKENS, "left_out": 0, "maps": coded},
        {"text": "b", "tokens": ["b"] * 5, "left_out": 7, "maps": coded},
    ]


def demo():
    runs = [
        {
            "name": name, "settings": {"heads": EVIL, "weight": 0.1}, "final_loss": 4.8,
            "validation": [[step, final + 3 * math.exp(-step / 400)] for step in STEPS],
            "guidance": [[step, 1 - step / 2000] for step in STEPS] if final < 5 else [],
            "census": census(final < 5), "attention": attention(),
        }
        for name, final in (("guided", 4.8), (EVIL, 6.3))
    ]  # fmt: skip
    label = {
        "label": EVIL, "questions": 100, "questions_scored": 50, "max": 0.5, "mean": 0.3,
        "best": {"layer": 0, "head": 1, "direction": "forward", **estimate(0.5)},
        "baseline": {"name": "offset:-1", **estimate(0.4)}, "gain": estimate(0.1), "intervals_apart": True,
        "rules": {}, "chance": 0.1,
    }  # fmt: skip
    probe = {
        "kind": "probe", "model": EVIL, "data": EVIL, "task": "dependency", "protocol": "words", "distractors": False,
        "layers": 2, "heads": 2, "directions": ["forward"], "accuracy": {"forward": [[0.1, 0.5], [0.2, 0.3]]},
        "max": 0.5, "mean": 0.3, "baselines": {"chance": 0.1},
        "counts": {"texts": 10, "questions": 100, "skipped_texts": {EVIL: 3}},
        "labels": [label | {"label": "all"}, label],
    }  # fmt: skip
    points = [
        {"run": "guided", "step": s, "loss": 6 - s / 1000, "max": s / 2000, "mean": 0.1, "chance": 0.2} for s in STEPS
    ]
    skill = {
        "task": EVIL, "data": EVIL, "runs": ["guided"], "points": points,
        "correlations": [{"run": None, "measure": m, "spearman": -1.0} for m in ("max", "mean")],
    }  # fmt: skip
    accuracy = {"value": 0.6, "low": 0.5, "high": 0.7, "pairs": 100}
    pairs = {
        "model": EVIL, "data": EVIL, "pairs": 103,
        "snapshots": [
            {"model": EVIL, "step": s, "skipped": 3, "accuracy": accuracy, "fields": [], "phenomena": [],
             "paradigms": [accuracy | {"name": EVIL}, accuracy | {"name": "b", "low": None, "high": None}]}
            for s in STEPS
        ],
    }  # fmt: skip
    return {
        "schema_version": 1, "kind": "report", "date": "2026-11-23T16:00:00+00:00", "versions": {"torch": "2.13.0"},
        "device": "cpu", "command": "attention-guidance report " + "x" * 200, "runs": runs, "probes": [probe],
        "pairs": [pairs], "skills": [skill], "has_attention": True, "has_slider": True,
        "downstream": [{"model": EVIL, "task": "ner", "metric": "f1", "mean": 0.5, "seeds": 5}],
        "tiles": [{"title": EVIL, "value": EVIL, "text": EVIL}],
    }  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_run_page(demo(), path)
    return path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_fits_the_window(visit, width, scheme):
    page = visit(width, scheme)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".chart svg:visible").count() == 2
    red = page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert (red < 60) == (scheme == "dark")


def test_text_is_only_text(visit):
    page = visit()
    assert page.locator("img").count() == 0
    assert page.locator("h1").inner_text() == f"guided, {EVIL}"
    assert page.locator("#look-map text").nth(2).text_content() == EVIL[:11] + "…" + EVIL  # and its tooltip
    assert page.locator("#look-run option").nth(1).text_content() == EVIL


def test_the_slider_shows_each_step(visit):
    page = visit()
    slider = page.get_by_label("Step of training")
    assert slider.input_value() == "19"
    cell = page.locator(".census").first.locator("button").first
    assert cell.inner_text() == "1.0"
    slider.focus()
    page.keyboard.press("Home")
    assert page.locator("#training-step").inner_text() == "step 100"
    assert cell.inner_text() == ".15"  # `first` is stronger than `next` is here
    assert cell.get_attribute("aria-label") == "layer 0 head 0: most on first, mass 0.15, guided toward next"
    assert page.locator(".census .at").first.inner_text() == "step 100, validation loss 5.00"
    assert page.locator(".census .shares").first.inner_text() == "none 100 %"
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert cell.inner_text() == ".55"
    assert cell.get_attribute("aria-label") == "layer 0 head 0: follows next, mass 0.55, guided toward next"
    assert page.locator(".census .shares").first.inner_text() == "next 50 %, none 50 %"
    # The run that is not guided stays as it was.
    assert page.locator(".census").nth(1).locator("button").first.inner_text() == ".20"


def test_hover_tells_of_a_head(visit):
    page = visit()
    page.locator(".census").first.locator("button").nth(2).hover()
    detail = page.locator(".census").first.locator(".detail").inner_text()
    assert detail.startswith("Layer 1, head 0: next 1.00, first 0.15, ")
    assert detail.endswith("entropy 1.00 nats; guided toward next.")


def test_arrows_go_from_head_to_head(visit):
    page = visit()
    card = page.locator(".census").first
    card.locator("button").first.focus()
    page.keyboard.press("ArrowDown")
    assert card.locator(".detail").inner_text().startswith("Layer 1, head 0: ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")  # there is none further to the right: the focus stays
    assert card.locator(".detail").inner_text().startswith("Layer 1, head 1: ")
    page.keyboard.press("Enter")
    assert page.locator("#look-what").inner_text().startswith("layer 1 head 1:")
    assert card.locator("button[tabindex='0']").count() == 1


def test_choosing_a_head_draws_it(visit):
    page = visit()
    strong = "#look-lines line"
    assert page.locator(strong).count() == 5  # layer 0 head 0 looks at itself
    lines = page.locator(strong).first
    assert lines.get_attribute("y1") == lines.get_attribute("y2")
    page.locator(".census").first.locator("button").nth(3).click()
    assert page.locator("#look-layer").input_value() == page.locator("#look-head").input_value() == "1"
    assert page.locator("#look-what").inner_text().startswith("layer 1 head 1: most on first")
    titles = page.locator("#look-map rect title").all_text_contents()
    assert titles[0] == "<s> → שלום: 1.00"  # the fourth head looks three tokens on
    assert page.locator(".census button[aria-pressed=true]").count() == 1
    page.select_option("#look-run", "1")
    page.select_option("#look-sentence", "1")
    assert page.locator("#look-map rect title").first.text_content() == "b → b: 1.00"


def test_a_word_shows_its_lines_alone(visit):
    page = visit()
    word = page.locator("#look-lines .word").nth(2)
    word.focus()
    page.keyboard.press("Enter")
    assert page.locator("#look-lines line").count() == 1
    assert page.locator("#look-lines .word").nth(2).get_attribute("aria-pressed") == "true"
    page.keyboard.press("Enter")
    assert page.locator("#look-lines line").count() == 5


def test_hover_reads_the_curve(visit):
    page = visit()
    plot = page.locator(".chart").first.locator(".wide [data-part=plot]")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    value = 3 * math.exp(-1000 / 400)
    said = page.locator(".chart").first.locator("output").inner_text()
    assert said == f"step 1,000: guided {4.8 + value:.3f}, {EVIL} {6.3 + value:.3f}"


def test_prints(visit):
    page = visit(scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator(".chart .readout").first.is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(27, 31, 36)"


def test_a_colour_is_that_of_the_pattern_that_a_head_follows(visit):
    """None for a head that follows none, in the grid and in the look through it."""
    page = visit()
    style = "e => e.style.getPropertyValue('--c')"
    cells = page.locator(".census").first.locator("button")
    assert cells.nth(0).evaluate(style) == "var(--series1)"
    assert cells.nth(1).evaluate(style) == "transparent"
    fill = "e => e.style.fill"
    assert page.locator("#look-map rect:has(title)").first.evaluate(fill) == "var(--series1)"
    cells.nth(1).click()
    assert page.locator("#look-map rect:has(title)").first.evaluate(fill) == "var(--ink)"
    page.get_by_label("Step of training").press("Home")
    assert cells.nth(0).evaluate(style) == "transparent"
    transparent = "e => getComputedStyle(e).backgroundColor"
    assert cells.nth(1).evaluate(transparent) == cells.nth(0).evaluate(transparent)
    assert "The number in a cell is the mass" in page.locator("#census + .note").inner_text()


def test_tooltips_have_whole_tokens(visit):
    page = visit()
    assert page.locator("#look-lines .word title").nth(1).text_content() == EVIL
    assert page.locator("#look-map rect title").nth(1).text_content() == f"{EVIL} → {EVIL}: 1.00"
    page.locator("#look-table").locator("xpath=ancestor::details").locator("summary").click()
    assert page.locator("#look-table td").nth(4).inner_text() == EVIL


def test_what_is_left_out_of_a_sentence_is_said(visit):
    page = visit()
    assert page.locator("#look-sentence option").all_text_contents() == [EVIL, "b"]
    assert not page.locator("#look-left-out").is_visible()
    page.select_option("#look-sentence", "1")
    said = "The model does not take all of this text: its last 7 tokens are left out."
    assert page.locator("#look-left-out").inner_text() == said


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("what", ["map", "lines"])
def test_a_look_is_saved_as_it_is_seen(visit, tmp_path, what, scheme):
    page = visit(scheme=scheme)
    page.locator(".census").first.locator("button").nth(2).click()
    files = {}
    for form in ("SVG", "PNG"):
        with page.expect_download() as download:
            page.get_by_label(f"Save the {what} as {form}").click()
        assert download.value.suggested_filename == f"guided-1.0-{what}.{form.lower()}"
        download.value.save_as(tmp_path / form)
        files[form] = (tmp_path / form).read_bytes()
    saved = ElementTree.fromstring(files["SVG"])
    assert b"var(--" not in files["SVG"]
    texts = saved.findall(".//{http://www.w3.org/2000/svg}text")
    assert len(texts) == 10
    surface = "#1a2027" if scheme == "dark" else "#ffffff"
    assert saved[0].attrib["style"] == f"fill: {surface};"
    _, _, width, height = map(float, saved.attrib["viewBox"].split())
    image = Image.open(tmp_path / "PNG").convert("RGB")
    assert image.size == (2 * width, 2 * height)
    assert "#{:02x}{:02x}{:02x}".format(*image.getpixel((1, 1))) == surface
    assert len(image.getcolors(10**6)) > 50
