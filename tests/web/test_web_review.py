"""The review screen without a browser: what it shows, stores and refuses."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from raters import PASSWORD, RESPONSE, Visitor, field, put_answers, put_people, reviews, shown, text
from sqlalchemy import func, select, update
from sqlalchemy.engine import Engine
from web_fakes import GOOD, FakeService

from rlhf_loop.config import Settings
from rlhf_loop.domain import Rating
from rlhf_loop.reviewing import own_reviews
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.store.tables import Assignment
from rlhf_loop.web import blueprint

HOSTILE = "<script>alert(1)</script>\"><img src=x onerror=alert(1)>'`{{7*7}}"
PAGES = (
    *("/review", "/review/items/1", "/compare", "/review/guidelines", "/review/agreement", "/review/corrections"),
    *("/browse", "/browse/found.csv", "/browse/question", "/review/corrections/chosen"),
    *("/review/history", "/review/nobodys-field"),
)
CALLS = (
    "/review/next",
    "/review/newest",
    "/review/session",
    "/review/items/1/previous",
    "/review/items/1/now",
    "/review/items/1/ahead",
    "/compare/next",
)
#: Every address to which the screens send something, with what would be valid there.
POSTS = {
    "/review": {"interaction_id": 1, "rating": 4},
    "/review/undo": {},
    "/review/difference": {"before": "a", "after": "b"},
    "/review/items/1/rate": {"rating": 4},
    "/review/items/1/skip": {},
    "/review/items/1/draft": {"comment": "Why?"},
    "/review/guidelines": {"introduction": "x", **{f"grade_{grade}": "x" for grade in range(1, 6)}},
    "/review/corrections": {"review_id": 1, "decision": "approved", "correction": "x"},
    "/review/corrections/chosen": {"id": 1, "seen": "x", "decision": "approved"},
    "/review/corrections/undo": {"decided_at": "2026-03-01T00:00:00Z"},
    "/compare": {"do": "tie", "first_id": 1, "second_id": 2},
    "/compare/undo": {},
    "/compare/pairs/1/2/choice": {"better": "left", "left_is_first": True},
    "/compare/pairs/1/2/skip": {},
}


@pytest.fixture
def settings(sqlite_engine: Engine) -> Settings:
    put_people(sqlite_engine)
    return Settings(database_url=str(sqlite_engine.url), rate_limit="0")


@pytest.fixture
def anna(settings: Settings) -> Visitor:
    return Visitor(settings, "anna")


def test_nobody_gets_in_without_signing_in(settings: Settings) -> None:
    """A page leads to the sign-in and back, a call by script gets 401 with a reason."""
    visitor = Visitor(settings)
    for address in PAGES:
        response = visitor.client.get(address)
        assert (response.status_code, "/sign-in?next=" in response.headers["Location"]) == (303, True), address
    for address in CALLS:
        assert (visitor.call(address).status_code, visitor.call(address).json["title"]) == (401, "Unauthorized")


def test_every_form_needs_its_token(settings: Settings, sqlite_engine: Engine) -> None:
    """Whatever is sent to these screens without the token of the session is refused, and nothing is stored."""
    put_answers(sqlite_engine, 1, to_each=2)
    dora = Visitor(settings, "dora")
    dora.page("/review")
    dora.page("/compare")
    ours = {rule.rule for rule in dora.rules if "POST" in (rule.methods or ()) and "/v1/" not in rule.rule}
    ours = {rule for rule in ours if rule.startswith(("/review", "/compare"))}
    assert len(ours) == len(POSTS), f"POSTS does not name them all: {ours}"
    for address, body in POSTS.items():
        if address in ("/review", "/compare", "/review/guidelines") or address.startswith("/review/corrections"):
            response = dora.client.post(address, data=body)
        else:
            response = dora.call(address, body, token="wrong")
        assert response.status_code == 403, address
        assert "form is not of your present session" in response.text
    assert reviews(sqlite_engine) == []


def test_only_an_admin_oversees(settings: Settings) -> None:
    """A rater reads the guidelines and changes none, and sees no corrections of others."""
    anna = Visitor(settings, "anna")
    assert "Edit the guidelines" not in anna.page("/review/guidelines")
    anna.page("/review/corrections", status=403)
    anna.page("/review/nobodys-field", status=403)
    anna.send("/review/guidelines", status=403, **POSTS["/review/guidelines"])
    anna.send("/review/corrections", status=403, **POSTS["/review/corrections"])


def test_an_answer_with_what_it_takes_to_judge_it(anna: Visitor, sqlite_engine: Engine) -> None:
    """Question, answer, its source as a link, five grades with their meaning, the guidelines and the progress."""
    put_answers(sqlite_engine, 1, drafted_by="llama3.2")
    html = anna.page("/review")
    said = ("Answer 0a.", "Written by the language model llama3.2, from:", "wikipedia", "CC0")
    for words in ("What helps against headache 0?", *said, "0 of 50", "0 of 30 today"):
        assert words in text(html)
    assert 'href="https://example.org/a" rel="noopener noreferrer"' in html
    assert all(f'name="rating" value="{grade}"' in html for grade in range(1, 6))
    assert "partly right" in html


def test_a_draft_of_no_page_names_its_model_once(anna: Visitor, sqlite_engine: Engine) -> None:
    """One of best of n, or of a chat, has its model as its source, too."""
    put_answers(sqlite_engine, 1, source="llama3.2", drafted_by="llama3.2", title=None, url=None)
    html = anna.page("/review")
    assert "Written by the language model llama3.2" in text(html)
    assert html.count("llama3.2") == 1


def test_blind(settings: Settings, sqlite_engine: Engine) -> None:
    """With `review_blind` nothing tells where an answer comes from, on both screens."""
    put_answers(sqlite_engine, 1, to_each=2, drafted_by="llama3.2")
    blind = Settings(database_url=settings.database_url, review_blind=True)
    visitor = Visitor(blind, "anna")
    for address in ("/review", "/compare"):
        html = visitor.page(address)
        assert "Drink water." in html
        for word in ("wikipedia", "example.org", "Headache", "CC0", "llama"):
            assert word not in html


def test_rating_by_form(anna: Visitor, sqlite_engine: Engine) -> None:
    """Without JavaScript a grade stores the review with comment, correction and flag, and the next answer comes."""
    answers = put_answers(sqlite_engine, 2)
    first = shown(anna.page("/review"), answers)
    html = anna.send(
        "/review",
        interaction_id=first,
        rating=2,
        comment="Too short.\r\n",
        correction="Rest.\r\nDrink.",
        harmful="true",
    )
    assert "Rated 2. Next answer." in text(html)
    assert shown(html, answers) != first
    assert reviews(sqlite_engine) == [("anna", 2, "Too short.", "Rest.\nDrink.", True)]


def test_a_field_left_as_it_was_corrects_nothing(anna: Visitor, sqlite_engine: Engine) -> None:
    """The correction begins as the answer: sent back so, with a browser's line breaks, it is none."""
    (id,) = put_answers(sqlite_engine, 1)
    anna.page("/review")
    anna.send("/review", interaction_id=id, rating=5, correction=f"{RESPONSE} Answer 0a.\n".replace("\n", "\r\n"))
    assert reviews(sqlite_engine) == [("anna", 5, None, None, False)]


def test_rating_by_script_brings_the_next_answer(anna: Visitor, sqlite_engine: Engine) -> None:
    """One call stores the review and returns what to announce and the part of the page that changes."""
    answers = put_answers(sqlite_engine, 2)
    first = shown(anna.page("/review"), answers)
    answer = anna.call(f"/review/items/{first}/rate", {"rating": 4, "comment": "Good."}).json
    assert answer is not None
    assert (answer["message"], answer["at"]) == ("Rated 4. Next answer.", "/review")
    second = shown(answer["html"], answers)
    last = anna.call(f"/review/items/{second}/rate", {"rating": 1}).json
    assert last is not None
    assert last["message"] == "Rated 1. Nothing is left to review."
    assert "Nothing is left to review" in last["html"]
    assert "2 of 50" in text(last["html"])
    assert sorted(reviews(sqlite_engine)) == [("anna", 1, None, None, False), ("anna", 4, "Good.", None, False)]


def test_the_next_answer_is_fetched_ahead(settings: Settings, sqlite_engine: Engine) -> None:
    """It is nobody else's; then a grade or a skip brings only the progress, and a reload shows what was being read."""
    settings = replace(settings, review_overlap=0.0)
    anna = Visitor(settings, "anna")
    answers = put_answers(sqlite_engine, 3)
    first = shown(anna.page("/review"), answers)
    ahead = anna.call(f"/review/items/{first}/ahead").json
    assert (ahead["message"], ahead["at"], "Welcome" in ahead["html"]) == ("Next answer.", "/review", False)
    second = shown(ahead["html"], answers)
    (third,) = {*answers} - {first, second}
    ben = Visitor(settings, "ben")
    assert shown(ben.page("/review"), answers) == third
    assert shown(anna.call(f"/review/items/{first}/ahead").json["html"], answers) == second
    assert shown(anna.page("/review"), answers) == first
    answer = anna.call(f"/review/items/{first}/rate", {"rating": 4, "bring": False}).json
    assert (answer["message"], answer["html"], "1 of 50" in text(answer["progress"])) == ("Rated 4.", None, True)
    assert anna.call(f"/review/items/{second}/ahead").json == {
        **dict.fromkeys(("html", "at", "progress")),
        "message": "Nothing is left to review.",
    }
    assert shown(anna.page("/review"), answers) == second
    answer = anna.call(f"/review/items/{second}/skip", {"bring": False}).json
    assert (answer["message"], answer["html"]) == ("Skipped.", None)
    assert reviews(sqlite_engine) == [("anna", 4, None, None, False)]


def test_not_my_field(settings: Settings, sqlite_engine: Engine) -> None:
    """By form and by script it is a skip with its reason; an admin sees what every rater skips so."""
    answers = put_answers(sqlite_engine, 1)
    anna, ben, dora = (Visitor(settings, name) for name in ("anna", "ben", "dora"))
    assert "Nobody&#39;s field" not in dora.page("/review/flagged")
    id = shown(anna.page("/review"), answers)
    assert "Skipped." in text(anna.send("/review", interaction_id=id, do="field"))
    with sqlite_engine.begin() as connection:
        connection.execute(update(Assignment).values(leased_until=Assignment.assigned_at))
    assert shown(ben.page("/review"), answers) == id
    assert "Nobody&#39;s field" not in dora.page("/review/flagged")
    assert ben.call(f"/review/items/{id}/skip", {"not_my_field": True}).json["message"].startswith("Skipped.")
    html = dora.page("/review/nobodys-field")
    assert "What helps against headache 0?" in text(html)
    assert "Nobody's field 1" in unescape(text(html))
    ben.send("/review", do="undo")
    assert "There are none." in text(dora.page("/review/nobodys-field"))


def test_own_history(settings: Settings, sqlite_engine: Engine) -> None:
    """A rater's reviews stand there, newest first, by pages; words and grade find some; each leads to its answer."""
    answers = put_answers(sqlite_engine, 22)
    for id in answers:
        comment = "Zu KURZ, Größe fehlt" if id == answers[3] else None
        rate(sqlite_engine, id, reviewer="anna", rating=2 if id == answers[3] else 4, comment=comment)
    rate(sqlite_engine, answers[0], reviewer="ben", rating=1)
    anna = Visitor(settings, "anna")
    html = anna.page("/review/history")
    assert (html.count('href="/review/items/'), "headache 21?" in html, "headache 1?" in html) == (20, True, False)
    older = re.search(r'href="([^"]*)" rel="next"', html)
    assert older is not None
    assert "headache 1?" in anna.page(unescape(older[1]))
    for query in ("q=größe+kurz", "rating=2", "q=headache+3%3F&rating=2"):
        assert anna.page(f"/review/history?{query}").count('href="/review/items/') == 1, query
    assert "None of your reviews" in anna.page("/review/history?q=größe&rating=5")
    html = anna.page(f"/review/items/{answers[3]}")
    assert "You graded this answer 2" in text(html)
    anna.send("/review", interaction_id=answers[3], rating=3, seen=field(html, "seen"))
    assert ("anna", 3, None, None, False) in reviews(sqlite_engine)
    for moment in ("never", "0001-01-01T00:00:00%2B14:00"):
        anna.page(f"/review/history?before={moment}", status=422)
    assert "You have not reviewed anything yet." in Visitor(settings, "dora").page("/review/history")


def test_a_grade_changed_from_the_history_leads_back_there(settings: Settings, sqlite_engine: Engine) -> None:
    """With the search that was made; an address of another host is none. Texts stand there without their Markdown."""
    (id,) = put_answers(sqlite_engine, 1)
    rate(sqlite_engine, id, reviewer="anna", rating=2, comment="**x**")
    (also,) = record(sqlite_engine, [Rating("Why?", "**Bold** words\n\n| a | b |\n|---|---|\n| c | d |")])
    rate(sqlite_engine, also, reviewer="anna", rating=2)
    anna = Visitor(settings, "anna")
    assert "Bold words a b c d" in text(anna.page("/review/history?rating=2"))
    found = re.search(rf'href="(/review/items/{id}[^"]*)"', anna.page("/review/history?rating=2"))
    assert found is not None
    html = anna.page(unescape(found[1]))
    form = {"interaction_id": id, "seen": field(html, "seen"), "home": unescape(field(html, "home"))}
    assert form["home"] == "/review/history?rating=2"
    back = anna.send("/review", rating=5, **form)
    assert "What you have reviewed" in back
    assert "Rated 5." in back
    assert back.count('href="/review/items/') == 1
    html = anna.page(f"/review/items/{id}?home=//elsewhere.org/")
    assert 'name="home"' not in html
    form |= {"seen": field(html, "seen"), "home": "https://elsewhere.org"}
    assert "Nothing is left" in anna.send("/review", rating=4, **form)


def test_reading_a_page_changes_nothing(settings: Settings, sqlite_engine: Engine) -> None:
    """A review that an import brought is looked at, and taken up with the first change; a prefetch is given nothing."""
    imported, _waiting = put_answers(sqlite_engine, 2)
    rate(sqlite_engine, imported, reviewer="anna", rating=2)
    anna = Visitor(settings, "anna")
    html = anna.page(f"/review/items/{imported}")
    assert "You graded this answer 2" in text(html)
    for call in ("now", "previous", "following"):
        assert anna.call(f"/review/items/{imported}/{call}").status_code == 200 or call == "following"
    ahead = {"Sec-Purpose": "prefetch;prerender"}
    assert [anna.client.get(page, headers=ahead).status_code for page in ("/review", "/compare")] == [503, 503]
    count = select(func.count()).select_from(Assignment)
    with sqlite_engine.connect() as connection:
        before = connection.execute(count.where(Assignment.interaction_key == imported)).scalar()
    anna.send("/review", interaction_id=imported, rating=3, seen=field(html, "seen"))
    with sqlite_engine.connect() as connection:
        after = connection.execute(count.where(Assignment.interaction_key == imported)).scalar()
    assert (before, after) == (0, 1)
    assert ("anna", 3, None, None, False) in reviews(sqlite_engine)


def test_the_search_of_the_history_says_how_far_it_looked(sqlite_engine: Engine) -> None:
    """What lies behind is looked through next; nothing is left out, and nothing comes twice."""
    put_people(sqlite_engine)
    answers = put_answers(sqlite_engine, 7)
    for id in answers:
        rate(sqlite_engine, id, reviewer="anna", rating=1)
    asked: dict[str, Any] = {"reviewer": "anna", "words": "0?", "limit": 2, "most": 3}
    pages, before = [], None
    while not pages or before:
        found = own_reviews(sqlite_engine, **asked, before=before)
        pages.append([each.interaction_key for each in found.found])
        before = found.before
    assert pages == [[], [], [answers[0]]]


def test_what_waits_is_counted(settings: Settings, sqlite_engine: Engine) -> None:
    """The review screen says how many answers are left, also for this rater; an admin sees corrections and flags."""
    settings = replace(settings, review_overlap=0.0)
    answers = put_answers(sqlite_engine, 5)
    anna, dora = Visitor(settings, "anna"), Visitor(settings, "dora")
    Visitor(settings, "ben").page("/review")
    assert "5 left, 4 for you" in text(anna.page("/review"))
    rate(sqlite_engine, answers[0], reviewer="ben", rating=1, correction="Drink tea.", harmful=True)
    html = text(dora.page("/review/guidelines"))
    assert "Corrections 1" in html
    assert "Flagged 1" in html
    assert "Corrections" not in text(anna.page("/review/guidelines"))


def test_other_answers_stand_beside(anna: Visitor, sqlite_engine: Engine) -> None:
    """Other answers to the question, without grades; the welcome comes after the answer."""
    put_answers(sqlite_engine, 2, to_each=3)
    html = anna.page("/review")
    assert "Other answers to this question (2)" in text(html)
    assert html.index('id="heading"') < html.index('id="welcome"')


def test_a_stale_window_replaces_nothing(anna: Visitor, sqlite_engine: Engine) -> None:
    """A grade from a window that does not show the review is refused; then it shows it, with what was typed there."""
    (id,) = put_answers(sqlite_engine, 1)
    seen = field(anna.page("/review"), "seen")
    path = f"/review/items/{id}"
    mine = {"rating": 2, "correction": "Drink tea.", "seen": seen}
    assert anna.call(f"{path}/rate", mine).status_code == 200
    refused = anna.call(f"{path}/rate", {"rating": 5, "comment": "Fine.", "correction": None, "seen": seen})
    assert (refused.status_code, refused.mimetype) == (409, "application/problem+json")
    assert "You graded this answer 2 in another window" in refused.json["detail"]
    assert reviews(sqlite_engine) == [("anna", 2, None, "Drink tea.", False)]
    now = anna.call(f"{path}/now").json["html"]
    assert "You graded this answer 2" in text(now)
    assert "Drink tea.</textarea>" in now
    assert "Fine.</textarea>" in now
    # The very same again, as after a broken connection, is no conflict.
    assert anna.call(f"{path}/rate", mine).status_code == 200
    again = {"rating": 5, "correction": "Drink tea.", "seen": field(now, "seen")}
    assert anna.call(f"{path}/rate", again).status_code == 200
    assert reviews(sqlite_engine) == [("anna", 5, None, "Drink tea.", False)]
    assert anna.call(f"{path}/rate", {**again, "seen": "yesterday"}).status_code == 422


def test_a_stale_form_replaces_nothing(anna: Visitor, sqlite_engine: Engine) -> None:
    """Without JavaScript the same: the page of the answer says it, and has what it takes to press again."""
    (id,) = put_answers(sqlite_engine, 1)
    seen = field(anna.page("/review"), "seen")
    anna.send("/review", interaction_id=id, rating=2, correction="Drink tea.", seen=seen)
    html = anna.send("/review", interaction_id=id, rating=5, seen=seen)
    assert "You graded this answer 2 in another window" in text(html)
    assert "Your draft is back" not in html
    anna.send("/review", interaction_id=id, rating=4, seen=field(html, "seen"))
    assert reviews(sqlite_engine) == [("anna", 4, None, None, False)]


def test_a_stale_draft_keeps_the_correction(anna: Visitor, sqlite_engine: Engine) -> None:
    """What a window saves that does not show the review stands beside it, not instead of it."""
    (id,) = put_answers(sqlite_engine, 1)
    seen = field(anna.page("/review"), "seen")
    path = f"/review/items/{id}"
    anna.call(f"{path}/rate", {"rating": 2, "correction": "Drink tea.", "seen": seen})
    base = anna.call(f"{path}/draft", {"comment": "Fine.", "seen": seen}).json["base"]
    html = anna.page(path)
    assert f'data-base="{base}"' in html
    assert "Drink tea.</textarea>" in html
    assert "Fine.</textarea>" in html
    assert 'aria-pressed="true"><b>2</b>' in html


def test_looking_back(anna: Visitor, sqlite_engine: Engine) -> None:
    """An earlier answer shows its grade and can get another; then comes the one after it, in the end the new one."""
    answers = put_answers(sqlite_engine, 3)
    first = shown(anna.page("/review"), answers)
    second = shown(anna.call(f"/review/items/{first}/rate", {"rating": 4}).json["html"], answers)
    third = shown(anna.call(f"/review/items/{second}/skip", {}).json["html"], answers)

    back = anna.call(f"/review/items/{third}/previous").json
    assert back["at"] == f"/review/items/{second}"
    assert "You skipped this answer" in back["html"]
    earlier = anna.call(f"/review/items/{second}/previous").json["html"]
    assert "You graded this answer 4 (right, with small gaps)" in text(earlier)
    assert 'value="following"' in earlier
    assert anna.call(f"/review/items/{first}/previous").json["html"] is None
    after = anna.call(f"/review/items/{first}/rate", {"rating": 2}).json
    assert after["message"] == "Rated 2. The answer after it."
    assert shown(after["html"], answers) == second
    new = anna.call(f"/review/items/{second}/following").json
    assert (shown(new["html"], answers), new["at"]) == (third, "/review")
    assert 'value="skip"' in new["html"]
    assert [rating for _, rating, *_ in reviews(sqlite_engine)] == [2]
    assert "You graded this answer 2" in text(anna.page(f"/review/items/{first}"))


def test_undo(anna: Visitor, sqlite_engine: Engine) -> None:
    """It takes the newest review back, with all that was typed in the fields again; then there is nothing more."""
    answers = put_answers(sqlite_engine, 2)
    assert anna.call("/review/undo", {}).json["message"] == "There is nothing to undo."
    first = shown(anna.page("/review"), answers)
    anna.call(f"/review/items/{first}/rate", {"rating": 3, "comment": "Hm.", "harmful": True})
    undone = anna.call("/review/undo", {}).json["html"]
    assert (shown(undone, answers), reviews(sqlite_engine)) == (first, [])
    assert "Hm.</textarea>" in undone
    assert 'aria-pressed="true"><b>3</b>' in undone
    assert "checked" in undone
    assert shown(anna.page("/review"), answers) == first
    html = anna.send("/review", do="undo")
    assert "There is nothing to undo." in text(html)


def test_drafts(anna: Visitor, sqlite_engine: Engine) -> None:
    """What is typed is back after a reload, with the difference to the answer; an empty draft is none."""
    (id,) = put_answers(sqlite_engine, 1)
    anna.page("/review")
    draft = f"/review/items/{id}/draft"
    assert anna.call(draft, {"comment": "Half a", "correction": "Drink tea."}).status_code == 200
    html = anna.page("/review")
    assert "Half a</textarea>" in html
    assert "Drink tea.</textarea>" in html
    assert "<ins>" in html
    assert "Your draft is back" in html
    assert reviews(sqlite_engine) == []
    anna.call(draft, {"rating": None, "comment": None, "correction": None, "harmful": False})
    assert "Your draft is back" not in anna.page("/review")


def test_the_first_time(anna: Visitor, sqlite_engine: Engine) -> None:
    """Who has rated nothing yet is welcomed with the guidelines, and only then."""
    answers = put_answers(sqlite_engine, 2)
    html = anna.page("/review")
    assert "Welcome" in text(html)
    assert "Welcome" not in text(anna.send("/review", interaction_id=shown(html, answers), rating=3))


def test_nothing_left(anna: Visitor) -> None:
    """Without answers the page says what to do, and undo and previous do no harm."""
    html = anna.page("/review")
    assert "Nothing is left to review" in text(html)
    assert "rlhf-loop ratings import" in html
    assert "There is no answer before this one." in text(anna.send("/review", do="previous"))


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("rate", {"rating": 6}, 422, "rating is 6, not a whole number from 1 to 5"),
        ("rate", {"rating": "4"}, 422, "rating is '4'"),
        ("rate", {}, 422, "The grade is missing"),
        ("rate", {"rating": 4, "grade": 1}, 422, "grade is not a field"),
        ("rate", {"rating": 4, "comment": "x" * 4001}, 422, "at most 4,000"),
        ("rate", {"rating": 4, "correction": "x" * 20_001}, 422, "at most 20,000"),
        ("rate", {"rating": 4, "comment": "a\x00b"}, 422, "NUL"),
        ("draft", {"comment": "a\ud800b"}, 400, "The body is not JSON"),
        ("draft", {"comment": "x" * 300_000}, 413, "262,144 bytes"),
    ],
)
def test_what_cannot_be_stored(
    anna: Visitor, sqlite_engine: Engine, path: str, body: dict[str, object], status: int, words: str
) -> None:
    """A bad value is refused with the reason, and leaves nothing behind."""
    (id,) = put_answers(sqlite_engine, 1)
    anna.page("/review")
    response = anna.call(f"/review/items/{id}/{path}", body)
    assert (response.status_code, response.mimetype) == (status, "application/problem+json")
    assert words in response.json["detail"]
    assert reviews(sqlite_engine) == []
    assert "Your draft is back" not in anna.page("/review")


@pytest.mark.parametrize("id", [999, 2**63, 2**80])
def test_an_answer_that_is_not_the_raters(anna: Visitor, sqlite_engine: Engine, id: int) -> None:
    """One that was never given to the rater, or cannot be there, is not found."""
    put_answers(sqlite_engine, 1)
    for path, body in (("rate", {"rating": 4}), ("skip", {}), ("draft", {"comment": "x"}), ("previous", None)):
        assert anna.call(f"/review/items/{id}/{path}", body).status_code == 404
    assert anna.client.get(f"/review/items/{id}").status_code == 404
    anna.send("/review", status=404 if id < 2**63 else 422, interaction_id=id, rating=4)


def test_hostile_texts_are_only_text(settings: Settings, sqlite_engine: Engine) -> None:
    """Markup in answers, sources, comments and corrections is escaped wherever it is shown."""
    put_answers(sqlite_engine, 1, to_each=2, source=HOSTILE, title=HOSTILE, licence=HOSTILE, url="javascript:alert(1)")
    dora = Visitor(settings, "dora")
    id = int(field(dora.page("/review"), "interaction_id"))
    dora.call(f"/review/items/{id}/draft", {"rating": 1, "comment": HOSTILE, "correction": HOSTILE})
    pages = [dora.page("/review"), dora.page("/compare")]
    pages.append(dora.call(f"/review/items/{id}/rate", {"rating": 1, "correction": HOSTILE}).json["html"])
    pages += [dora.page(f"/review/items/{id}"), dora.page("/review/corrections")]
    for html in pages:
        assert "&lt;img src=x" in html
        assert "{{7*7}}" in html
        for markup in ("<script>alert", "<img", "javascript:"):
            assert markup not in html


def test_the_difference(anna: Visitor) -> None:
    """The script gets pieces, whatever the line breaks."""
    answer = anna.call("/review/difference", {"before": "Take\r\naspirin.", "after": "Take\nparacetamol."})
    assert answer.json["pieces"] == [
        {"kind": "same", "text": "Take\n"},
        {"kind": "removed", "text": "aspirin"},
        {"kind": "added", "text": "paracetamol"},
        {"kind": "same", "text": "."},
    ]


def test_under_a_path_of_somebody_elses(settings: Settings, sqlite_engine: Engine, tmp_path: Path) -> None:
    """With `url_prefix` every address on the screens begins with it, and the form works."""
    (id,) = put_answers(sqlite_engine, 1)
    app = Flask("somebody_elses")
    app.register_blueprint(blueprint(settings, service=FakeService(GOOD)), url_prefix="/medical")
    client = app.test_client()
    token = field(client.get("/medical/sign-in").text, "form_token")
    client.post("/medical/sign-in", data={"name": "anna", "password": PASSWORD, "form_token": token})
    html = client.get("/medical/review").text
    for attribute in ('="/review', '="/compare', '="/sign-', '="/data'):
        assert attribute not in html
    data = {"form_token": field(html, "form_token"), "interaction_id": id, "rating": 4}
    assert client.post("/medical/review", data=data).headers["Location"] == "/medical/review"
    assert len(reviews(sqlite_engine)) == 1
