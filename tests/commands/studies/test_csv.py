"""Text in tables is no formula to a spreadsheet."""

from __future__ import annotations

from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.workspace import Kind


def test_text_that_begins_like_a_formula_is_quoted_and_numbers_are_not(tmp_path):
    cells = ["=1+1", "+x", "-x", "@x", "\tx", "a=b", -0.5, -3, None]
    path = Output(tmp_path, Kind("x", finished="x")).csv("x.csv", [{"cell": cell, "y": 1} for cell in cells])
    read = path.read_text().splitlines()
    assert read == ["cell,y", "'=1+1,1", "'+x,1", "'-x,1", "'@x,1", "'\tx,1", "a=b,1", "-0.5,1", "-3,1", ",1"]
