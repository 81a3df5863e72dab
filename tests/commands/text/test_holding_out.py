"""What is held out: a share of the text, whatever its documents are, and nothing that is trained on."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from attention_guidance.commands.text.corpora import Document, read_documents
from attention_guidance.commands.text.embedded import embedded_documents
from attention_guidance.commands.text.holding_out import HeldOutText, cut, hold_out, hold_out_items, split_validation
from attention_guidance.errors import ConfigError, CorpusError


def documents(n: int) -> list[Document]:
    return [Document(f"text {i}", f"a.txt:{i + 1}") for i in range(n)]


def lines(n: int, seed: int = 0) -> list[str]:
    """Lines that differ, of 20 to 60 letters."""
    chance = random.Random(seed)
    return [f"{i} " + "".join(chance.choices("abcdefgh ", k=chance.randint(20, 60))).strip() for i in range(n)]


SHAPES = {
    "a line each": lines(2000),
    "one line": [" ".join(lines(2000))],
    "one of many lines": ["\n".join(lines(2000))],
    "halves": ["\n".join(half) for half in (lines(2000)[:1000], lines(2000)[1000:])],
    "a title and a text": ["A title", "\n".join(lines(2000))],
    "a text and many titles": ["\n".join(lines(2000)), *(f"Title {n}" for n in range(500))],
    "one without spaces": ["".join(lines(2000)).replace(" ", "")],
    "one of a thousand times the others": [*lines(1000), "\n".join(lines(20_000, seed=1))],
    "growing": ["\n".join(lines(n, seed=n)) for n in range(1, 90)],
    "short": lines(150),
    "mostly repeated": ["The same again and again."] * 1000 + lines(1000),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_share_of_the_text_whatever_the_documents_are(shape: str, share: float, seed: int) -> None:
    whole = [Document(text, f"a.txt:{n}") for n, text in enumerate(SHAPES[shape], 1)]
    split = split_validation(whole, share=share, seed=seed)
    held, kept = ([document.text for document in part] for part in (split.validation, split.train))
    size = len("".join(SHAPES[shape]))
    assert share / 2 <= len("".join(held)) / size <= share * 2
    # Nothing is lost, and nothing is on both sides.
    letters = Counter("".join(SHAPES[shape]))
    letters.subtract("".join(held + kept))
    assert not {letter for letter, n in letters.items() if n and letter not in " \n"}
    assert not set(held) & set(kept)
    assert split == split_validation(whole, share=share, seed=seed)


@pytest.mark.parametrize(("n", "share", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (100, 0.1, 10), (10, 0.999, 9)])
def test_of_like_documents_it_is_a_share_of_their_number(n: int, share: float, expected: int) -> None:
    whole = documents(n)
    split = split_validation(whole, share=share, seed=0)
    assert len(split.validation) == expected
    assert len(split.train) == n - expected
    order = {document: index for index, document in enumerate(whole)}
    for side in (split.train, split.validation):
        assert side == sorted(side, key=order.__getitem__)
    assert set(split.train) | set(split.validation) == set(whole)


def test_it_depends_on_seed_and_order_alone() -> None:
    def chosen(whole: list[Document], seed: int) -> list[int]:
        return [whole.index(d) for d in split_validation(whole, share=0.1, seed=seed).validation]

    first = chosen(documents(40), 3)
    assert first == [11, 26, 27, 38]  # written down: the choice must never move
    assert chosen([Document(f"other {i}", "b") for i in range(40)], 3) == first
    assert chosen(documents(40), 4) != first


@pytest.mark.parametrize("before", ["", "A title\n", "\n".join(lines(7, seed=3)) + "\n", "w " * 300 + "\n"])
def test_what_stands_elsewhere_too_is_not_held_out(before: str) -> None:
    again, new = lines(1000, seed=1), lines(1000, seed=2)
    texts = ["\n".join(again), before + "\n".join(again), *("\n".join(new[n : n + 50]) for n in range(0, 1000, 50))]
    whole = [Document(text, "a") for text in texts]
    split = split_validation(whole, share=0.1, seed=0)
    held = {line for document in split.validation for line in document.text.split("\n")}
    assert held <= set(new)
    assert 0.05 <= len("".join(held)) / len("".join(texts)) <= 0.2
    # What a document repeats within itself stands nowhere else.
    songs = [Document("\n".join([f"Verse {n}", refrain := f"Refrain {n}", refrain, refrain]), "a") for n in range(200)]
    assert len(split_validation(songs, share=0.1, seed=0).validation) == 20


def test_of_the_embedded_text_the_same_chapters_as_ever() -> None:
    whole = list(embedded_documents())
    held = hold_out(lambda: whole, sum(len(d.text) for d in whole), share=0.02, seed=0, at_most=8 * 32_768)
    assert [document.source for document in held.in_order] == [
        whole[number].source for number in sorted(hold_out_items(1189, share=0.02, seed=0))
    ]
    assert held.n_whole == len(held.passages) == 24
    assert held.in_order[0].source == "Exodus 13"


def test_a_cut_document_is_put_together_again_around_its_gaps() -> None:
    text = "\n".join(lines(500))
    read = [Document("Title", "a:1"), Document(text, "a:3")]
    held = hold_out(lambda: read, len(text), share=0.1, seed=0)
    assert held.n_whole == 0
    parts = [document.text for number, document in held.rest(read) if number == 1]
    marked = text
    for passage in held.passages:
        assert marked.count(passage.text) == 1
        marked = marked.replace(passage.text, "\0")
    assert [part.strip() for part in marked.split("\0") if part.strip()] == parts
    # Lines stay whole.
    assert {line for part in parts for line in part.split("\n")} <= set(text.split("\n"))
    assert [*HeldOutText().rest(read)] == [*enumerate(read)]


def test_enough_is_enough(tmp_path: Path) -> None:
    whole = [Document(text, "a") for text in lines(20_000)]
    n_chars = sum(len(document.text) for document in whole)
    held = hold_out(lambda: whole, n_chars, share=0.5, seed=0, at_most=8000)
    assert 4000 <= sum(len(passage.text) for passage in held.passages) <= 12_000
    assert len(list(held.rest(whole))) == len(whole) - len(held.passages)


@pytest.mark.parametrize(
    "text", ["a\nb", "", "x" * 50, "ab " * 30, "\n" * 40, "é" * 41, "กิน" * 30, "a" * 9 + "\n" + "b" * 80]
)
@pytest.mark.parametrize("longest", [1, 7, 16])
def test_slices_make_up_the_text(text: str, longest: int) -> None:
    slices = cut(text, longest)
    assert "".join(slices) == text
    assert all(0 < len(part) <= longest for part in slices[:-1])
    assert len(slices[-1]) <= longest
    if longest > 2:
        assert not any(part.startswith("\u0e34") for part in slices)  # a vowel sign stays with its letter


@pytest.mark.parametrize("text", ["word", "\n\nword\n"])
def test_too_short_to_be_divided(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(
        CorpusError, match=r"^1 document \(a.txt:\d\) of 4 characters: too short to hold out validation text"
    ):
        split_validation(list(read_documents([tmp_path / "a.txt"])), share=0.1, seed=0)


def test_refusals() -> None:
    with pytest.raises(CorpusError, match="0 documents: too short"):
        split_validation([], share=0.1, seed=0)
    same = [Document("The same.", "a")] * 50
    with pytest.raises(CorpusError, match="passages chosen for validation are repeated in the training text"):
        split_validation(same, share=0.1, seed=0)
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="validation share"):
            split_validation(documents(9), share=share, seed=0)


def test_items_of_one_size() -> None:
    assert hold_out_items(40, share=0.1, seed=3) == {11, 26, 27, 38}
    assert [len(hold_out_items(n, share=s, seed=0)) for n, s in ((2, 0.01), (2, 0.99), (100, 0.5))] == [1, 1, 50]
    assert len(hold_out_items(100, share=0.5, seed=0, at_most=7)) == 7
