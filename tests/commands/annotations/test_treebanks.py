"""CoNLL-U: words, ranges, empty nodes, and every error with its line."""

from __future__ import annotations

import pytest

from attention_guidance.commands.annotations.treebanks import Tree, read_trees
from attention_guidance.errors import CorpusError


def line(number, form, head, relation, misc="_"):
    return "\t".join([str(number), form, "_", "X", "_", "_", str(head), relation, "_", misc])


def write(tmp_path, *lines):
    path = tmp_path / "a.conllu"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_ranges_and_empty_nodes_are_no_words(tmp_path):
    path = write(
        tmp_path,
        "# sent_id = 1", line("1-2", "Don't", "_", "_"), line(1, "Do", 3, "aux"), line(2, "n't", 3, "advmod"),
        line(3, "go", 0, "root", "SpaceAfter=No"), line("3.1", "there", "_", "_"), line(4, ".", 3, "punct"), "", "",
        line(1, "Yes", 0, "root"),
    )  # fmt: skip
    first, second = read_trees(path)
    assert first == Tree(
        ("Do", "n't", "go", "."), (2, 2, -1, 2), ("aux", "advmod", "root", "punct"), (False, False, True, False),
        "a.conllu:2",
    )  # fmt: skip
    assert (second.words, second.source) == (("Yes",), "a.conllu:10")


def test_the_space_after_a_range_is_the_ranges(tmp_path):
    range_line = line("2-3", "du", "_", "_", "SpaceAfter=No")
    path = write(
        tmp_path, line(1, "loin", 0, "root"), range_line, line(2, "de", 4, "case"), line(3, "le", 4, "det"),
        line(4, "but", 1, "obl"),
    )  # fmt: skip
    (tree,) = read_trees(path)
    assert tree.no_space_after == (False, False, True, False)


def test_a_folder_is_read_in_order(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.conllu").write_text(line(1, name, 0, "root") + "\n")
    (tmp_path / "notes.txt").write_text("no tree")
    assert [tree.words for tree in read_trees(tmp_path)] == [("a",), ("b",)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1\tGo\t0"], r"a\.conllu:1: 3 columns; CoNLL-U has 10"),
        ([line(1, "Go", 0, "root"), line("x", "on", 1, "advmod")], r"a\.conllu:2: not CoNLL-U .*'x' is not a valid ID"),
        ([line(1, "Go", 0, "root"), line(3, "on", 1, "advmod")], r":2: word 3, expected 2"),
        ([line(1, "Go", 7, "root")], r":1: head 7 of word 1; expected 0 for the root, or another of .* 1 words"),
        ([line(1, "Go", 1, "root")], r":1: head 1 of word 1"),
        ([line(1, "Go", "_", "root")], r":1: head _ of word 1"),
        ([line(1, "Go", "a", "root")], r":1: not CoNLL-U .*'a'"),
        ([line(1, "Go", 0, "_")], r":1: word 1 has no relation"),
        (["# a comment"], r"a\.conllu: no sentence"),
    ],
)
def test_errors_name_the_line(tmp_path, lines, message):
    with pytest.raises(CorpusError, match=message):
        list(read_trees(write(tmp_path, *lines)))


def test_files_that_are_not_there_or_no_text(tmp_path):
    with pytest.raises(CorpusError, match="cannot be read"):
        list(read_trees(tmp_path / "none.conllu"))
    with pytest.raises(CorpusError, match=r"no \.conllu file"):
        list(read_trees(tmp_path))
    (tmp_path / "l.conllu").write_bytes(b"# ok\n1\tcaf\xe9\n")
    with pytest.raises(CorpusError, match=r"l\.conllu:2: invalid UTF-8 \(0xe9\)"):
        list(read_trees(tmp_path / "l.conllu"))


@pytest.mark.shared
def test_a_treebank_as_it_is(shared_data):
    trees = list(read_trees(shared_data / "ud_english_ewt" / "dev.conllu"))
    assert (len(trees), sum(len(tree.words) for tree in trees)) == (2001, 25147)
    assert all(tree.heads.count(-1) == 1 for tree in trees)
