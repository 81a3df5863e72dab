"""GAP files: offsets that are right, and every error with its line."""

from __future__ import annotations

import pytest

from attention_guidance.commands.annotations.gap import read_gap
from attention_guidance.errors import CorpusError

HEADER = "ID\tText\tPronoun\tPronoun-offset\tA\tA-offset\tA-coref\tB\tB-offset\tB-coref\tURL"
ROW = 'x-1\tAnn "met" Zoë; she won.\tshe\t15\tAnn\t0\tTRUE\tZoë\t10\tFALSE\thttp://x'


def write(tmp_path, *lines):
    path = tmp_path / "g.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_an_example(tmp_path):
    (example,) = read_gap(write(tmp_path, HEADER, ROW))
    assert [example.text[slice(*span)] for span in (example.pronoun, *example.names)] == ["she", "Ann", "Zoë"]
    assert (example.refers, example.source) == ((True, False), "g.tsv:2")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER.replace("\tB-coref", "")], r"g\.tsv:1: no column B-coref"),
        ([HEADER, ROW, ROW + "\textra"], r"g\.tsv:3: 12 columns, the header has 11"),
        ([HEADER, ROW.replace("\t15\t", "\t14\t")], r"g\.tsv:2: Pronoun 'she' is not at Pronoun-offset 14"),
        ([HEADER, ROW.replace("\t15\t", "\t-1\t")], r"g\.tsv:2: Pronoun 'she' is not at Pronoun-offset -1"),
        ([HEADER, ROW.replace("TRUE", "yes")], r"g\.tsv:2: A-coref is 'yes'; expected TRUE or FALSE"),
        ([HEADER, ROW.replace("Zoë\t10", "Ann\t0")], r"g\.tsv:2: the pronoun and the two names overlap"),
        ([HEADER], r"g\.tsv: no example"),
        ([], r"g\.tsv:1: no column ID"),
    ],
)
def test_errors_name_the_line(tmp_path, lines, message):
    with pytest.raises(CorpusError, match=message):
        list(read_gap(write(tmp_path, *lines)))
