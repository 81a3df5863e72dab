"""Labels of words: schemes of entities, repairs, and every error with its line."""

from __future__ import annotations

import pytest

from attention_guidance.commands.annotations.tagged import read_tagged, write_tagged
from attention_guidance.commands.text.lines import Malformed
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
    with pytest.raises(CorpusError, match=r"a\.txt:5: I-DATE continues no entity \(it follows O\).*`repair`"):
        read_tagged(path)
    text = read_tagged(path, repair=True)
    assert text.repaired == 2
    assert " ".join(text.sentences[1].tags) == "O B-DATE I-DATE B-LOC B-DATE"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"a\.txt: no sentence"),
        ("w\n", r"a\.txt:1: 1 column; expected a word and its label"),
        ("w B-PER\nv X-PER\n", r"a\.txt:2: label 'X-PER' among entity labels"),
        ("w B-PER\nv NOUN\n", r"a\.txt:2: label 'NOUN' among entity labels"),
        ("w B-PER\nNew York B-LOC\n", r"a\.txt:2: 3 columns, but other lines have 2; expected one word per line"),
        ("w\tB-PER\n\tB-LOC\n", r"a\.txt:2: an empty column"),
    ],
)
def test_errors_name_the_line(tmp_path, content, message):
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(CorpusError, match=message):
        read_tagged(tmp_path / "a.txt")


def sentences_of(tmp_path, content, **how):
    path = tmp_path / "odd.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [list(zip(s.words, s.tags, strict=True)) for s in read_tagged(path, **how).sentences]


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\u2028", "\u2009", "\u1680", "\x85"])
@pytest.mark.parametrize("mark", [" ", "\t", " _ _ "])
def test_a_word_may_be_a_space_that_divides_nothing(tmp_path, space, mark):
    lines = [f"{word}{mark}{tag}" for word, tag in ((space, "O"), ("Ann", "B-PER"), (f"a{space}b", "I-PER"))]
    found = sentences_of(tmp_path, "\n".join([*lines, "", *lines, f"{space}{mark}O"]))
    once = [(space, "O"), ("Ann", "B-PER"), (f"a{space}b", "I-PER")]
    assert found == [once, [*once, (space, "O")]]


@pytest.mark.parametrize(
    "line",
    [
        "-DOCSTART- (1 China)",
        "-DOCSTART- (1 China)\tO",
        "-DOCSTART- -X- O O",
        "-DOCSTART-",
        " -DOCSTART- O",
        "1\t-DOCSTART-\tO",
    ],
)
def test_lines_between_documents_are_no_words(tmp_path, line):
    assert sentences_of(tmp_path, f"{line}\nAnn B-PER\nLee I-PER\n{line}\nhere O\n") == [
        [("Ann", "B-PER"), ("Lee", "I-PER")],
        [("here", "O")],
    ]


@pytest.mark.parametrize(
    "comment",
    [
        "# id f5458a3a-cd23-4df4-8384-4e23fe33a66b\tdomain=en",
        "# id f5458a3a-cd23-4df4-8384-4e23fe33a66b",
        "# text = Ann sees",
        "# sent_id = 5",
        "#begin document (bc/cctv/00/cctv_0001); part 000",
        "#end document",
        "# newdoc id = n01",
        "# a sentence about # signs and O",
    ],
)
@pytest.mark.parametrize("mark", [" ", "\t", " _ _ ", " NN "])
def test_comments_before_a_sentence_are_no_words(tmp_path, comment, mark):
    sentence = [("Ann", "B-PER"), ("sees", "O"), ("#", "O"), ("#tag", "O")]
    lines = "\n".join(f"{word}{mark}{tag}" for word, tag in sentence)
    assert sentences_of(tmp_path, f"{comment}\n{lines}\n\n{comment}\n{comment}\n{lines}\n") == [sentence, sentence]


def test_words_that_begin_like_comments_are_words(tmp_path):
    """Also at the beginning of a sentence, where comments are; a malformed one is no comment."""
    assert sentences_of(tmp_path, "# O\n1 B-X\n\n#tag O\n\n# B-X\n") == [
        [("#", "O"), ("1", "B-X")],
        [("#tag", "O")],
        [("#", "B-X")],
    ]
    assert sentences_of(tmp_path, "# SYM\n1 NUM\n")[0][0] == ("#", "SYM")
    with pytest.raises(CorpusError, match=r"odd\.txt:1: 3 columns, but other lines have 2"):
        sentences_of(tmp_path, "#New York B-X\nis O\n")


@pytest.mark.parametrize("language", ["en", "zh-min-nan", "simple", "fiu-vro"])
def test_the_language_before_every_word_is_no_part_of_it(tmp_path, language):
    words = ["Ann", ":", "a:b", "http://x"]
    lines = "".join(f"{language}:{word}\tO\n" for word in words) + f"{language}:Lee\tB-PER\n"
    assert [word for word, _ in sentences_of(tmp_path, lines)[0]] == [*words, "Lee"]
    # One word without it, and it is part of the others.
    assert sentences_of(tmp_path, lines + "\nre B-PER\n")[0][0] == (f"{language}:Ann", "O")


def test_malformed_lines_take_their_sentence_with_them(tmp_path):
    good = "".join(f"w{n} B-X\nv O\n\n" for n in range(40))
    bad = [b"New York B-X\nand O\n\n", b"w B-X\nw\n\n", b"w O\nM\xfcller B-X\n\n"]
    path = tmp_path / "odd.txt"
    path.write_bytes(good.encode() + b"".join(bad) + b"last B-X\n")
    with pytest.raises(CorpusError, match=r"odd\.txt:121: 3 columns, but other lines have 2|invalid UTF-8"):
        read_tagged(path)
    malformed = Malformed(path, skip=True)
    text = read_tagged(path, malformed=malformed)
    assert len(text.sentences) == 41
    assert text.sentences[-1].words == ("last",)
    assert malformed.note("sentences", 41).startswith(
        f"3 of 44 sentences of odd.txt are malformed and left out; the first: {path}:121: 3 columns, but "
        "other lines have 2"
    )
    with pytest.raises(CorpusError, match=r"odd\.txt:121: .*; 3 of 10 sentences are malformed, too many"):
        malformed.note("sentences", 7)


def test_written_words_have_three_columns_for_every_reader(tmp_path):
    words = ["New York", "\u00a0", "a\u2028b", "c\rd", "e\x85f", "g\x1ch", "i\tj"]
    write_tagged(tmp_path / "p.txt", [(words, ["O"] * 7, ["B-X"] * 7)])
    lines = (tmp_path / "p.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split() for line in lines] == [[w, "O", "B-X"] for w in
                                                ("New_York", "_", "a_b", "c_d", "e_f", "g_h", "i_j")]  # fmt: skip


@pytest.mark.shared
def test_real_entities(shared_data):
    text = read_tagged(shared_data / "swahili" / "ner" / "test.txt", repair=True)
    assert (text.scheme, text.repaired > 0) == ("BIO", True)


@pytest.mark.parametrize(
    ("content", "columns", "words"),
    [
        ("1\tNew\tB-LOC\n2\tYork\tI-LOC\n\n1\tis\tO\n", (2, 3), ("New", "York")),
        ("0 New B-LOC\n1 York I-LOC\n2 is O\n", (2, 3), ("New", "York", "is")),
        ("bc/1 0 New B-LOC\nbc/1 1 York I-LOC\nbc/1 2 is O\n\n" * 2, (3, 4), ("New", "York", "is")),
        ("1\tNew\tnew\tPROPN\t_\t_\t0\troot\t_\tB-LOC\n", (2, 10), ("New",)),
    ],
)
def test_a_column_that_counts_words_holds_none(tmp_path, content, columns, words):
    with pytest.raises(CorpusError, match=r"odd\.txt:1: the first column has no words .*; give the columns of words"):
        sentences_of(tmp_path, content)
    assert tuple(word for word, _ in sentences_of(tmp_path, content, columns=columns)[0]) == words


def test_numbers_may_be_words(tmp_path):
    assert sentences_of(tmp_path, "1\tO\n2\tO\n\nNew\tB-LOC\n")[0] == [("1", "O"), ("2", "O")]
    assert sentences_of(tmp_path, "no O\nno O\nno O\n\nyes B-X\nno O\nno O\n")[0] == [("no", "O")] * 3


def test_lines_that_end_with_carriage_returns_alone_are_refused(tmp_path):
    for name in ("a.txt", "a.conllu"):
        (tmp_path / name).write_bytes(b"New B-LOC\rYork I-LOC\r\ris O\r")
        with pytest.raises(CorpusError, match=rf"{name}: lines end with a carriage return alone"):
            read_tagged(tmp_path / name)


def test_some_words_may_have_spaces_but_most_are_not_texts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Hà Nội\tB-LOC\nlà\tO\n")
    assert read_tagged(path).sentences[0].words == ("Hà Nội", "là")
    path.write_text("Hà Nội là\tgood\nmột thành phố\tbad\nxin\tbad\n")
    with pytest.raises(CorpusError, match=r"a.txt:1: the first column has texts, not words \('Hà Nội là'\)"):
        read_tagged(path)
    assert read_tagged(path, columns=(1, 2)).sentences[0].words[2] == "xin"
