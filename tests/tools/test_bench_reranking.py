"""What `make bench PARTS=reranking` writes; the measurement itself takes a minute."""

from __future__ import annotations

from pathlib import Path
from random import Random

from tools.bench import reranking
from tools.report import put_into

RESULT = reranking.Reranking(
    rows=[
        reranking.Row(documents=1000, words=100, new=8123.0, known=43.21),
        reranking.Row(documents=1, words=150_000, new=9876.0, known=12.0),
    ],
    alone_new=40.0,
    alone_known=4.0,
    beside_new=[200.0, 210.0, 390.0],
    beside_known=[140.0, 150.0, 160.0],
    large=15_000.0,
    before=250.4,
    after=300.0,
    after_long=350.0,
)


def test_the_section_has_all_that_was_measured() -> None:
    """A row for each size, what others wait, and the memory."""
    text = reranking.section(RESULT)
    for row in (
        "| 1,000 | 100 | 8,123 ms | 43.2 ms |",
        "| 1 | 150,000 | 9,876 ms | 12.0 ms |",
        "| 3 new documents of 100 words | 40 ms | 210 ms | 390 ms |",
        "| the same ones again | 4 ms | 150 ms | 160 ms |",
    ):
        assert row in text
    assert "250 MB before, 300 MB after all that, 350 MB" in text


def test_the_short_form() -> None:
    """What a reader of docs/CLIENTS.md wants to know."""
    text = reranking.short(RESULT)
    assert "1,000 documents of 100 words 8.1 s, the same ones with another question 43 ms." in text
    assert "A new document of 150,000 words took 10 s." in text


def test_no_document_comes_twice() -> None:
    """So that a new one is new."""
    texts = reranking.texts_of(Random(0))
    made = [*texts(500, 20), *texts(500, 20)]
    assert len(set(made)) == 1000
    assert {len(text.split()) for text in made} == {20}


def test_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    """And nothing else."""
    document = tmp_path / "CLIENTS.md"
    document.write_text("before\n<!-- speed -->\nold\n<!-- /speed -->\nafter\n")
    put_into(document, "speed", "new")
    assert document.read_text() == "before\n<!-- speed -->\nnew\n<!-- /speed -->\nafter\n"
