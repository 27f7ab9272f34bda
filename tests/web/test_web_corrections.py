"""What an admin does: decide on corrections, write the guidelines."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from raters import Visitor, put_answers, put_people, text
from sqlalchemy.engine import Engine

from rlhf_loop import reviewing
from rlhf_loop.config import Settings
from rlhf_loop.store.interactions import rate
from rlhf_loop.training import pairs
from rlhf_loop.utils.markdown import bounded_prose


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


def test_a_time_that_no_calendar_has(dora: Visitor) -> None:
    """It is refused like any other that is none."""
    dora.send("/review/corrections/undo", status=422, decided_at="0001-01-01T00:00:00+14:00")


@pytest.mark.parametrize("query", ["state=x", "before=0", f"before={2**63}", "before=x"])
def test_filters_that_are_none(dora: Visitor, query: str) -> None:
    """A filter that cannot be is refused."""
    dora.page(f"/review/corrections?{query}", status=422)


def test_a_correction_is_edited_before_it_is_approved(dora: Visitor, sqlite_engine: Engine) -> None:
    """The admin's words are what answers and what teaches; the expert's are kept, and shown folded."""
    (one,) = correct(sqlite_engine)
    dora.send("/review/corrections", **decision(one, "approved"), edited="Rest, and\r\ndrink water.")
    (found,) = reviewing.approved_corrections(sqlite_engine)
    assert (found.correction, found.review.correction) == ("Rest, and\ndrink water.", one.correction)
    html = text(dora.page("/review/corrections?state=approved"))
    assert "As you have edited it Rest, and drink water." in html
    assert "As it was corrected by anna" in html
    (pair,) = read_pairs(sqlite_engine)
    assert pair == "Rest, and\ndrink water."
    dora.send("/review/corrections", **decision(one, "approved"), edited=one.correction, state="approved")
    assert reviewing.approved_corrections(sqlite_engine)[0].edited is None
    dora.send("/review/corrections", **decision(one, "approved"), edited=" ", status=409)


def read_pairs(engine: Engine) -> list[str]:
    """The better answers that corrections teach."""
    with engine.connect() as connection:
        return [row.correction for row in connection.execute(pairs._CORRECTIONS)]


def test_several_are_decided_at_once(dora: Visitor, sqlite_engine: Engine) -> None:
    """What is chosen is shown first; one that was changed meanwhile leaves all undecided."""
    one, two, three = correct(sqlite_engine, 3)
    assert "Choose some corrections first" in text(dora.page("/review/corrections/chosen"))
    html = dora.page(f"/review/corrections/chosen?id={one.review_id}&id={three.review_id}")
    assert "2 chosen corrections" in html
    assert two.correction not in html
    form = {"form_token": dora.token, "id": [one.review_id, three.review_id], "seen": [one.digest, three.digest]}
    rate(sqlite_engine, one.interaction_key, reviewer="anna", rating=2, correction="Something else.")
    assert dora.client.post("/review/corrections/chosen", data={**form, "decision": "approved"}).status_code == 409
    assert reviewing.approved_corrections(sqlite_engine) == []
    rate(sqlite_engine, one.interaction_key, reviewer="anna", rating=2, correction=one.correction)
    # What does not say all of it decides nothing.
    assert dora.client.post("/review/corrections/chosen", data=form).status_code == 422
    less = {**form, "decision": "approved", "seen": ["x"]}
    assert dora.client.post("/review/corrections/chosen", data=less).status_code == 422
    done = dora.client.post("/review/corrections/chosen", data={**form, "decision": "approved"}, follow_redirects=True)
    assert "2 corrections are approved." in text(done.text)
    approved = [each.review_id for each in reviewing.approved_corrections(sqlite_engine)]
    assert sorted(approved) == sorted([one.review_id, three.review_id])


def test_decisions_are_undone(dora: Visitor, sqlite_engine: Engine) -> None:
    """The last decisions are taken back together, then those before; what held before holds again, edited words too."""
    one, two = correct(sqlite_engine, 2)

    def states() -> list[tuple[bool | None, str]]:
        found = reviewing.corrections(sqlite_engine)
        return [(each.approved, each.correction) for each in sorted(found, key=lambda each: each.review_id)]

    def undo(status: int = 200) -> str:
        last = reviewing.last_decisions(sqlite_engine, decided_by="dora")
        at = last.decided_at if last else datetime(2026, 1, 1, tzinfo=UTC)
        return dora.send("/review/corrections/undo", decided_at=at.isoformat(), status=status)

    first, second = sorted((one, two), key=lambda each: each.review_id)
    dora.send("/review/corrections", **decision(first, "approved"), edited="Edited.")
    seen = {each.review_id: each.digest for each in (one, two)}
    assert reviewing.decide_all(sqlite_engine, seen, approved=False, decided_by="dora") == 2
    assert "Your last decision: 2 rejected" in text(dora.page("/review/corrections"))
    assert [state for state, _ in states()] == [False, False]
    assert "2 decisions are taken back" in text(undo())
    assert states() == [(True, "Edited."), (None, second.correction)]
    undo()
    assert states() == [(None, first.correction), (None, second.correction)]
    assert "nothing to undo" in text(undo(404))
    # Of one correction as many steps as there were.
    for say in ({"decision": "approved"}, {"decision": "rejected"}, {"decision": "approved", "edited": "Edited."}):
        dora.send("/review/corrections", **{**decision(first, "approved"), **say})
    held = []
    for _ in range(3):
        held.append(states()[0])
        undo()
    assert held == [(True, "Edited."), (False, first.correction), (True, first.correction)]
    assert states()[0] == (None, first.correction)


def test_texts_that_take_long_are_bounded(
    dora: Visitor, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Differences for which there is no time are found for one correction alone; further texts stay as they are."""
    one, two = correct(sqlite_engine, 2)
    now = iter(range(1000))
    monkeypatch.setattr("rlhf_loop.web.pages.oversight.thread_time", lambda: 0.6 * next(now))
    html = dora.page("/review/corrections")
    assert html.count('class="words difference"') == 1
    assert f"/review/corrections/chosen?id={two.review_id}" in html or f"chosen?id={one.review_id}" in html
    assert "<ins>" in dora.page(f"/review/corrections/chosen?id={one.review_id}")
    shown = bounded_prose(0.0)
    assert [str(shown("**a**")), str(bounded_prose()("**a**"))] == [
        '<div class="text words" dir="auto">**a**</div>',
        '<div class="text markdown" dir="auto"><p><strong>a</strong></p>\n</div>',
    ]


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
