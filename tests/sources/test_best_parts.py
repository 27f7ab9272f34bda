from __future__ import annotations

from datetime import UTC, datetime

from rlhf_loop.sources.excerpts import Document, Part, best_passages

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def document(title: str, *parts: tuple[str, str]) -> Document:
    made = tuple(Part(heading, text) for heading, text in parts)
    return Document(title=title, parts=made, url="https://example.org/", licence="CC0 1.0", retrieved_at=NOW)


FLU = document(
    "Influenza",
    ("", "Influenza is an illness that comes each winter."),
    ("Symptoms", "It begins with a fever, chills and aching muscles."),
    ("Treatment", "Rest and fluids help; drugs shorten the fever."),
)
COLD = document("Common cold", ("", "The common cold is milder, and comes without fever or chills."))


def texts(question: str, *documents: Document, limit: int = 9) -> list[str]:
    return [passage.text.split()[0] for passage in best_passages(question, documents, limit=limit)]


def test_the_best_of_each_document_comes_first() -> None:
    """Each document gives its best section before any gives a second one; more of the question's words come first."""
    assert texts("Does influenza begin with fever and chills?", COLD, FLU) == ["It", "The", "Rest"]
    assert texts("Does influenza begin with fever and chills?", FLU, COLD, limit=2) == ["It", "The"]


def test_headings_count() -> None:
    """A section's heading is among its words."""
    assert texts("symptoms of influenza", FLU)[0] == "It"
    assert texts("treatment of influenza", FLU)[0] == "Rest"


def test_the_title_tells_no_sections_apart() -> None:
    """Words of the title are what all of the document is about: the beginning stands for it."""
    assert texts("What is influenza?", FLU)[0] == "Influenza"
    assert texts("zebra", FLU) == ["Influenza"]
    assert texts("", FLU) == ["Influenza"]


def test_what_is_too_short_is_left_out() -> None:
    """Remainders of tables and links are no passages; a document that is only one short sentence is."""
    assert texts("fever", document("A", ("", "Fever."), ("", "Fever is a raised temperature."))) == ["Fever"]
    assert texts("fever", document("A", ("", "Fever is heat."))) == ["Fever"]
    assert texts("fever", document("A"), document("B", ("", ""))) == []


def test_a_passage_names_its_document() -> None:
    """What the document says of itself is in each passage."""
    (passage,) = best_passages("fever", [COLD], limit=1)
    assert (passage.title, passage.url, passage.licence, passage.retrieved_at) == (
        "Common cold",
        "https://example.org/",
        "CC0 1.0",
        NOW,
    )
