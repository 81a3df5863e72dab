"""The picture of a look: its shapes, what is text in it, and how it is saved."""

from __future__ import annotations

import base64
import builtins
import errno
import io
import os
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from test_look import TEXT, bert

from attention_guidance.analysis import Look, look
from attention_guidance.analysis.sentence.layout import head_lines, head_map, thumbnails
from attention_guidance.analysis.sentence.picture import PITCH
from attention_guidance.errors import ConfigError, GuidanceError, SaveError

__all__ = ["bert"]


def test_it_is_saved_by_its_ending(bert, tokenizer, tmp_path):
    seen = look(bert, tokenizer, TEXT, heads=[(0, 1), (1, 0), (0, 1)])
    assert seen.heads == ((0, 1), (1, 0))
    for ending in ("html", "svg", "PNG"):
        path = tmp_path / f"look.{ending}"
        seen.save(path)
        before = path.read_bytes()
        with pytest.raises(ConfigError, match=r"exists already; replace it with overwrite=True"):
            seen.save(str(path))
        assert path.read_bytes() == before
        path.write_bytes(b"")
        seen.save(path, overwrite=True)
        assert path.read_bytes() == before
    with Image.open(tmp_path / "look.PNG") as image:
        assert image.size == (2 * seen._picture().width, 2 * seen._picture().height)
    with pytest.raises(ConfigError, match=r"look.pdf does not end in .html, .svg, .png"):
        seen.save(tmp_path / "look.pdf")
    with pytest.raises(SaveError, match="could not write"):
        seen.save(tmp_path / "none" / "look.svg")


def test_a_png_without_matplotlib(bert, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    seen = look(bert, tokenizer, TEXT)
    with pytest.raises(ConfigError, match=r"a PNG needs matplotlib .*: pip install matplotlib"):
        seen.save(tmp_path / "look.png")
    assert not (tmp_path / "look.png").exists()
    seen.save(tmp_path / "look.html")
    assert issubclass(ConfigError, GuidanceError)


def test_a_plain_shell_shows_a_line(bert, tokenizer, capsys, monkeypatch):
    """Without a notebook, its widgets and matplotlib."""
    for name in ("IPython", "ipywidgets", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(builtins, "_", None, raising=False)  # where the shell keeps it
    sys.displayhook(look(bert, tokenizer, TEXT))
    assert capsys.readouterr().out == f"<Look of BertModel: {TEXT}: 11 tokens, 2 layers of 2 heads>\n"


def drawn(svg, kind):
    """The attributes of the shapes of a kind, as numbers where they are."""
    root = ElementTree.fromstring(svg)
    return [
        {name: float(value) for name, value in shape.attrib.items() if re.fullmatch(r"-?[\d.]+", value)}
        for shape in root.iter()
        if shape.get("class") == kind
    ]


MAP = np.array([[0, 0, 0.25], [0.01, 1, 0], [0, 0.001, 0]], np.float32)


def test_a_map_has_a_cell_for_each_weight_that_can_be_seen():
    picture = head_map(["a", "b", "c"], 2, MAP)
    cells = [(cell["y"] / PITCH, cell["x"] / PITCH, cell["fill-opacity"]) for cell in drawn(picture.svg("x"), "cell")]
    assert cells == [(0, 2, 0.5), (1, 0, 0.1), (1, 1, 1)], "the root, so that small weights are seen"
    rules = drawn(picture.svg("x"), "rule")
    assert [(rule["x1"], rule["y1"], rule["x2"], rule["y2"]) for rule in rules] == [
        (0, 2 * PITCH, 3 * PITCH, 2 * PITCH),
        (2 * PITCH, 0, 2 * PITCH, 3 * PITCH),
    ]


def test_lines_go_from_the_query_to_the_key():
    lines = drawn(head_lines(["a", "b", "c"], None, MAP).svg("x"), "line")
    rows = [(line["y1"] / PITCH - 0.5, line["y2"] / PITCH - 0.5, line["stroke-opacity"]) for line in lines]
    assert rows == [(0, 2, 0.25), (1, 1, 1)]
    assert all(line["x1"] == 0 < line["x2"] for line in lines)


@pytest.mark.parametrize("n_tokens", [3, 20, 88, 300])
def test_thumbnails_show_diagonals_of_any_length(n_tokens):
    """A head that looks at the next token, which no sampling of the rows may lose; and a head that looks at nothing."""
    maps = np.zeros((1, 2, n_tokens, n_tokens), np.float32)
    maps[0, 1] = np.eye(n_tokens, k=1)
    svg = thumbnails(maps, [(0, 1)]).svg("x")
    image = Image.open(io.BytesIO(base64.b64decode(re.search('base64,([^"]+)', svg)[1])))
    assert image.size == (192, 96)
    alpha = np.asarray(image)[..., 3]
    assert alpha[:, :96].max() == 0
    shown = alpha[:88, 96:184] == 255
    assert (alpha > 0).sum() == shown.sum()
    rows = np.flatnonzero(shown.any(1))
    assert rows[0] == 0
    assert rows[-1] >= 87 - 88 / n_tokens
    assert (np.diff(rows) == 1).all()
    assert len(drawn(svg, "chosen")) == 1


def test_text_of_a_picture_is_only_text(bert, tokenizer):
    evil = "</svg><script>alert(1)</script>&\u202e\n"
    seen = Look(evil, [evil, "b"], np.array([0, 0]), np.full((1, 1, 2, 2), 0.5, np.float32), ((0, 0),))
    root = ElementTree.fromstring(seen.svg())
    assert "script" not in {element.tag.rpartition("}")[2] for element in root.iter()}
    titles = {element.text for element in root.iter() if element.tag.endswith("title")}
    assert "</svg><script>alert(1)</script>&U+202E⏎" in titles
    assert "<script>alert" not in seen.html()
    assert "\u202e" not in seen.html()
    assert seen._repr_html_().count("<") == 2


@pytest.mark.parametrize("character", ["\0", "\x0b", "\x1b", "\ufffe"])
def test_characters_that_xml_forbids_are_shown_by_their_code_points(bert, tokenizer, character):
    seen = look(bert, tokenizer, f"the{character}king")
    root = ElementTree.fromstring(seen.svg())
    code = f"U+{ord(character):04X}"
    assert root.get("aria-label") == f"Attention of BertModel: the{code}king"
    for shown in (repr(seen), seen._repr_html_(), seen.html()):
        assert code in shown
        assert character not in shown


def test_a_save_that_fails_leaves_the_file_as_it_was(bert, tokenizer, tmp_path, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    seen, path = look(bert, tokenizer, TEXT), tmp_path / "look.svg"
    path.write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", full)
    for name in ("look.svg", "look.html"):
        with pytest.raises(SaveError, match=rf"could not write .*{name}: .*No space left"):
            seen.save(tmp_path / name, overwrite=True)
    assert path.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [path]


def test_a_folder_is_no_file(bert, tokenizer, tmp_path):
    (tmp_path / "look.html").mkdir()
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"look\.html is a folder; give a file"):
            look(bert, tokenizer, TEXT).save(tmp_path / "look.html", overwrite=overwrite)
