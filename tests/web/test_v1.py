from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import Engine, func, select
from v1_apps import ALL_BUT_EXPERT, ITEM, Caller, another_token, app_on, caller, token_for

from rlhf_loop.accounts import tokens
from rlhf_loop.domain import Rating, UserRole
from rlhf_loop.store import audit
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.store.tables import Interaction, Preference, Review
from rlhf_loop.utils.text import blank


@pytest.fixture
def app(engine: Engine, tmp_path: Path) -> Caller:
    return caller(engine, tmp_path)


def count(engine: Engine, table: Any = Interaction) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def stored(engine: Engine) -> list[tuple[str, str, int]]:
    with engine.connect() as connection:
        found = connection.execute(select(Review.reviewer, Review.role, Review.rating).order_by(Review.id))
        return [tuple(row) for row in found]  # type: ignore[misc]


def test_feedback_in_one_call(app: Caller, engine: Engine) -> None:
    """An answer and what its user thinks of it are there after one call, with all that was said of them."""
    sent = {
        **ITEM,
        "source": "bot",
        "title": "Hiccups",
        "url": "https://example.org/hiccups",
        "licence": "CC0",
        "drafted_by": "llama3.2",
        "retrieved_at": "2026-11-20T08:00:00+02:00",
        "candidate_group": "g",
        "shown_rank": 2,
        "score": 0.5,
        "model_version": "v1",
        "created_at": "2026-11-21T00:00:00Z",
    }
    review = {"thumb": "down", "comment": "No.", "correction": "Drink.", "harmful": True, "reviewer": "p:7"}
    response = app("POST", "/interactions", {**sent, "review": review})
    assert response.status_code == 201
    assert response.json == {"id": "a-1", "rating": None, "end_user_rating": 1}
    assert response.headers["Location"] == "/v1/interactions/a-1"
    found = app.web.get(response.headers["Location"], headers={"Authorization": f"Bearer {app.token}"}).json
    assert found is not None
    expected = {
        **sent,
        "retrieved_at": "2026-11-20T06:00:00Z",
        "rating": None,
        "rated_at": None,
        "end_user_rating": 1,
        "harmful": True,
        "expert_reviews": 0,
        "end_user_reviews": 1,
    }
    assert found["interaction"] == expected
    (only,) = found["reviews"]
    assert only.pop("reviewed_at")
    assert only == {
        "interaction_id": "a-1",
        "reviewer": "app:p:7",
        "role": "end_user",
        "rating": 1,
        "comment": "No.",
        "correction": "Drink.",
        "harmful": True,
    }
    assert found["next"] is None
    actions = [entry.action for entry in audit.entries(engine, limit=2)]
    assert actions == ["review.added", "interactions.added"]


def test_a_batch_is_stored_whole_or_not_at_all(app: Caller, engine: Engine) -> None:
    """Up to 100 in their order; one that is taken, doubled or wrong keeps all of them out."""
    batch = [{"prompt": "Why?", "response": f"Because {number}."} for number in range(99)]
    response = app("POST", "/interactions", {"interactions": [*batch, {**ITEM, "review": {"rating": 4}}]})
    assert response.status_code == 201
    assert "Location" not in response.headers
    found = response.json["interactions"]  # type: ignore[index]
    assert len({each["id"] for each in found}) == 100
    assert found[99] == {"id": "a-1", "rating": None, "end_user_rating": 4}
    for bad, status, words in (
        ([{**ITEM, "id": "new"}, ITEM], 409, "'a-1' already"),
        ([{**ITEM, "id": "new"}, {**ITEM, "id": "new"}], 422, "'new' is there more than once"),
        ([{**ITEM, "id": "new"}, {"prompt": "x"}], 422, "interactions.1.response is missing"),
        (
            [{**ITEM, "id": "new"}, {**ITEM, "id": "n2", "review": {"rating": 9}}],
            422,
            "interactions.1.review.rating is 9",
        ),
        ([{**ITEM, "id": None}] * 101, 422, "101 entries; at most 100"),
        ([], 422, "no entries"),
    ):
        response = app("POST", "/interactions", {"interactions": bad})
        assert (response.status_code, response.mimetype) == (status, "application/problem+json")
        assert words in response.json["detail"]  # type: ignore[index]
    assert count(engine) == 100


NO_INTERACTIONS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"prompt": " "}, "prompt is only white space"),
    ({"response": "a\0b"}, "response holds the character"),
    ({"prompt": 7}, "prompt is 7, not a text"),
    ({"prompt": "x" * 100_001}, "100,001 characters; at most 100,000"),
    ({"id": "a/b"}, "id is 'a/b'"),
    ({"id": ".."}, "id is '..'"),
    ({"id": ""}, "id is ''"),
    ({"url": "javascript:alert(1)"}, "url is "),
    ({"url": "https://"}, "url is not the address"),
    ({"drafted_by": "\x1b[2Jllama"}, "drafted_by holds the character '\\x1b', which is not valid in a name"),
    ({"score": 1.5}, "score is 1.5: input should be less"),
    ({"shown_rank": 0}, "shown_rank is 0: input should be greater"),
    ({"shown_rank": 2**31}, "shown_rank is 2147483648: input"),
    ({"created_at": "2026-01-01T00:00:00"}, "created_at is '2026-01-01T00:00:00'"),
    ({"created_at": "0001-01-01T00:00:00+14:00"}, "created_at is a time that no calendar has"),
    ({"created_at": 5}, "created_at is 5"),
    ({"text": "x"}, "text is not a field"),
    ({"review": {}}, "review rating is missing"),
    ({"review": {"rating": 3, "thumb": "up"}}, "both there"),
    ({"review": {"rating": 2.5}}, "review.rating is 2.5, not a whole number from 1 to 5"),
    ({"review": {"thumb": "sideways"}}, "review.thumb"),
    ({"review": {"rating": 3, "reviewer": " "}}, "review.reviewer is only white space"),
    ({"review": {"rating": 3, "role": "admin"}}, "review.role"),
)


def test_what_is_no_interaction_is_refused(app: Caller, engine: Engine) -> None:
    """With 422 and the value seen, and nothing is stored."""
    for change, words in NO_INTERACTIONS:
        response = app("POST", "/interactions", {**ITEM, **change})
        assert (response.status_code, response.mimetype) == (422, "application/problem+json"), change
        assert words in response.json["detail"], change  # type: ignore[index]
        assert count(engine) == 0, change


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"", 400),
        (b"[" * 100_000, 400),
        (b"7", 422),
        (b"[]", 422),
        (b'{"prompt": "a", "prompt": "b"}', 422),
    ],
)
def test_what_is_no_object_is_refused(app: Caller, body: bytes, status: int) -> None:
    """Broken JSON is 400, other JSON 422, and no depth of brackets is a fault of ours."""
    assert app("POST", "/interactions", data=body, content_type="application/json").status_code == status


def test_bodies_up_to_a_mebibyte(app: Caller) -> None:
    """Larger ones are 413; without a valid token, the smaller limit does not even matter."""
    many = [{"prompt": "Why?", "response": "x" * 99_000} for _ in range(10)]
    assert app("POST", "/interactions", {"interactions": many}).status_code == 201
    response = app("POST", "/interactions", {"interactions": many * 2})
    assert response.status_code == 413
    assert "1,048,576 bytes. Send less at once" in response.json["detail"]  # type: ignore[index]
    assert "question" not in response.json["detail"]  # type: ignore[index]


def test_each_right_needs_its_scope(engine: Engine, tmp_path: Path) -> None:
    """No token is 401, a token for something else 403, and a review inside an interaction needs both scopes."""
    web = app_on(engine, tmp_path).test_client()
    assert web.get("/v1/interactions").status_code == 401
    assert web.post("/v1/interactions", json=ITEM).headers["WWW-Authenticate"].startswith("Bearer")
    assert Caller(web, "rlhf_made-up")("GET", "/interactions").status_code == 401
    writer = Caller(web, token_for(engine, "writer", scopes=[tokens.WRITE]))
    assert writer("GET", "/interactions").status_code == 403
    assert writer("POST", "/interactions", {**ITEM, "review": {"rating": 3}}).status_code == 403
    assert writer("POST", "/interactions", ITEM).status_code == 201
    assert writer("POST", "/interactions/a-1/reviews", {"rating": 3}).status_code == 403
    reader = Caller(web, token_for(engine, "reader", scopes=[tokens.READ]))
    assert reader("GET", "/interactions/a-1").status_code == 200
    assert reader("POST", "/interactions", {**ITEM, "id": "b"}).status_code == 403
    assert reader("DELETE", "/interactions/a-1/reviews").status_code == 403
    assert reader("POST", "/preferences", {"chosen_id": "a-1", "rejected_id": "b"}).status_code == 403
    assert count(engine, Review) == 0


def test_reviews_replace_each_other_and_go(app: Caller, engine: Engine) -> None:
    """The first is 201, the next of the same reviewer 200, and who took one back has none any more."""
    app.record()
    first = app("POST", "/interactions/a-1/reviews", {"rating": 2, "reviewer": "p"})
    assert (first.status_code, first.headers["Location"]) == (201, "/v1/interactions/a-1/reviews")
    again = app("POST", "/interactions/a-1/reviews", {"thumb": "up", "reviewer": "p"})
    assert again.status_code == 200
    assert app("POST", "/interactions/a-1/reviews", {"rating": 3}).status_code == 201
    assert stored(engine) == [("app:p", "end_user", 5), ("app", "end_user", 3)]
    listed = app("GET", "/interactions/a-1/reviews").json
    assert [each["reviewer"] for each in listed["reviews"]] == ["app", "app:p"]  # type: ignore[index]
    gone = app("DELETE", "/interactions/a-1/reviews?reviewer=p")
    assert (gone.status_code, gone.data, gone.headers.get("Content-Type")) == (204, b"", None)
    assert app("DELETE", "/interactions/a-1/reviews?reviewer=p").status_code == 404
    assert stored(engine) == [("app", "end_user", 3)]
    assert app("POST", "/interactions/nobody/reviews", {"rating": 3}).status_code == 404


def test_whose_word_it_is(engine: Engine, tmp_path: Path) -> None:
    """Raters are experts in their own name; any other expert's word needs the scope for it, and names stay apart."""
    service = caller(engine, tmp_path)
    rater = Caller(service.web, token_for(engine, "anna", role=UserRole.RATER))
    trusted = Caller(service.web, another_token(engine, "app", scopes=[*ALL_BUT_EXPERT, tokens.REVIEW_AS_EXPERT]))
    path = f"/interactions/{service.record()}/reviews"
    for who, sent, status in (
        (service, {"rating": 1}, 201),
        (service, {"rating": 1, "reviewer": "anna"}, 201),
        (service, {"rating": 1, "role": "expert"}, 403),
        (rater, {"rating": 4}, 201),
        (rater, {"rating": 5, "reviewer": "ben"}, 201),
        (rater, {"rating": 5, "reviewer": "ben", "role": "expert"}, 403),
        (trusted, {"rating": 5, "reviewer": "dr-b", "role": "expert"}, 201),
    ):
        assert who("POST", path, sent).status_code == status, sent
    assert stored(engine) == [
        ("app", "end_user", 1),
        ("app:anna", "end_user", 1),
        ("anna", "expert", 4),
        ("anna:ben", "end_user", 5),
        ("app:dr-b", "expert", 5),
    ]


def test_end_users_do_not_move_the_experts(app: Caller, engine: Engine) -> None:
    """However many they are, the experts' consensus, its time and an expert's words stay; and the other way round."""
    (id,) = record(engine, [Rating("Why?", "So.", external_id="a-1")])
    rate(engine, id, reviewer="dr", rating=4, comment="fine", correction="Better so.")
    before = app("GET", "/interactions/a-1").json["interaction"]  # type: ignore[index]
    for number in range(5):
        sent = {"rating": 1, "reviewer": f"p{number}", "comment": "bad", "correction": "worse"}
        assert app("POST", "/interactions/a-1/reviews", sent).status_code == 201
    after = app("GET", "/interactions/a-1").json["interaction"]  # type: ignore[index]
    assert (before["rating"], before["end_user_rating"], before["end_user_reviews"]) == (4, None, 0)
    assert after == {**before, "end_user_rating": 1, "end_user_reviews": 5}
    with engine.connect() as connection:
        words = connection.execute(select(Interaction.feedback_comment, Interaction.corrected_response)).one()
    assert tuple(words) == ("fine", "Better so.")
    rate(engine, id, reviewer="dr2", rating=5)
    last = app("GET", "/interactions/a-1").json["interaction"]  # type: ignore[index]
    assert (last["rating"], last["end_user_rating"]) == (4, 1)


def test_preferences(app: Caller, engine: Engine) -> None:
    """Between two answers to one question; a reviewer's second word replaces the first, whichever way round."""
    for id, prompt in (("a", "Why?"), ("b", " why? "), ("c", "Who?")):
        app.record(id=id, prompt=prompt)
    first = app("POST", "/preferences", {"chosen_id": "b", "rejected_id": "a", "reviewer": "p", "comment": "x"})
    assert first.status_code == 201
    assert first.json == {
        "chosen_id": "b",
        "rejected_id": "a",
        "tie": False,
        "reviewer": "app:p",
        "role": "end_user",
        "comment": "x",
    }
    again = app("POST", "/preferences", {"chosen_id": "a", "rejected_id": "b", "reviewer": "p"})
    assert again.status_code == 200
    assert app("POST", "/preferences", {"chosen_id": "b", "rejected_id": "a", "tie": True}).status_code == 201
    with engine.connect() as connection:
        rows = connection.execute(select(Preference.reviewer, Preference.preferred, Preference.comment))
        assert sorted(tuple(row) for row in rows) == [("app", "tie", None), ("app:p", "first", None)]
    for chosen, rejected, status, words in (
        ("a", "c", 422, "different questions"),
        ("a", "a", 422, "both ids are of one"),
        ("a", "zzz", 404, "'zzz'"),
        ("a\0", "b", 422, "cannot be stored"),
    ):
        response = app("POST", "/preferences", {"chosen_id": chosen, "rejected_id": rejected})
        assert (response.status_code, words in response.json["detail"]) == (status, True)  # type: ignore[index]


@pytest.mark.parametrize("id", ["a/b", "a//b", "a b", "ä?#%2F", "a.b/", "reviews", "x" * 200])
def test_ids_from_files_can_be_reached(app: Caller, engine: Engine, id: str) -> None:
    """Percent-encoded, whatever signs they hold."""
    record(engine, [Rating("Why?", "So.", external_id=id)])
    path = f"/interactions/{quote(id, safe='')}"
    assert app("GET", path).json["interaction"]["id"] == id  # type: ignore[index]
    assert app("POST", f"{path}/reviews", {"rating": 3}).status_code == 201
    assert app("DELETE", f"{path}/reviews").status_code == 204


@pytest.mark.parametrize("path", ["/interactions/%00", "/interactions/%ff", "/interactions/a%00/reviews"])
def test_ids_that_nothing_can_have(app: Caller, path: str) -> None:
    """404, on both databases; and no redirect to what another id names."""
    app.record()
    assert app("GET", path).status_code == 404
    assert app("GET", "/interactions/%2Fa-1").status_code == 405


#: What is no name: it leads elsewhere, has no end, cannot be stored, or cannot be seen.
NO_NAMES = ("", "..", "../../x", "x" * 4000, "a\0b", "\ud800", "\u200b", "\u202e\u2066", "\ufeff \u3164", "9" * 4000)


@pytest.mark.parametrize("bad", NO_NAMES, ids=ascii)
def test_no_name_is_invisible_or_endless(app: Caller, engine: Engine, bad: str) -> None:
    """Wherever a name is asked for: it is refused, stands for none, or can be seen and is short."""
    names = ("source", "title", "licence", "candidate_group", "model_version", "id", "drafted_by")
    asked = [("POST", "/interactions", {**ITEM, "id": f"b-{name}", name: bad}) for name in names]
    for name in ("reviewer", "interaction_id", "source", "candidate_group"):
        said = {"prompt": "Why?", "response": f"By {name}.", "rating": 3, name: bad}
        asked.append(("POST", "/feedback", said))
    asked.append(("POST", f"/interactions/{app.record()}/reviews", {"rating": 2, "reviewer": bad}))
    asked.append(("POST", "/preferences", {"chosen_id": bad, "rejected_id": "a-1"}))
    asked += [
        ("GET", f"/interactions?{name}={quote(bad, errors='surrogatepass')}", None) for name in names[:1] + names[3:5]
    ]
    for method, path, body in asked:
        assert app(method, path, body).status_code < 500, (path, body)
    kept = [column for column in Interaction.__table__.columns if column.name in {*names, "external_id"} - {"id"}]
    with engine.connect() as connection:
        found = [*connection.execute(select(*kept)), *connection.execute(select(Review.reviewer))]
    assert all(name is None or (not blank(name) and len(name) <= 2000) for row in found for name in row)
