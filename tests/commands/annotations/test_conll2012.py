from pathlib import Path

import pytest

from attention_guidance.commands.annotations.conll2012 import CorefDocument, CorefWord, Mention, read_conll2012
from attention_guidance.errors import CorpusError

BEGIN = "#begin document (nw/a); part 000"

# Every column in use, two parts; lines are counted by the tests below.
TWO_PARTS = r"""#begin document (bc/kiosk/01); part 000
bc/kiosk/01 0 0 Ada    NNP   (TOP(S(NP*      -    -  - Vera (PERSON)  (ARG0* *      (0
bc/kiosk/01 0 1 's     POS             *)    -    -  - Vera *         *      *      0)
bc/kiosk/01 0 2 sister NN             *)     -    -  2 Vera *         *)     *      -
bc/kiosk/01 0 3 met    VBD           (VP*    meet 01 3 Vera *         (V*)   *      -
bc/kiosk/01 0 4 her    PRP           (NP*)   -    -  - Vera *         (ARG1*) *     (0)
bc/kiosk/01 0 5 in     IN            (PP*    -    -  - Vera *         (LOC*  *      -
bc/kiosk/01 0 6 New    NNP           (NP*    -    -  - Vera (FAC(GPE* *      *      _
bc/kiosk/01 0 7 Ulm    NNP               *   -    -  - Vera *)        *      *      _
bc/kiosk/01 0 8 Hall   NNP             *)))  -    -  - Vera *)        *)     *      _
bc/kiosk/01 0 9 /.     .              *))    -    -  - Vera *         *      *      -

# a comment
bc/kiosk/01 0 0 She PRP (TOP(S(NP*) - - - Omar * (0)
bc/kiosk/01 0 1 left VBD (VP*))) - - - Omar * -
#end document
#begin document (bc/kiosk/01); part 001
bc/kiosk/01 1 0 -LRB- -LRB- (TOP(NP* - - - - * -
bc/kiosk/01 1 1 It PRP *)) - - - - * (0)
#end document
"""


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def conll(*sentences: str) -> str:
    """Make a file of one document; in a sentence, a line is `word POS parse coreference`."""
    lines = [BEGIN]
    for sentence in sentences:
        for index, line in enumerate(sentence.strip().splitlines()):
            word, pos, parse, coreference = line.split()
            lines.append(f"nw/a 0 {index} {word} {pos} {parse} - - - - * {coreference}")
        lines.append("")
    return "\n".join([*lines, "#end document", ""])


def tagged(phrase: str, parse: str = "*") -> str:
    """Make a sentence that is one mention from `word/POS` tokens and, for each, a parse bit."""
    tokens = [token.split("/") for token in phrase.split()]
    bits = parse.split() if " " in parse else [parse] * len(tokens)
    marks = ["-"] * len(tokens)
    marks[0], marks[-1] = ("(7", "7)") if len(tokens) > 1 else ("(7)", "(7)")
    rows = zip(tokens, bits, marks, strict=True)
    return "\n".join(f"{word} {pos} {bit} {mark}" for (word, pos), bit, mark in rows)


def read_one(path: Path, content: str | bytes) -> CorefDocument:
    (document,) = read_conll2012(write(path / "a_conll", content))
    return document


def spans(document: CorefDocument) -> list[list[tuple[int, int]]]:
    return [[(mention.start, mention.end) for mention in chain] for chain in document.chains]


def refusal(path: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        list(read_conll2012(path))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_two_parts(tmp_path: Path) -> None:
    first, second = read_conll2012(write(tmp_path / "kiosk.v4_gold_conll", TWO_PARTS))
    assert (first.name, first.part, first.source) == ("bc/kiosk/01", "000", "kiosk.v4_gold_conll:1")
    assert (second.name, second.part, second.source) == ("bc/kiosk/01", "001", "kiosk.v4_gold_conll:17")
    assert first.sentences == ((0, 10), (10, 12))
    assert second.sentences == ((0, 2),)
    # `Ada 's`, `her`, `She`: the possessive is no head; places of the second sentence count on.
    ada = (Mention(0, 2, 0, "proper"), Mention(4, 5, 4, "pronominal"), Mention(10, 11, 10, "pronominal"))
    assert first.chains == (ada,)
    assert second.chains == ((Mention(1, 2, 1, "pronominal"),),)  # chain 0 of another part is another entity


def test_columns_of_a_word(tmp_path: Path) -> None:
    document, _ = read_conll2012(write(tmp_path / "a.conll", TWO_PARTS))
    assert document.words[3] == CorefWord("met", "VBD", "(VP*", "Vera", None, "meet", "01", "3")
    assert document.words[0] == CorefWord("Ada", "NNP", "(TOP(S(NP*", "Vera", "PERSON", None, None, None)
    assert [word.entity for word in document.words[5:10]] == [None, "GPE", "GPE", "FAC", None]
    assert document.words[2].sense == "2"
    assert document.words[10].speaker == "Omar"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("/.", "."), ("/?", "?"), ("/-", "-"), ("-LRB-", "("), ("-RRB-", ")"), ("-LSB-", "["), ("-RSB-", "]"),
        ("-LCB-", "{"), ("-RCB-", "}"), (r"1\/2", "1/2"), (r"\*", "*"), ("/", "/"), ("and/or", "and/or"),
        ("/.x", "/.x"), ("-", "-"), ("%um", "%um"),
    ],
)  # fmt: skip
def test_plain_words(tmp_path: Path, text: str, plain: str) -> None:
    (word,) = read_one(tmp_path, conll(f"{text} XX (NP*) -")).words
    assert (word.text, word.plain) == (text, plain)


def test_a_chain_nested_in_itself(tmp_path: Path) -> None:
    sentence = """
        a DT * (5|(5
        b NN * (2|5)
        c NN * 2)|(5)
        d NN * 5)|(5
        e NN * 5)|(10)
    """
    document = read_one(tmp_path, conll(sentence))
    assert spans(document) == [[(0, 2), (0, 4), (2, 3), (3, 5)], [(1, 3)], [(4, 5)]]


def test_a_close_matches_the_latest_open(tmp_path: Path) -> None:
    # A queue in place of the stack would give (0, 2) and (1, 3).
    assert spans(read_one(tmp_path, conll("a NN * (5\nb NN * (5|5)\nc NN * 5)"))) == [[(0, 3), (1, 2)]]


def test_chains_are_in_the_order_of_first_mentions(tmp_path: Path) -> None:
    # Chain 1 closes first and has the smaller number, but chain 9 begins first.
    document = read_one(tmp_path, conll("a NN * (9\nb NN * (1)\nc NN * 9)", "d NN * (1)"))
    assert spans(document) == [[(0, 3)], [(1, 2), (3, 4)]]


@pytest.mark.parametrize(
    ("phrase", "parse", "head", "kind"),
    [
        ("the/DT president/NN of/IN the/DT company/NN", "(NP(NP* *) (PP* (NP* *)))", "president", "nominal"),
        ("Mary/NNP 's/POS dog/NN", "(NP(NP* *) *)", "dog", "nominal"),
        ("Mary/NNP 's/POS", "(NP* *)", "Mary", "proper"),
        ("the/DT man/NN 's/POS", "(NP(NP* *) *)", "man", "nominal"),
        ("the/DT man/NN who/WP left/VBD", "(NP(NP* *) (SBAR(WHNP*) (S(VP*))))", "man", "nominal"),
        ("Mary/NNP and/CC John/NNP", "(NP* * *)", "Mary", "proper"),
        ("Mary/NNP ,/, and/CC John/NNP", "(NP* * * *)", "Mary", "proper"),
        ("a/DT dog/NN and/CC Mary/NNP", "(NP(NP* *) * (NP*))", "dog", "nominal"),
        ("he/PRP and/CC Mary/NNP", "(NP(NP*) * (NP*))", "he", "pronominal"),
        ("sales/NNS and/CC tax/NN office/NN", "(NP* * * *)", "office", "nominal"),
        ("Mary/NNP ,/, the/DT boss/NN ,/,", "(NP(NP*) * (NP* *) *)", "Mary", "proper"),
        ("the/DT two/CD largest/JJS", "(NP* * *)", "two", "nominal"),
        ("the/DT poor/JJ of/IN Ulm/NNP", "(NP* * (PP* (NP*)))", "poor", "nominal"),
        ("The/DT Birds/NNPS by/IN Eve/NNP", "(NP(NP-TTL* *) (PP* (NP*)))", "Birds", "proper"),
        ("the/DT rich/JJ here/RB there/EX", "(NP* (ADJP*) * *)", "rich", "nominal"),
        ("only/RB $/$ 5/CD", "(NP* * *)", "$", "nominal"),
        ("the/DT air/NN base/NN first/JJ", "(NP* (NML* *) *)", "base", "nominal"),
        ("older/JJR ones/PRP", "(NP-SBJ-1* *)", "older", "nominal"),
        ("those/DT who/WP left/VBD", "(NP(NP*) (SBAR(WHNP*) (S(VP*))))", "those", "pronominal"),
        ("the/DT Alps/NNPS", "(NP* *)", "Alps", "proper"),
        ("my/PRP$", "(NP*)", "my", "pronominal"),
        ("whose/WP$", "(WHNP*)", "whose", "pronominal"),
        ("that/WDT", "(WHNP*)", "that", "pronominal"),
        ("grew/VBD", "(VP*)", "grew", "nominal"),
    ],
)
def test_heads_in_a_tree(tmp_path: Path, phrase: str, parse: str, head: str, kind: str) -> None:
    document = read_one(tmp_path, conll("Well UH (INTJ*) -", tagged(phrase, parse)))
    ((mention,),) = document.chains
    assert (document.words[mention.head].text, mention.kind) == (head, kind)


def test_the_head_lies_in_a_mention_that_is_no_constituent(tmp_path: Path) -> None:
    # The constituent around `old Adam` has the head `house`, the one around `Eve saw` the head `Eve`.
    sentences = """
        the DT (NP* -
        old JJ * (1
        Adam NNP * 1)
        house NN *) -
    """, """
        said VBD (S(VP*) -
        Eve NNP (S(NP*) (2
        saw VBD (VP* 2)
        snow NN (NP*)))) -
    """  # fmt: skip
    document = read_one(tmp_path, conll(*sentences))
    assert document.chains == ((Mention(1, 3, 2, "proper"),), (Mention(5, 7, 5, "proper"),))


@pytest.mark.parametrize("parse", ["*", "-", "_", "(NP*", "*)", "(NP**)", "()*"])
@pytest.mark.parametrize(
    ("phrase", "head"),
    [
        ("the/DT president/NN of/IN the/DT company/NN", "president"),
        ("the/DT man/NN who/WP left/VBD home/NN", "man"),
        ("Mary/NNP ,/, the/DT boss/NN", "Mary"),
        ("Mary/NNP 's/POS dog/NN", "dog"),
        ("Mary/NNP 's/POS", "Mary"),
        ("the/DT other/JJ 's/POS", "other"),
        ("those/DT who/WP left/VBD home/NN", "those"),
        ("in/IN New/NNP York/NNP", "York"),
        ("the/DT very/RB rich/JJ", "rich"),
        ("foo/_ bar/_", "bar"),
    ],
)
def test_heads_without_a_tree(tmp_path: Path, phrase: str, head: str, parse: str) -> None:
    document = read_one(tmp_path, conll(tagged(phrase, parse)))
    ((mention,),) = document.chains
    assert document.words[mention.head].text == head


def test_a_broken_parse_is_of_its_sentence_alone(tmp_path: Path) -> None:
    # Rules and fall-back differ on this phrase: `Mary` is the first conjunct, `John` the last noun.
    pair = "Mary/NNP and/CC John/NNP"
    document = read_one(tmp_path, conll(tagged(pair, "(NP* * *)))"), tagged(pair, "(NP* * *)")))
    assert [mention.head for mention in document.chains[0]] == [2, 3]


def test_white_space_and_line_endings(tmp_path: Path) -> None:
    # U+00A0 and U+0085 are white space to `str.split`, a line's end to `str.splitlines`.
    lines = (
        BEGIN,
        "nw/a\t0\t0 \tcaf\u00e9\u00a0bar NN * - - - - * -",
        " \t",
        "nw/a 0 0 a\u0085b NN * - - - - * - ",
        "#end document",
    )
    document = read_one(tmp_path, b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert [word.text for word in document.words] == ["caf\u00e9\u00a0bar", "a\u0085b"]
    assert document.sentences == ((0, 1), (1, 2))
    assert document.name == "nw/a"


def test_blank_lines_make_no_sentences(tmp_path: Path) -> None:
    document = read_one(tmp_path, conll("", "a NN * -", "", "", "b NN * -"))
    assert document.sentences == ((0, 1), (1, 2))
    assert read_one(tmp_path, f"\n{BEGIN}\n#end document\n\n").words == ()


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("c.conll", "b/d.conll", "a_conll"):
        write(tmp_path / name, conll("a NN * -").replace("nw/a", f"nw/{name[0]}"))
    write(tmp_path / "b/e.gold_skel", "not read")
    sources = [document.source for document in read_conll2012(str(tmp_path))]
    assert sources == ["a_conll:1", "d.conll:1", "c.conll:1"]


@pytest.mark.parametrize(
    ("files", "read"),
    [
        (("x.v4_auto_conll", "x.v4_gold_conll"), "x.v4_gold_conll:1"),
        (("a.v9_auto_conll", "auto/x.conll", "gold/x.conll"), "x.conll:1"),
        (("all.conll", "z/x_gold_conll"), "x_gold_conll:1"),
        (("x.v4_auto_conll", "z_conll"), "z_conll:1"),
        (("a/x.v4_gold_conll", "b/x.v4_gold_conll"), "x.v4_gold_conll:1"),
    ],
)
def test_a_part_in_several_files_is_read_once(tmp_path: Path, files: tuple[str, ...], read: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, conll(f"a NN * {'-' if 'auto' in name else '(1)'}"))
    repeated: list[CorefDocument] = []
    (document,) = read_conll2012(tmp_path, repeated.append)
    assert (document.source, len(document.chains)) == (read, 1)
    assert len(repeated) == len(files) - 1


def test_the_same_part_twice_in_a_file_is_read_once(tmp_path: Path) -> None:
    repeated: list[CorefDocument] = []
    assert len(list(read_conll2012(write(tmp_path / "a_conll", TWO_PARTS * 2), repeated.append))) == 2
    assert [document.part for document in repeated] == ["000", "001"]


def test_documents_of_one_name_in_two_languages_are_both_read(tmp_path: Path) -> None:
    write(tmp_path / "en_gold_conll", conll("dog NN * -"))
    write(tmp_path / "zh_gold_conll", conll("\u72d7 NN * -"))
    assert [document.words[0].text for document in read_conll2012(tmp_path)] == ["dog", "\u72d7"]


def test_parts_are_streamed(tmp_path: Path) -> None:
    documents = read_conll2012(write(tmp_path / "a_conll", TWO_PARTS + "#end document\n"))
    assert [next(documents).part, next(documents).part] == ["000", "001"]
    with pytest.raises(CorpusError, match=":21: #end without #begin"):
        next(documents)


WORD = "nw/a 0 0 dog NN (NP*) - - - - *"
FORM = "#begin document (NAME); part 000"


@pytest.mark.parametrize(
    ("lines", "number", "said"),
    [
        ([BEGIN, "nw/a 0 0 dog NN (NP*) - - - - (0)"], 2, "11 columns, expected at least 12 (document, part,"),
        ([BEGIN, f"{WORD} 3)"], 2, "'3)' closes no mention; expected (3 before"),
        ([BEGIN, f"{WORD} (4)|(3|3)|3)"], 2, "'3)' closes no mention; expected (3 before"),
        ([BEGIN, "", f"{WORD} (3", "", f"{WORD} 3)"], 3, "'(3' is never closed; expected 3) by the end of its sent"),
        ([BEGIN, f"{WORD} (3", "#end document"], 2, "'(3' is never closed; expected 3) by the end of its sent"),
        *(
            ([BEGIN, f"{WORD} {mark}", "#end document"], 2, f"coreference {piece!r}, expected (N, N) or (N) joined")
            for mark, piece in [
                ("3", "3"), ("(x)", "(x)"), ("(1)|", ""), ("*", "*"), ("(1)(2)", "(1)(2)"), ("((1)", "((1)"),
                ("(\u0663)", "(\u0663)"), ("-|(1)", "-"), ("(-1)", "(-1)"),
            ]
        ),
        ([f"{WORD} -"], 1, f"a word outside a document; expected {FORM}"),
        ([BEGIN, "#end document", f"{WORD} -"], 3, f"a word outside a document; expected {FORM}"),
        (["", "#end document"], 2, f"#end without #begin; expected {FORM} before it"),
        ([BEGIN, f"{WORD} -", BEGIN], 3, "#begin within the document of PATH:1; expected #end document first"),
        (["#begin document nw/a"], 1, f"'#begin document nw/a', expected {FORM}"),
        (["", BEGIN, f"{WORD} -"], 2, "the file ends within this document; expected #end document"),
        ([BEGIN, f"{WORD} -", f"{WORD} -"], 3, "word number '0', expected 1 (a sentence ends at a blank line)"),
        ([BEGIN, f"{WORD} -".replace(" 0 dog", " 1 dog")], 2, "word number '1', expected 0"),
        ([BEGIN, f"{WORD} -".replace(" 0 dog", " x dog")], 2, "word number 'x', expected 0"),
        ([BEGIN, f"{WORD} -".replace("dog", "d\udcffg")], 2, "invalid UTF-8 (0xff); convert the file to UTF-8"),
    ],
)  # fmt: skip
def test_broken_files(tmp_path: Path, lines: list[str], number: int, said: str) -> None:
    if said.startswith(("'", "coreference")) and "#end document" not in lines:
        lines = [*lines, "#end document"]  # mentions are matched when their document is whole
    path = write(tmp_path / "a_conll", "\n".join(lines).encode(errors="surrogateescape"))
    assert refusal(path).startswith(f"{path}:{number}: {said.replace('PATH', str(path))}")


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no_conll: cannot be read"):
        read_conll2012(tmp_path / "no_conll")  # at once, not at the first document
    with pytest.raises(CorpusError, match="no file in this folder ends in _conll or"):
        read_conll2012(tmp_path)
    for content in ("", "\n# a comment\n"):
        path = write(tmp_path / "a_conll", content)
        assert refusal(path) == f"{path}: no document in this file; expected {FORM}"
    (tmp_path / "b.conll").mkdir()
    with pytest.raises(CorpusError, match="no file in this folder"):
        read_conll2012(tmp_path / "b.conll")


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "a_conll"
    path.symlink_to(path)
    assert refusal(path).startswith(f"{path}: cannot be read (Too many levels of symbolic links)")
    assert refusal(tmp_path).startswith(f"{path}: cannot be read (Too many levels of symbolic links)")
