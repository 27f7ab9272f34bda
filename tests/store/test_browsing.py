from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from v1_apps import caller

from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.store import queries
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.store.queries import Filters

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def offered(engine: Engine, *names: str, **fields: Any) -> list[int]:
    given = Rating("Why?", "So.", created_at=NOON)
    return record(engine, [replace(given, external_id=name, **fields) for name in names])


def names(page: queries.InteractionPage) -> list[str]:
    return [entry.id for entry in page.interactions]


@pytest.fixture
def many(engine: Engine) -> Engine:
    """Six answers: three rated by experts, one by an end user alone, two of them flagged."""
    a, b, c = offered(engine, "a", "b", "c", source="one", candidate_group="g", model_version="m1")
    d, _, _ = offered(engine, "d", "e", "f", source="two", created_at=NOON + timedelta(hours=1))
    rate(engine, a, reviewer="x", rating=1, harmful=True)
    rate(engine, b, reviewer="x", rating=3)
    rate(engine, b, reviewer="y", rating=5)
    rate(engine, c, reviewer="x", rating=5)
    rate(engine, d, reviewer="app:p", rating=2, harmful=True, role=ReviewerRole.END_USER)
    return engine


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (Filters(), "fedcba"),
        (Filters(rated=True), "cba"),
        (Filters(rated=False), "fed"),
        (Filters(min_rating=3), "cb"),
        (Filters(max_rating=3), "ba"),
        (Filters(min_rating=2, max_rating=4), "b"),
        (Filters(min_rating=5, max_rating=1), ""),
        (Filters(source="two"), "fed"),
        (Filters(candidate_group="g", source="one"), "cba"),
        (Filters(model_version="m1"), "cba"),
        (Filters(harmful=True), "da"),
        (Filters(harmful=False, rated=True), "cb"),
        (Filters(created_after=NOON), "fed"),
        (Filters(created_before=NOON + timedelta(minutes=1)), "cba"),
        (Filters(source="nobody"), ""),
    ],
)
def test_filters(many: Engine, filters: Filters, found: str) -> None:
    """Each narrows the list, which begins with the newest; ratings are the experts'."""
    assert "".join(names(queries.interactions(many, filters))) == found


def test_what_an_entry_says(many: Engine) -> None:
    """Both consensuses, how many of each spoke, and the flag of whomever."""
    entries = {entry.id: entry for entry in queries.interactions(many).interactions}
    b, d = entries["b"], entries["d"]
    assert (b.rating, b.end_user_rating, b.expert_reviews, b.end_user_reviews, b.harmful) == (3, None, 2, 0, False)
    assert (d.rating, d.end_user_rating, d.expert_reviews, d.end_user_reviews, d.harmful) == (None, 2, 0, 1, True)
    assert (b.created_at, b.prompt, b.response) == (NOON, "Why?", "So.")


def test_pages_are_whole_while_others_write(many: Engine) -> None:
    """Each answer that was there is on one page, in order, although more come and one is deleted meanwhile."""
    seen: list[str] = []
    cursor = None
    for number in range(4):
        page = queries.interactions(many, limit=2, cursor=cursor)
        seen += names(page)
        offered(many, f"later-{number}")
        cursor = page.next
        if cursor is None:
            break
    assert "".join(seen) == "fedcba"


def test_times_that_plain_sql_has_written(sqlite_engine: Engine) -> None:
    """SQLite orders times as texts; whatever their form was, each answer comes once, in the order of time."""
    offered(sqlite_engine, "e", created_at=NOON + timedelta(seconds=4))
    insert = "INSERT INTO rlhf_interactions (user_prompt, ai_response, external_id, created_at) VALUES ('Why?', 'So.', "
    with transaction(sqlite_engine) as connection:
        for said in (
            *("'a', '2026-11-23 12:00:00'", "'b', '2026-11-23T12:00:01.5+00:00'"),
            *("'c', '2026-11-23 14:00:02+02:00'", "'d', '2020-01-01'"),
        ):
            connection.exec_driver_sql(f"{insert}{said})")
        moved = "SET created_at = '2026-11-23 12:00:03.123' WHERE external_id = 'd'"
        connection.exec_driver_sql(f"UPDATE rlhf_interactions {moved}")
    found, cursor, filters = "", None, Filters(created_after=NOON - timedelta(days=1))
    while len(found) < 6:
        page = queries.interactions(sqlite_engine, filters, limit=1, cursor=cursor)
        found, cursor = found + "".join(names(page)), page.next
        if cursor is None:
            break
    assert found == "edcba"


def test_with_a_time_pages_are_in_its_order(engine: Engine) -> None:
    """Whatever was recorded first; what is recorded meanwhile has its place by its time, and nothing comes twice."""
    hours = {"a": 3, "b": 1, "c": 2, "d": 2, "e": 4}
    for name, hour in hours.items():
        offered(engine, name, created_at=NOON + timedelta(hours=hour))
    assert "".join(names(queries.interactions(engine))) == "edcba"
    for filters, found in (
        (Filters(created_after=NOON), "eadcb"),
        (Filters(created_before=NOON + timedelta(hours=4)), "adcb"),
        (Filters(created_after=NOON + timedelta(hours=1), created_before=NOON + timedelta(hours=3)), "dc"),
    ):
        seen, cursor = "", None
        while len(seen) < len(found):
            page = queries.interactions(engine, filters, limit=1, cursor=cursor)
            seen += "".join(names(page))
            cursor = page.next
            offered(engine, f"later {len(seen)} {found}", created_at=NOON + timedelta(hours=9))
        assert (seen, cursor) == (found, None)
    of_time = queries.interactions(engine, Filters(created_after=NOON), limit=1).next
    with pytest.raises(ValueError, match="does not belong"):
        queries.interactions(engine, cursor=of_time)


@pytest.mark.parametrize(
    ("before", "by_key", "by_time"),
    [(1, "", ""), (2**31 - 1, "fedcba", ""), (2**63, "fedcba", ""), (2**96 - 1, *["fedcba"] * 2)],
)
def test_a_place_that_nobody_gave(many: Engine, before: int, by_key: str, by_time: str) -> None:
    """Whatever number it is, it is before or after what is there, by the key or by the time and the key."""
    for filters, found in ((Filters(), by_key), (Filters(created_after=NOON - timedelta(days=1)), by_time)):
        assert names(queries.search(many, filters, before=before)) == list(found)  # type: ignore[arg-type]


def test_the_last_page_says_so(many: Engine) -> None:
    """Also where it is just full."""
    assert queries.interactions(many, limit=6).next is None
    assert queries.interactions(many, limit=5).next is not None
    assert queries.interactions(many, Filters(source="nobody")).next is None


def test_reviews_have_pages_too(many: Engine) -> None:
    """Newest first; those of the answer itself come with its first page."""
    entry, page = queries.interaction(many, "b", reviews=1)
    assert entry.rating == 3
    assert [review.reviewer for review in page.reviews] == ["y"]
    rest = queries.reviews(many, "b", cursor=page.next)
    assert [review.reviewer for review in rest.reviews] == ["x"]
    assert rest.next is None
    for id in ("nobody", "x" * 1000):
        with pytest.raises(LookupError, match="There is no interaction with the id"):
            queries.interaction(many, id)
        with pytest.raises(LookupError, match="There is no interaction with the id"):
            queries.reviews(many, id)


def test_a_cursor_belongs_to_its_list(many: Engine) -> None:
    """With other filters, of another answer, or made up, it is refused."""
    cursor = queries.interactions(many, limit=2).next
    assert cursor
    flipped = ("A" if cursor[0] != "A" else "B") + cursor[1:]
    for bad in ("", "x", "é", "\0", "A" * 22, cursor[:-4], cursor + "AAAA", flipped, "A" * 200):
        with pytest.raises(ValueError, match="does not belong to this request"):
            queries.interactions(many, cursor=bad)
    with pytest.raises(ValueError, match="does not belong"):
        queries.interactions(many, Filters(rated=True), cursor=cursor)
    with pytest.raises(ValueError, match="does not belong"):
        queries.reviews(many, "b", cursor=cursor)
    of_b = queries.interaction(many, "b", reviews=1)[1].next
    with pytest.raises(ValueError, match="does not belong"):
        queries.reviews(many, "a", cursor=of_b)


def test_the_same_by_http(many: Engine, tmp_path: Path) -> None:
    """`GET /v1/interactions` takes all filters, and gives the next page to who sends the cursor back."""
    app = caller(many, tmp_path)
    first = app("GET", "/interactions?limit=2&rated=true&min_rating=1&max_rating=5&source=one").json
    assert [each["id"] for each in first["interactions"]] == ["c", "b"]
    path = f"/interactions?limit=2&rated=true&min_rating=1&max_rating=5&source=one&cursor={first['next']}"
    assert app("GET", path).json == {
        "interactions": [{**app("GET", "/interactions/a").json["interaction"]}],
        "next": None,
    }
    assert len(app("GET", "/interactions?created_after=2026-11-23T13:00:00%2B01:00").json["interactions"]) == 3


BAD_QUESTIONS = (
    "rated=maybe",
    "min_rating=0",
    "max_rating=6",
    "min_rating=x",
    "limit=0",
    "limit=101",
    "limit=",
    "created_after=yesterday",
    "created_after=2026-01-01T00:00:00",
    "created_after=0001-01-01T00:00:00%2B14:00",
    "created_before=1e400",
    "source=%00",
    "colour=red",
    "rated=true&rated=false",
    "cursor=abc",
    f"cursor={'x' * 300}",
)


def test_bad_questions_are_problems(engine: Engine, tmp_path: Path) -> None:
    """422, and no filter is passed over in silence."""
    app = caller(engine, tmp_path)
    for query in BAD_QUESTIONS:
        response = app("GET", f"/interactions?{query}")
        assert (response.status_code, response.mimetype) == (422, "application/problem+json"), query
