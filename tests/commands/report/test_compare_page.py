"""The page of ``compare`` and its figures, without a browser."""

import copy
import html.parser
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import pytest

from attention_guidance.commands.report.compare_page import guidance_grid, write_compare_page
from attention_guidance.commands.report.figures import compare as figures
from attention_guidance.commands.report.figures.svg import PALETTE, save_png, to_svg
from attention_guidance.commands.report.figures.tokens import shown_tokens

EVIL = "</script><img src=x onerror=alert(1)>"


def arm(final, heads=()):
    curve = [{"step": step, "loss": final + 3 * math.exp(-step / 80), "accuracy": 0.1} for step in range(0, 401, 50)]
    guidance = [{"layer": layer, "head": head, "pattern": "next", "error": 0.05} for layer, head in heads]
    numbers = {"final_loss": final, "final_perplexity": math.exp(final), "final_accuracy": 0.3}
    return {"curve": curve, **numbers, "train_seconds": 80.0, "step_seconds_p50": 0.2, "guidance": guidance}


@pytest.fixture
def compare():
    """Two seeds of 400 steps in which guided is ahead."""
    seeds = [
        {
            "seed": seed, "guided": arm(4.8, [(0, 0), (1, 2)]), "unguided": arm(6.3), "steps_to_match": 80 + seed,
            "steps_ratio": 0.2 + seed / 50, "final_loss_difference": -1.5, "step_time_ratio": 1.08,
            "wall_clock_ratio": 0.22,
        }
        for seed in (1, 2)
    ]  # fmt: skip
    return {
        "schema_version": 1, "kind": "compare", "date": "2026-11-22T23:10:00+00:00", "versions": {"torch": "2.13.0"},
        "device": "cpu, 2 threads", "command": "attention-guidance compare bible", "corpus": "World English Bible",
        "heads": "next:1", "weight": 0.1, "model": {"layers": 2, "hidden": 32}, "steps": 400, "tokens_per_step": 512,
        "seeds": seeds, "peak_memory": {"guided_mib": 900.0, "unguided_mib": 850.0, "ratio": 1.06},
        "verdict": "Guided reached it after 81 of 400 steps.",
    }  # fmt: skip


@pytest.fixture
def maps():
    """Two heads of both arms at three points of training; tokens that are dangerous, long, and right to left."""
    tokens = ["<s>", " In", EVIL, "$x_1$", '"&', "שלום", "\x00\u202e", " " + "long" * 9]
    weights = [[1 / len(tokens)] * len(tokens) for _ in tokens]
    heads = [{"layer": n, "head": 2 * n, "pattern": p, "weights": weights} for n, p in enumerate(("next", None))]
    points = ((0, 0.0), (4, 0.01), (400, 1.0))
    snapshots = [{"arm": a, "step": s, "share": share, "maps": heads} for a in figures.ARMS for s, share in points]
    return {"text": f"In the {EVIL}", "tokens": tokens, "snapshots": snapshots}


class Elements(html.parser.HTMLParser):
    """Every start tag of a page with its attributes, and the text outside scripts and styles."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.text, self.skip = [], "", False
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.skip = tag in ("script", "style")

    def handle_endtag(self, tag):
        self.skip = False

    def handle_data(self, data):
        self.text += "" if self.skip else data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def render(tmp_path):
    def write(compare, maps=None):
        path = tmp_path / "compare.html"
        write_compare_page(compare, maps, path)
        return path.read_text(encoding="utf-8")

    return write


def test_order_and_semantics(render, compare, maps):
    source = render(compare, maps)
    page = Elements(source)
    assert len(page.all("h1")) == 1
    assert source.index(compare["verdict"]) < source.index('class="tiles"')
    ids = [attributes["id"] for attributes in page.all("h2")]
    assert ids == ["curves", "maps", "seeds", "heads", "made", "data"]
    assert len(page.all("caption")) == len(page.all("table")) == 3
    assert all(attributes.get("scope") for attributes in page.all("th"))
    assert all(a.get("role") == "img" and a.get("aria-label") for a in page.all("svg"))
    assert len(page.all("svg")) == 2 + 2 + 2  # curves wide and narrow, a card a head, one head with its words
    for text in ("0.23×", "−1.50", "1.08×", "1.06×", "Seeds: 0.22 to 0.24", "900 against 850 MiB", "2.13.0"):
        assert text in page.text


def test_loads_nothing_and_stays_small(render, compare, maps):
    source = render(compare, maps)
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:)?//", source)
    assert "@import" not in source
    assert not re.search(r"url\(\s*[\"']?http", source)
    assert "default-src 'none'" in source
    assert len(source) < 500_000


def test_equal_input_equal_bytes(render, compare, maps):
    before = dict(matplotlib.rcParams)
    assert render(compare, maps) == render(copy.deepcopy(compare), copy.deepcopy(maps))
    assert dict(matplotlib.rcParams) == before


def test_text_never_becomes_markup(render, compare, maps):
    compare["corpus"] = compare["verdict"] = compare["command"] = compare["heads"] = EVIL
    compare["seeds"][0]["guided"]["guidance"][0]["pattern"] = EVIL
    maps["snapshots"][0]["maps"][0] = maps["snapshots"][0]["maps"][0] | {"pattern": EVIL}
    page = Elements(render(compare, maps))
    assert not page.all("img")
    assert len(page.all("script")) == 2
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count(EVIL) >= 6


def test_tokens_are_shown_literally(maps):
    svg = to_svg(figures.labelled_map(maps, "guided", 0, 0))
    shown = [node.text for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert shown[::2] == ["<s>", "In", "</script><i…", "$x_1$", '"&', "שלום", "U+0000U+202E", "longlonglon…"]
    assert shown[::2] == shown[1::2]


def test_tokens_are_printable_and_short():
    tokens = [" the", " ", "\\xe4", "##ing", "\n", "\ud800", "Ġorġ", "Ã©", "Ab" * 9]
    shown = ["the", "␣", "\\xe4", "##ing", "⏎", "U+D800", "Ġorġ", "Ã©", "AbAbAbAbAbA…"]
    assert shown_tokens(tokens) == shown


def test_guided_never_matches(render, compare):
    for seed in compare["seeds"]:
        seed |= {"steps_to_match": None, "steps_ratio": None, "wall_clock_ratio": None, "final_loss_difference": 0.4}
        seed["guided"]["final_loss"] = 6.7
    text = Elements(render(compare | {"peak_memory": None})).text
    assert "Guided never reached unguided’s final validation loss within 400 steps." in text
    assert "+0.40" in text
    assert "Guided is worse." in text
    assert "Not measured." in text
    assert "is where" not in text


def test_one_of_two_seeds_matches(render, compare):
    compare["seeds"][0] |= {"steps_to_match": None, "steps_ratio": None}
    text = Elements(render(compare)).text
    assert "1 of 2" in text
    assert "In 1 of 2 seeds guided reached unguided’s final loss, after 82 of 400 steps" in text


@pytest.mark.parametrize("lost", [math.nan, math.inf, None, "diverged"])
@pytest.mark.parametrize("who", figures.ARMS)
def test_divergence_is_said(render, compare, lost, who):
    run = compare["seeds"][1][who]
    run |= {"final_loss": lost, "final_perplexity": lost}
    run["curve"][-1] = {"step": 400, "loss": lost, "accuracy": lost}
    compare["seeds"][1] |= {"steps_to_match": None, "steps_ratio": None, "final_loss_difference": None}
    source = render(compare)
    text = Elements(source).text
    assert f"{who.capitalize()} diverged in 1 of 2 seeds." in text
    assert not re.search(r"\b(nan|inf|None|NaN|Infinity|null)\b", text)
    assert not re.search(r"NaN|Infinity", source)


@pytest.mark.parametrize("points", [0, 1])
def test_few_points_one_seed_no_maps(render, compare, points):
    compare["seeds"] = compare["seeds"][:1]
    for who in figures.ARMS:
        compare["seeds"][0][who]["curve"] = compare["seeds"][0][who]["curve"][:points]
    page = Elements(render(compare))
    assert "What the heads attend to" not in page.text
    assert f"{points} evaluations" in page.text
    assert ("no finite validation loss" in page.text) == (points == 0)


def test_many_seeds(render, compare):
    compare["seeds"] = [compare["seeds"][0] | {"seed": number} for number in range(8)]
    assert "Thin lines are the 8 seeds" in Elements(render(compare)).text


def test_guidance_grid(compare):
    compare["seeds"][1]["guided"]["guidance"][0]["error"] = 0.15
    grid = guidance_grid(compare)
    assert grid["heads"] == [0, 2]
    (_, (first, blank)), (layer, (_, second)) = grid["rows"]
    assert (layer, blank, first["span"]) == (1, None, (0.05, 0.15))
    assert first["error"] == pytest.approx(0.1)
    assert second["pattern"] == "next"


def test_mean_needs_every_seed(compare):
    compare["seeds"][1]["unguided"]["curve"].pop()
    compare["seeds"][0]["unguided"]["curve"][2]["loss"] = math.nan
    losses = dict(figures.mean_curve(compare, "unguided"))
    assert losses[0] == pytest.approx(9.3)
    assert losses[400] is None
    assert losses[100] is None


def test_match_is_marked_only_when_every_seed_matches(compare):
    assert figures.match_point(compare) == (81.5, pytest.approx(6.3))
    assert "step 82" in to_svg(figures.loss_curves(compare))
    compare["seeds"][0]["steps_to_match"] = None
    assert figures.match_point(compare) is None
    assert "is where" not in to_svg(figures.loss_curves(compare))


def test_colours_follow_the_theme_and_text_stays(compare):
    compare_svg = to_svg(figures.loss_curves(compare))
    for role in ("ink", "muted", "rule", "surface", "guided", "unguided"):
        colour = PALETTE[role]
        assert compare_svg.count(colour) == compare_svg.count(f"var(--{role}, {colour})") > 0
    curious = figures.loss_curves(compare)
    curious.text(0, 0, 'a #0069a8 id="b"', parse_math=False)
    assert 'a #0069a8 id="b"' in to_svg(curious)


def test_png_and_full_figure(maps, tmp_path):
    for snapshot in maps["snapshots"][:1]:
        snapshot["maps"] = snapshot["maps"][:1]  # one map is missing, another diverged
    broken = maps["snapshots"][1]["maps"][0] | {"weights": [[math.nan] * 8] * 8}
    maps["snapshots"][1]["maps"] = [broken, *maps["snapshots"][1]["maps"][1:]]
    fig = figures.attention_maps(maps)
    svg = to_svg(fig)
    assert "not recorded" in svg
    assert "diverged" in svg
    save_png(figures.labelled_map(maps, "unguided", 1, 2), tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"\[\(9, 9\)\]"):
        figures.attention_maps(maps, [(9, 9)])


def test_wrong_input_is_named(compare, tmp_path):
    with pytest.raises(ValueError, match="schema_version 2"):
        write_compare_page(compare | {"schema_version": 2}, None, tmp_path / "page.html")
    with pytest.raises(ValueError, match="no seeds"):
        write_compare_page(compare | {"seeds": []}, None, tmp_path / "page.html")
    assert not list(Path(tmp_path).iterdir())
