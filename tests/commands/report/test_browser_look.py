"""The page of ``look`` in a real browser: a thumbnail chooses a head, a word its lines; text is only text."""

from __future__ import annotations

import numpy as np
import pytest

from attention_guidance.analysis import Look

pytestmark = pytest.mark.browser

EVIL = "</script><img src=x onerror=alert(1)>"
TOKENS = ["[CLS]", EVIL, "שלום", "end"]


def made(n_layers=2, n_heads=12):
    """Each head looks one token further than the one before it; the second sentence begins at the third token."""
    maps = np.stack([np.roll(np.eye(4, dtype=np.float32), n, 1) for n in range(n_layers * n_heads)])
    return Look(EVIL, TOKENS, np.array([-1, 0, 1, 1]), maps.reshape(n_layers, n_heads, 4, 4), ((0, 1),))


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("look") / "look.html"
    made().save(path)
    return path.as_uri()


def lines(page, panel=0):
    """Each line's query and key."""
    drawn = page.locator("figure").nth(panel).locator(".lines line")
    ends = drawn.evaluate_all("all => all.map(one => ['y1', 'y2'].map(name => Number(one.getAttribute(name))))")
    return [tuple(int(end // 18) for end in both) for both in ends]


def cells(page, panel=0):
    return page.locator("figure").nth(panel).locator(".cells title").all_text_contents()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1280])
def test_fits_the_window(visit, width, scheme):
    page = visit(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    red = page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert (red < 60) == (scheme == "dark")
    ink = page.locator(".word").first.evaluate("e => Number(getComputedStyle(e).fill.match(/\\d+/)[0])")
    assert (ink > 200) == (scheme == "dark")
    last = page.locator(".heads > rect").last
    last.scroll_into_view_if_needed()
    box = last.bounding_box()
    assert box["width"] >= 24
    assert box["x"] + box["width"] <= width


@pytest.mark.parametrize("width", [420, 1280])
def test_a_thumbnail_chooses_a_head(visit, width):
    page = visit(width)
    assert page.locator("figcaption").all_inner_texts() == ["Layer 0, head 1"]
    assert lines(page) == [(0, 1), (1, 2), (2, 3), (3, 0)]
    assert cells(page)[0] == f"[CLS] → {EVIL}: 1.00"
    page.locator(".heads > rect").nth(14).click()
    assert page.locator("figcaption").all_inner_texts() == ["Layer 1, head 2"]
    assert lines(page) == [(0, 2), (1, 3), (2, 0), (3, 1)]
    assert cells(page)[0] == "[CLS] → שלום: 1.00"
    assert page.locator(".heads > .chosen").get_attribute("aria-label") == "layer 1, head 2"
    assert page.locator("figure svg").first.get_attribute("aria-label") == "Map of layer 1, head 2"


def test_several_heads(visit):
    page = visit()
    heads = page.locator(".heads > rect")
    heads.nth(3).click(modifiers=["Shift"])
    page.get_by_label("Choose several heads").check()
    heads.nth(0).click()
    assert page.locator("figcaption").all_inner_texts() == [f"Layer 0, head {n}" for n in (0, 1, 3)]
    assert [lines(page, panel)[0] for panel in range(3)] == [(0, 0), (0, 1), (0, 3)]
    heads.nth(1).click()
    heads.nth(0).click()
    heads.nth(3).click()  # the last one stays
    assert page.locator("figcaption").all_inner_texts() == ["Layer 0, head 3"]
    assert page.locator(".heads > [aria-pressed=true]").count() == 1


def test_arrows_go_from_head_to_head(visit):
    page = visit()
    page.locator(".heads > rect").first.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowDown", "Enter"):  # there is none further down
        page.keyboard.press(key)
    assert page.locator("figcaption").inner_text() == "Layer 1, head 1"
    assert page.locator(".heads > [tabindex='0']").count() == 1


def test_a_word_shows_its_lines_alone(visit):
    page = visit()
    words = page.locator(".word")
    words.nth(2).hover()
    assert lines(page) == [(2, 3)]
    page.locator("h1").hover()
    assert len(lines(page)) == 4
    words.nth(1).focus()
    page.keyboard.press("Enter")
    assert lines(page) == [(1, 2)]
    assert words.nth(1).get_attribute("aria-pressed") == "true"
    page.locator(".heads > rect").nth(2).click()
    assert lines(page) == [(1, 3)], "the word stays chosen in the next head"
    words.nth(1).press("Enter")
    assert len(lines(page)) == 4


def test_text_is_only_text(visit):
    page = visit()
    assert page.locator("img").count() == 0
    assert page.locator("h1").inner_text() == EVIL
    assert page.locator(".word title").nth(1).text_content() == EVIL
    page.locator("summary").click()
    assert page.locator("td").nth(4).inner_text() == EVIL
    assert page.locator("td").nth(5).inner_text() == "שלום 1.00"


def test_what_is_drawn_without_a_script_is_what_is_drawn_with_it(browser, address, visit):
    page = browser.new_page(java_script_enabled=False)
    page.goto(address)
    still = page.locator("figure .lines line")
    attributes = ["x1", "x2", "y1", "y2", "stroke-opacity", "class"]
    before = [[line.get_attribute(name) for name in attributes] for line in still.all()]
    places = [cell.get_attribute("x") for cell in page.locator("figure .cell").all()]
    assert not page.locator(".several").is_visible()
    page.close()
    page = visit()
    after = [[line.get_attribute(name) for name in attributes] for line in page.locator("figure .lines line").all()]
    assert after == before
    assert [cell.get_attribute("x") for cell in page.locator("figure .cell").all()] == places


def test_a_notebook_shows_it_in_a_frame_as_high_as_what_is_in_it(browser):
    page = browser.new_page(viewport={"width": 800, "height": 600})
    page.set_content(f"<body>{made()._repr_html_()}</body>")
    frame = page.frame_locator("iframe")
    frame.locator(".heads > rect").nth(2).click()
    assert frame.locator("figcaption").inner_text() == "Layer 0, head 2"
    needs = frame.locator("main").evaluate("e => e.offsetHeight")
    assert page.locator("iframe").evaluate("e => e.offsetHeight") == needs + 4
    assert page.locator("iframe").get_attribute("title") == EVIL
    page.close()
