"""What an admin does: decide on corrections, write the guidelines."""

from __future__ import annotations

import pytest
from raters import Visitor, put_answers, put_people, text
from sqlalchemy.engine import Engine

from rlhf_loop import reviewing
from rlhf_loop.config import Settings
from rlhf_loop.store.interactions import rate


@pytest.fixture
def dora(sqlite_engine: Engine) -> Visitor:
    put_people(sqlite_engine)
    return Visitor(Settings(database_url=str(sqlite_engine.url), rate_limit="0"), "dora")


def correct(engine: Engine, count: int = 1) -> list[reviewing.Correction]:
    """Have anna correct so many answers."""
    for id in put_answers(engine, count):
        rate(engine, id, reviewer="anna", rating=2, correction=f"Rest. Correction {id}.")
    return reviewing.corrections(engine, state="pending", limit=100)


def decision(correction: reviewing.Correction, decided: str) -> dict[str, object]:
    """The form that decides on a correction as it is shown."""
    return {"review_id": correction.review_id, "correction": correction.correction, "decision": decided}


def test_approve_and_reject(dora: Visitor, sqlite_engine: Engine) -> None:
    """A correction waits with its difference; what is decided leaves the list, can be found, and be changed."""
    first, second = correct(sqlite_engine, 2)
    html = dora.page("/review/corrections")
    assert first.correction.split(". ")[1].rstrip(".") in text(html)
    assert "<del>" in html
    assert "<ins>" in html
    assert "The correction is approved." in text(dora.send("/review/corrections", **decision(first, "approved")))
    dora.send("/review/corrections", **decision(second, "rejected"))
    assert "No correction waits" in text(dora.page("/review/corrections"))
    assert "approved by dora" in text(dora.page("/review/corrections?state=approved"))
    assert "rejected by dora" in text(dora.page("/review/corrections?state=rejected"))
    dora.send("/review/corrections", **decision(first, "rejected"), state="approved")
    states = {each.review_id: each.approved for each in reviewing.corrections(sqlite_engine, state=None)}
    assert states == {first.review_id: False, second.review_id: False}


def test_a_correction_that_changed_meanwhile(dora: Visitor, sqlite_engine: Engine) -> None:
    """Only what the admin saw can be approved; the page then shows what is there now."""
    (seen,) = correct(sqlite_engine)
    rate(sqlite_engine, seen.interaction_key, reviewer="anna", rating=2, correction="Something else entirely.")
    html = dora.send("/review/corrections", status=409, **decision(seen, "approved"))
    assert "That was not decided." in text(html)
    assert "Something else entirely" in text(html)
    assert [each.approved for each in reviewing.corrections(sqlite_engine, state=None)] == [None]


def test_pages_of_corrections(dora: Visitor, sqlite_engine: Engine) -> None:
    """Twenty on a page, and a link to the older ones; each of them is on one page only."""
    found = correct(sqlite_engine, 23)
    html = dora.page("/review/corrections")
    older = f"state=pending&amp;before={found[19].review_id}"
    assert (html.count("<article"), older in html) == (20, True)
    rest = dora.page(f"/review/corrections?state=pending&before={found[19].review_id}")
    assert (rest.count("<article"), "Older corrections" in rest) == (3, False)


@pytest.mark.parametrize("query", ["state=x", "before=0", f"before={2**63}", "before=x"])
def test_filters_that_are_none(dora: Visitor, query: str) -> None:
    """A filter that cannot be is refused."""
    dora.page(f"/review/corrections?{query}", status=422)


def test_an_unknown_correction(dora: Visitor) -> None:
    """One that is not there any more is not found."""
    dora.send("/review/corrections", status=404, review_id=99, correction="x", decision="approved")


def test_editing_the_guidelines(dora: Visitor, sqlite_engine: Engine) -> None:
    """What an admin writes is what raters see, on the guidelines' page and beside the answer."""
    put_answers(sqlite_engine, 1)
    grades = {f"grade_{grade}": f"This is what {grade} means." for grade in range(1, 6)}
    html = dora.send("/review/guidelines", introduction="Be kind.\r\nBe fast.", **grades)
    assert "Saved." in text(html)
    assert "Last changed by dora" in text(html)
    stored = reviewing.guidelines(sqlite_engine)
    assert (stored.introduction, stored.grades) == ("Be kind.\nBe fast.", tuple(grades.values()))
    review = dora.page("/review")
    assert 'title="This is what 5 means."' in review
    assert "Be fast." in review


def test_guidelines_that_cannot_be_saved(dora: Visitor, sqlite_engine: Engine) -> None:
    """An empty grade is refused, and what was typed stays in the fields."""
    before = reviewing.guidelines(sqlite_engine)
    grades = {f"grade_{grade}": "" if grade == 3 else f"New {grade}." for grade in range(1, 6)}
    html = dora.send("/review/guidelines", status=422, introduction="New.", **grades)
    assert "The guidelines were not saved." in text(html)
    assert "New 5.</textarea>" in html
    assert reviewing.guidelines(sqlite_engine) == before


def test_flagged_answers(dora: Visitor, sqlite_engine: Engine) -> None:
    """An admin sees what was flagged as harmful, with who said so and why, page by page, and nobody else does."""
    ids = put_answers(sqlite_engine, 23)
    assert "Nobody has flagged anything" in text(dora.page("/review/flagged"))
    for id in ids[1:]:
        rate(sqlite_engine, id, reviewer="anna", rating=1, comment=f"Dangerous <b>dose</b> in {id}.", harmful=True)
    rate(sqlite_engine, ids[0], reviewer="anna", rating=1, comment="Only wrong.")
    html = dora.page("/review/flagged")
    assert "&lt;b&gt;dose&lt;/b&gt;" in html
    assert f"in {ids[-1]}." in html
    assert "Only wrong" not in html
    older = text(dora.page(f"/review/flagged?before={reviewing.flags(sqlite_engine)[19].review_id}"))
    assert f"in {ids[1]}." in older
    assert f"in {ids[-1]}." not in older
    anna = Visitor(Settings(database_url=str(sqlite_engine.url), rate_limit="0"), "anna")
    assert anna.client.get("/review/flagged").status_code == 403
