"""Labels of words: schemes of entities, repairs, and every error with its line."""

from __future__ import annotations

import pytest

from attention_guidance.data.tagged import read_tagged
from attention_guidance.errors import CorpusError


def write(tmp_path, *tags, name="a.txt"):
    """Sentences given as labels; their words are w0, w1, ..."""
    path = tmp_path / name
    blocks = ["".join(f"w{n} {tag}\n" for n, tag in enumerate(sentence.split())) for sentence in tags]
    path.write_text("\n".join(blocks))
    return path


@pytest.mark.parametrize(
    ("given", "scheme", "bio"),
    [
        ("O B-PER I-PER B-PER O", "BIO", "O B-PER I-PER B-PER O"),
        ("I-PER I-PER B-PER O I-LOC", "IOB1", "B-PER I-PER B-PER O B-LOC"),
        ("I-PER I-LOC", "IOB1", "B-PER B-LOC"),
        ("B-PER E-PER S-LOC O B-X I-X E-X", "IOBES", "B-PER I-PER B-LOC O B-X I-X I-X"),
        ("B-PER L-PER U-LOC", "IOBES", "B-PER I-PER B-LOC"),
        ("O O", "BIO", "O O"),
        ("NOUN VERB ADJ", None, "NOUN VERB ADJ"),
    ],
)
def test_schemes_are_recognised_and_read_as_bio(tmp_path, given, scheme, bio):
    text = read_tagged(write(tmp_path, given))
    assert text.scheme == scheme
    assert " ".join(text.sentences[0].tags) == bio


def test_columns_documents_and_lines(tmp_path):
    path = tmp_path / "conll.txt"
    path.write_text("-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\nPeter NNP B-NP B-PER\n")
    text = read_tagged(path)
    assert [sentence.words for sentence in text.sentences] == [("EU", "rejects"), ("Peter",)]
    assert [sentence.first_line for sentence in text.sentences] == [3, 7]
    assert read_tagged(path, columns=(1, 2)).sentences[0].tags == ("NNP", "VBZ")


def test_words_with_spaces_are_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("New York\tB-LOC\r\nis\tO\r\n", newline="")
    assert read_tagged(path).sentences[0].words == ("New York", "is")
    path.write_text("10\u00a0000 B-NUM\nis  O\n")
    assert read_tagged(path).sentences[0].words == ("10\u00a0000", "is")


def test_parts_of_speech_of_conllu(tmp_path):
    row = "{}\t{}\t_\t{}\t_\t_\t0\troot\t_\t_\n"
    path = tmp_path / "a.conllu"
    path.write_text(
        "# text = Don't\n" + row.format("1-2", "Don't", "_") + row.format(1, "Do", "AUX") + row.format(2, "n't", "PART")
        + row.format("2.1", "go", "VERB")
    )  # fmt: skip
    (sentence,) = read_tagged(path).sentences
    assert (sentence.words, sentence.tags) == (("Do", "n't"), ("AUX", "PART"))


def test_a_label_that_continues_nothing_is_named_or_repaired(tmp_path):
    path = write(tmp_path, "B-PER O", "O I-DATE I-DATE B-LOC I-DATE")
    with pytest.raises(CorpusError, match=r"a\.txt:5: I-DATE continues nothing \(before it O\).*--repair"):
        read_tagged(path)
    text = read_tagged(path, repair=True)
    assert text.repaired == 2
    assert " ".join(text.sentences[1].tags) == "O B-DATE I-DATE B-LOC B-DATE"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"a\.txt: no sentence"),
        ("w\n", r"a\.txt:1: 1 column; expected a word and its label"),
        ("w B-PER\nv X-PER\n", r"a\.txt:2: label 'X-PER' among entities"),
        ("w B-PER\nv NOUN\n", r"a\.txt:2: label 'NOUN' among entities"),
        ("w B-PER\nNew York B-LOC\n", r"a\.txt:2: 3 columns where lines before have 2; expected one word a line"),
        ("w\tB-PER\n\tB-LOC\n", r"a\.txt:2: an empty column"),
    ],
)
def test_errors_name_the_line(tmp_path, content, message):
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(CorpusError, match=message):
        read_tagged(tmp_path / "a.txt")


@pytest.mark.shared
def test_real_entities(shared_data):
    text = read_tagged(shared_data / "swahili" / "ner" / "test.txt", repair=True)
    assert (text.scheme, text.repaired > 0) == ("BIO", True)
