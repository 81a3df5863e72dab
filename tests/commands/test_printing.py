"""What is printed is text: neither markup nor terminal sequences, whatever it comes from."""

from __future__ import annotations

import io

import pytest
from rich.progress import Progress

from attention_guidance.commands.plain import plain
from attention_guidance.commands.printing import Console, Description, Table, lines

NASTY = "[/x] [bold]b[/] :smile: \x1b[31mred\x07 \x9b2J \r\n\u2028 \u202edlo \udcff"
SHOWN = r"[/x] [bold]b[/] :smile: \x1b[31mred\x07 \x9b2J \r\n\u2028 \u202edlo \udcff"


def printed(*objects, width=200, **options):
    console = Console(**options)
    console.file, console.width = io.StringIO(), width
    console.print(*objects)
    return console.file.getvalue()


def test_text_is_shown_as_it_is():
    assert plain(NASTY) == SHOWN
    # Joiners, marks and symbols are text.
    assert plain("می\u200cها e\u0301 👩\u200d🚀 \u00a0$") == "می\u200cها e\u0301 👩\u200d🚀 \u00a0$"


def test_lines_and_tables():
    assert printed(NASTY) == SHOWN + "\n"
    table = Table(title=NASTY)
    table.add_column(NASTY)
    table.add_row(NASTY)
    table.add_row(lines("a", NASTY))
    said = printed(table)
    assert said.count(SHOWN) == 4
    assert not set(said) & set("\x1b\x07\x9b\r\u2028\u202e\udcff")
    assert len(said.splitlines()) == 8  # title, three lines of heading, three of cells, the end
    assert printed(table, quiet=True) == ""


def test_progress():
    console = Console()
    console.file = io.StringIO()
    with Progress(Description(), console=console) as bars:
        bars.update(bars.add_task("begun"), description=NASTY)
    assert console.file.getvalue() == SHOWN + "\n"


@pytest.mark.parametrize("text", ["", "a b", "$x$ #tag 'quoted' https://a.b 12.5"])
def test_ordinary_text_is_left_alone(text):
    assert plain(text) == text
    assert printed(text) == text + "\n"
