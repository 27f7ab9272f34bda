"""Recorded rankings that are old, or of somebody who is to be forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, insert, select

from rlhf_loop.domain import Candidate, RankedCandidate, Rating, RecordedRanking
from rlhf_loop.store import rankings
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.interactions import put, put_interactions, put_preference, rate, record
from rlhf_loop.store.rankings import Stored
from rlhf_loop.store.tables import AnsweredRequest, Draft, Interaction, ServedQuestion

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
RANKING = RecordedRanking(
    id="a",
    query="What helps against hiccups?",
    candidates=tuple(
        RankedCandidate(Candidate(text), rank=place + 1, score=0.5, position=place)
        for place, text in enumerate(("Sugar.", "Hold your breath."))
    ),
    door="/v1/rerank",
    policy="live",
    ranked_at=NOON,
)


def stored(engine: Engine, *given: RecordedRanking) -> list[int]:
    with transaction(engine) as connection:
        keys = put_interactions(connection, [rating for each in given for rating in each.ratings])
        put(connection, *(each.served for each in given))
    return keys


def left(engine: Engine) -> tuple[set[str], set[str]]:
    """Return the ids of the answers, and the groups of the serving records."""
    with reading(engine) as connection:
        answers = set(connection.execute(select(Interaction.external_id)).scalars())
        return answers, set(connection.execute(select(ServedQuestion.candidate_group)).scalars())


def test_what_is_old_and_was_not_judged_is_purged(engine: Engine) -> None:
    """A ranking goes as a whole or not at all: not where a document was rated, compared, or made an answer."""
    names = ("old", "rated", "compared", "used", "new")
    given = [replace(RANKING, id=name) for name in names[:-1]]
    keys = stored(engine, *given, replace(RANKING, id="new", ranked_at=NOON + timedelta(days=1)))
    other = record(engine, [Rating("Why?", "So.", candidate_group="question:x", created_at=NOON - timedelta(days=9))])
    rate(engine, keys[2], rating=4)
    with transaction(engine) as connection:
        put_preference(connection, keys[4], keys[5], reviewer="anna")
        rankings.note_used(connection, other[0], [keys[7]])
        rankings.note_used(connection, other[0], [keys[7]])
        assert rankings.find(connection, "rated").documents == {0: keys[2], 1: keys[3]}
    assert rankings.purge(engine, before=NOON + timedelta(hours=1), actor="worker") == Stored(1, 2, 0)
    answers, served = left(engine)
    assert {f"{name}.{place}" for name in names[1:] for place in (0, 1)} < answers
    assert (len(answers), served) == (9, {f"ranking:{name}" for name in names})
    with reading(engine) as connection, pytest.raises(rankings.PurgedError, match="'old' are deleted"):
        rankings.find(connection, "old")
    assert rankings.purge(engine, before=NOON + timedelta(hours=1), actor="worker") == Stored()


def test_a_question_is_forgotten_in_all_its_spellings(engine: Engine) -> None:
    """With what was said of its answers and how they were served; nothing else goes."""
    keys = stored(engine, RANKING, replace(RANKING, id="b", query="what  helps against HICCUPS?"))
    stored(engine, replace(RANKING, id="c", query="Why do we yawn?"))
    rate(engine, keys[0], rating=4)
    with reading(engine) as connection:
        found = rankings.of_query(connection, "What helps against hiccups?")
        assert (found, rankings.count(connection, found)) == (keys, Stored(2, 4, 1))
    assert rankings.forget(engine, found, actor="anna") == Stored(2, 4, 1)
    assert left(engine) == ({"c.0", "c.1"}, {"ranking:c"})


def test_what_is_forgotten_in_part_leaves_no_stored_reply(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would know any more that a reply to a request was about an answer that is gone."""
    monkeypatch.setattr(rankings, "_ANSWERS_AT_ONCE", 1)
    keys = stored(engine, RANKING, replace(RANKING, id="b"))
    reply = {"owner": "shop", "request_hash": "h", "status": 201, "body": '{"id": "b.1", "text": "Hold your breath."}'}
    with transaction(engine) as connection:
        connection.execute(insert(AnsweredRequest).values(key="k", **reply))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rankings.forget(engine, keys, actor="anna", progress=stop)
    assert 0 < len(left(engine)[0]) < len(keys)
    with reading(engine) as connection:
        assert not connection.execute(select(AnsweredRequest.key)).all()


def test_a_caller_is_forgotten_with_what_was_made_of_the_rankings(engine: Engine) -> None:
    """The final answers, too, which are no documents."""
    stored(engine, replace(RANKING, caller="shop"), replace(RANKING, id="b", caller="app"))
    record(engine, [Rating(RANKING.query, "Both.", candidate_group="answers:a", external_id="a.final")])
    with reading(engine) as connection:
        found = rankings.of_caller(connection, "shop")
    rankings.forget(engine, found, actor="anna")
    assert left(engine) == ({"b.0", "b.1"}, {"ranking:b"})


def test_what_is_rated_while_it_is_purged_stays(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all of its ranking, and so does what a rater has begun; the others go."""
    keys, old = stored(engine, *(replace(RANKING, id=name) for name in "abc")), rankings.old
    with transaction(engine) as connection:
        connection.execute(insert(Draft).values(reviewer="anna", interaction_key=keys[5], comment="Hm."))

    def slow(connection: Connection, **of: Any) -> list[str]:
        found = old(connection, **of)
        if "among" not in of:
            rate(engine, keys[0], rating=4)
        return found

    monkeypatch.setattr(rankings, "old", slow)
    assert rankings.purge(engine, before=NOON + timedelta(hours=1), actor="worker") == Stored(1, 2, 0)
    assert left(engine)[0] == {"a.0", "a.1", "c.0", "c.1"}


def test_a_caller_is_forgotten_also_where_the_documents_are_deleted(engine: Engine) -> None:
    """What is left then tells that they asked, and when; each list counts once, however many there are."""
    stored(engine, *(replace(RANKING, id=f"{number}", caller="shop") for number in range(460)))
    stored(engine, replace(RANKING, id="old", caller="shop", ranked_at=NOON - timedelta(days=1)))
    record(engine, [Rating(RANKING.query, "Both.", candidate_group="answers:0", external_id="0.final")])
    rankings.purge(engine, before=NOON, actor="worker")
    with reading(engine) as connection:
        found = rankings.of_caller(connection, "shop")
        assert rankings.count(connection, found, caller="shop") == Stored(461, 921, 0)
    assert rankings.forget(engine, found, actor="anna", caller="shop") == Stored(461, 921, 0)
    assert left(engine) == (set(), set())
