from __future__ import annotations

import codecs
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S
from sqlalchemy import Engine, delete, func, select
from v1_apps import Caller, another_token, caller, token_for

from rlhf_loop import domain
from rlhf_loop.accounts import tokens
from rlhf_loop.domain import Candidate, RankedCandidate, Rating, RecordedRanking, ReviewerRole, UserRole
from rlhf_loop.exchange.feedback import Fate, OtherTextsError, add_answer, find_answer, take_preference, take_review
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.store import rankings
from rlhf_loop.store.engine import make_engine, transaction
from rlhf_loop.store.interactions import put, put_interactions, put_preference, record
from rlhf_loop.store.tables import AuditEntry, Interaction, Preference, Review, UsedPassage

TEXTS = {"prompt": "What helps against hiccups?", "response": "Hold your breath."}
EARLY, LATE = "2026-01-31T09:30:00Z", "2026-02-01T09:30:00Z"


@pytest.fixture
def app(engine: Engine, tmp_path: Path) -> Caller:
    return caller(engine, tmp_path)


def count(engine: Engine, table: Any = Interaction) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def test_feedback_on_a_known_answer(app: Caller) -> None:
    """By its id; the second of the same reviewer replaces the first, and others stand beside it."""
    app.record()
    first = app("POST", "/feedback", {"interaction_id": "a-1", "thumb": "up", "reviewer": "u7", "comment": "Ja. 🙂"})
    assert first.status_code == 201
    assert {name: first.json[name] for name in ("interaction_id", "reviewer", "role", "rating", "comment")} == {
        "interaction_id": "a-1",
        "reviewer": "app:u7",
        "role": "end_user",
        "rating": 5,
        "comment": "Ja. 🙂",
    }
    assert first.headers["Location"].endswith("/v1/interactions/a-1/reviews")
    second = app("POST", "/feedback", {"interaction_id": "a-1", "rating": 2, "reviewer": "u7", "correction": "Drink."})
    assert (second.status_code, second.json["rating"], second.json["correction"]) == (200, 2, "Drink.")
    assert app("POST", "/feedback", {"interaction_id": "a-1", "rating": 4, "reviewer": "u8"}).status_code == 201
    found = app("GET", "/interactions/a-1").json["interaction"]
    assert (found["end_user_reviews"], found["end_user_rating"], found["expert_reviews"]) == (2, 2, 0)


def test_a_reviewer_in_two_forms_is_one(app: Caller) -> None:
    """Whatever line ends and forms of letters a name comes in, it is one person's, by every route."""
    app.record()
    for place, name in enumerate(("Zo\u00eb\nNorth", "Zoe\u0308\r\nNorth ")):
        for route, body in (
            ("/feedback", {"interaction_id": "a-1", "rating": 2}),
            ("/interactions/a-1/reviews", {"rating": 4}),
        ):
            found = app("POST", route, {**body, "reviewer": name})
            assert (found.status_code, found.json["reviewer"]) == (
                201 if place == 0 and route == "/feedback" else 200,
                "app:Zo\u00eb\nNorth",
            )
    assert app("GET", "/interactions/a-1").json["interaction"]["end_user_reviews"] == 1


def test_feedback_with_its_texts(app: Caller, engine: Engine, tmp_path: Path) -> None:
    """The answer is added once, with what is known of it, whoever speaks of it, and an import knows it again."""
    sent = {**TEXTS, "source": "llama3.2", "candidate_group": "g", "created_at": EARLY, "rated_at": EARLY}
    first = app("POST", "/feedback", {**sent, "rating": 4, "reviewer": "u7"})
    second = app("POST", "/feedback", {**sent, "thumb": "down", "reviewer": "u8"})
    assert (first.status_code, second.status_code, count(engine)) == (201, 201, 1)
    assert first.json["reviewed_at"] == EARLY
    id = first.json["interaction_id"]
    found = app("GET", f"/interactions/{id}").json["interaction"]
    assert (found["prompt"], found["source"], found["candidate_group"], found["created_at"]) == (
        TEXTS["prompt"],
        "llama3.2",
        "g",
        EARLY,
    )
    path = tmp_path / "a.csv"
    path.write_text(f"prompt,answer,source,group,rating\n{TEXTS['prompt']},{TEXTS['response']},llama3.2,g,5\n")
    import_ratings(engine, path)
    assert (count(engine), count(engine, Review)) == (1, 3)


def test_an_id_and_texts(app: Caller, engine: Engine) -> None:
    """Unknown, the answer gets the id; known, its texts must be the same."""
    sent = {**TEXTS, "interaction_id": "trace-1", "rating": 3, "reviewer": "u7"}
    assert app("POST", "/feedback", sent).status_code == 201
    assert app("POST", "/feedback", {**sent, "reviewer": "u8"}).json["interaction_id"] == "trace-1"
    other = app("POST", "/feedback", {**sent, "response": "Jump."})
    assert (other.status_code, count(engine)) == (409, 1)
    assert "has another prompt or response" in other.json["detail"]
    odd = app("POST", "/feedback", {**sent, "interaction_id": "/x y"})
    assert (odd.status_code, count(engine)) == (422, 1)
    assert "is not a valid id for a new answer" in odd.json["detail"]


REFUSED: tuple[tuple[dict[str, Any], int, str], ...] = (
    ({"interaction_id": "gone"}, 404, "There is no interaction with the id 'gone'"),
    ({"rating": 0}, 422, "rating is 0, not a whole number from 1 to 5"),
    ({"rating": 6}, 422, "rating is 6, not a whole number from 1 to 5"),
    ({"rating": 2.5}, 422, "rating is 2.5"),
    ({"thumb": "sideways"}, 422, "thumb is 'sideways'"),
    ({"rating": None}, 422, "rating is missing: send it, from 1 to 5, or thumb"),
    ({"thumb": "up"}, 422, "send one of them"),
    ({"interaction_id": None}, 422, "interaction_id is missing: send it, or prompt and response"),
    ({"prompt": "Why?"}, 422, "prompt and response belong together"),
    ({"prompt": " ", "response": "x"}, 422, "prompt is only white space"),
    ({"reviewer": ""}, 422, "reviewer is empty"),
    ({"comment": "a\x00b"}, 422, "cannot be stored"),
    ({"rated_at": "yesterday"}, 422, "rated_at"),
    ({"rated_at": "2026-01-31T09:30:00"}, 422, "rated_at"),
    ({"stars": 4}, 422, "stars is not a field of this request"),
    ({"role": "expert"}, 403, "needs the scope reviews:expert"),
)


def test_what_is_refused(app: Caller, engine: Engine) -> None:
    """As problem+json, in words; nothing is stored."""
    app.record()
    for changes, status, words in REFUSED:
        sent = {"interaction_id": "a-1", "rating": 4, "reviewer": "u7", **changes}
        response = app("POST", "/feedback", {name: value for name, value in sent.items() if value is not None})
        assert (response.status_code, response.mimetype) == (status, "application/problem+json"), changes
        assert words in response.json["detail"], changes
        assert (count(engine), count(engine, Review)) == (1, 0), changes


def test_what_a_token_is_for(engine: Engine, tmp_path: Path) -> None:
    """Reviews of known answers need one scope, new answers two, the word of experts a third."""
    everything = caller(engine, tmp_path)
    everything.record()
    reviewing = Caller(everything.web, another_token(engine, "app", scopes=(tokens.REVIEW,)))
    about = {"rating": 4, "reviewer": "u7"}
    assert reviewing("POST", "/feedback", {"interaction_id": "a-1", **about}).status_code == 201
    refused = reviewing("POST", "/feedback", {**TEXTS, "response": "New.", **about})
    assert (refused.status_code, "needs the scope interactions:write" in refused.json["detail"]) == (403, True)
    for scopes, status in (((tokens.READ,), 403), ((tokens.REVIEW, tokens.REVIEW_AS_EXPERT), 201)):
        other = Caller(everything.web, another_token(engine, "app", scopes=scopes))
        sent = {"interaction_id": "a-1", "rating": 4, "reviewer": "dr.ann", "role": "expert"}
        assert other("POST", "/feedback", sent).status_code == status
    again = reviewing("POST", "/feedback", {"interaction_id": "a-1", "rating": 1, "reviewer": "dr.ann"})
    assert (again.status_code, "an expert's" in again.json["detail"]) == (403, True)
    assert everything.web.post("/v1/feedback", json=about).status_code == 401
    rater = Caller(everything.web, token_for(engine, "ann", role=UserRole.RATER, scopes=(tokens.REVIEW,)))
    own = rater("POST", "/feedback", {"interaction_id": "a-1", "rating": 4})
    assert (own.json["reviewer"], own.json["role"]) == ("ann", "expert")


def test_a_key_makes_it_once(app: Caller, engine: Engine) -> None:
    """The same key and content is answered again; with other content it is refused; errors free it."""
    sent = {**TEXTS, "rating": 4, "reviewer": "u7"}
    first, again = (app("POST", "/feedback", sent, key="k") for _ in range(2))
    assert (first.status_code, again.status_code, first.data) == (201, 201, again.data)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert app("POST", "/feedback", {**sent, "rating": 1}, key="k").status_code == 422
    assert app("POST", "/feedback", {"interaction_id": "later", "rating": 1}, key="k2").status_code == 404
    app.record(id="later")
    assert app("POST", "/feedback", {"interaction_id": "later", "rating": 1}, key="k2").status_code == 201


def test_events_come_late_and_twice(app: Caller, engine: Engine) -> None:
    """What is older than what is known changes nothing, nor does the same again; the log has only what changed."""
    app.record()

    def send(rating: int, at: str | None) -> tuple[int, int]:
        sent = {"interaction_id": "a-1", "rating": rating, "reviewer": "u7", **({"rated_at": at} if at else {})}
        response = app("POST", "/feedback", sent)
        return response.status_code, response.json["rating"]

    assert [send(4, LATE), send(1, EARLY), send(4, LATE), send(4, None)] == [(201, 4), (200, 4), (200, 4), (200, 4)]
    assert send(2, None) == (200, 2)
    # A clock that is ahead does not keep out what comes later.
    assert send(3, "2099-01-01T00:00:00Z") == (200, 3)
    assert send(5, None) == (200, 5)
    with engine.connect() as connection:
        actions = select(AuditEntry.action).where(AuditEntry.action.startswith("review.")).order_by(AuditEntry.id)
        assert list(connection.execute(actions).scalars()) == ["review.added", *["review.changed"] * 3]


def test_two_bring_the_same_new_answer_at_once(database_url: str, engine: Engine) -> None:
    """The answer is there once; whoever comes second speaks of the first one's."""
    rating = Rating("q", "a", source="s")
    barrier, numbers = threading.Barrier(2), []

    def add() -> None:
        other = make_engine(database_url)
        with transaction(other) as connection:
            if other.dialect.name == "postgresql":
                # Both have looked, and both found nothing; SQLite lets one in at a time.
                assert find_answer(connection, rating) is None
                barrier.wait(PATIENCE_S)
            numbers.append(add_answer(connection, rating, actor="test"))
        other.dispose()

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(numbers) == 2
    assert (len(set(numbers)), count(engine)) == (1, 1)


def test_the_service_alone(engine: Engine) -> None:
    """What becomes of a review, and an id that is taken."""
    [number] = record(engine, [Rating("q", "a", external_id="x")])
    with transaction(engine) as connection:
        said = Rating("q", "a", rating=4, external_id="x")
        assert find_answer(connection, said) == number
        with pytest.raises(OtherTextsError, match="'x' has another prompt or response"):
            find_answer(connection, Rating("q", "b", external_id="x"))
        fates = [take_review(connection, number, replace(said.review, reviewer="u")) for _ in range(2)]
        assert fates == [Fate.ADDED, Fate.KEPT]
        with pytest.raises(ValueError, match="cannot be recorded"):
            add_answer(connection, Rating("q", " "), actor="test")


@pytest.mark.parametrize("name", ["rated_at", "created_at"])
@pytest.mark.parametrize("year", ["0001", "9999"])
def test_a_time_that_stands_for_none(app: Caller, name: str, year: str) -> None:
    """The first and the last year of programs are refused with the value."""
    refused = app("POST", "/feedback", {**TEXTS, "rating": 4, name: f"{year}-01-01T00:00:00Z"})
    assert refused.status_code == 422
    assert f"{name} is {year}-01-01T00:00:00+00:00, which is not a time of ours" in refused.json["detail"]


def test_a_byte_order_mark_before_json(app: Caller) -> None:
    """It is no part of the body, as of a file."""
    body = codecs.BOM_UTF8 + json.dumps({**TEXTS, "rating": 4}).encode()
    headers = {"Authorization": f"Bearer {app.token}", "Content-Type": "application/json"}
    assert app.web.post("/v1/feedback", data=body, headers=headers).status_code == 201


@pytest.mark.parametrize(("first", "second", "stored"), [(EARLY, LATE, 2), (LATE, EARLY, 1), (LATE, None, 2)])
def test_an_older_preference_changes_nothing(engine: Engine, first: str, second: str | None, stored: int) -> None:
    """As with reviews; without a time it is said now."""
    keys = record(engine, [Rating("q", "a"), Rating("q", "b")])
    with transaction(engine) as connection:
        for (better, worse), at in ((keys, first), (keys[::-1], second)):
            moment = at and datetime.fromisoformat(at)
            take_preference(
                connection, better, worse, reviewer="u", role=ReviewerRole.EXPERT, preferred_at=moment or None
            )
        preferred = connection.execute(select(Preference.preferred)).scalar_one()
    assert preferred == ("first", "second")[stored - 1]


def test_the_same_said_later(engine: Engine) -> None:
    """Only its time is stored, so that what was said in between comes too late; the comment stays."""
    keys = record(engine, [Rating("q", "a"), Rating("q", "b")])
    early, late = datetime.fromisoformat(EARLY), datetime.fromisoformat(LATE)
    between = early + (late - early) / 2
    expert, end_user = ReviewerRole.EXPERT, ReviewerRole.END_USER
    with transaction(engine) as connection:
        put_preference(connection, *keys, reviewer="u", comment="Shorter.", preferred_at=early)
        for (better, worse), role, at, fate in (
            (keys, expert, late, Fate.KEPT),
            (keys[::-1], expert, between, Fate.KEPT),
            (keys, end_user, late, Fate.REPLACED),
        ):
            assert take_preference(connection, better, worse, reviewer="u", role=role, preferred_at=at) is fate
            found = select(Preference.preferred, Preference.comment, Preference.preferred_at)
            assert connection.execute(found).all() == [("first", "Shorter.", late)]
        for rating, at, fate in ((4, early, Fate.ADDED), (4, late, Fate.KEPT), (1, between, Fate.KEPT)):
            assert take_review(connection, keys[0], domain.Review(rating=rating, reviewer="u", reviewed_at=at)) is fate
        assert connection.execute(select(Review.rating, Review.reviewed_at)).all() == [(4, late)]
        actions = connection.execute(select(AuditEntry.action).order_by(AuditEntry.id)).scalars().all()
    assert actions == ["preference.added", "preference.changed", "review.added"]


# --- Of recorded rankings --------------------------------------------------------------------------------------------

RANKING = RecordedRanking(
    id="r1",
    query="What helps against hiccups?",
    candidates=tuple(
        RankedCandidate(Candidate(text, source="app"), rank=rank, score=0.5, position=position)
        for rank, (position, text) in enumerate([(2, "Hold your breath."), (0, "Sugar."), (5, "Jump.")], 1)
    ),
    door="/v1/rerank",
    policy="live",
    ranked_at=datetime(2026, 11, 23, tzinfo=UTC),
    caller="app",
    returned=2,
)


def store_ranking(engine: Engine, ranking: RecordedRanking = RANKING) -> None:
    with transaction(engine) as connection:
        put_interactions(connection, ranking.ratings)
        put(connection, ranking.served)


def test_a_ranked_document_is_rated_by_its_index(app: Caller, engine: Engine) -> None:
    """It is the review of that document, once however often it is sent; where one went back, no index is needed."""
    store_ranking(engine)
    sent = {"ranking": "r1", "index": 0, "rating": 4, "reviewer": "u7"}
    first = app("POST", "/feedback", sent, key="k")
    assert (first.status_code, first.json["interaction_id"], first.json["rating"]) == (201, "r1.0", 4)
    assert app("POST", "/feedback", sent, key="k").headers["Idempotency-Replayed"] == "true"
    assert app("POST", "/feedback", {**sent, "rating": None, "thumb": "down"}).status_code == 200
    assert (count(engine), count(engine, Review)) == (3, 1)
    store_ranking(engine, replace(RANKING, id="r2", returned=1))
    assert app("POST", "/feedback", {"ranking": "r2", "thumb": "up"}).json["interaction_id"] == "r2.2"


def test_what_is_forgotten_is_not_told_again(app: Caller, engine: Engine) -> None:
    """The answer that was stored for an Idempotency-Key has somebody's words: it goes with them; others stay."""
    store_ranking(engine)
    store_ranking(engine, replace(RANKING, id="r2", query="Why?"))
    sent = {"ranking": "r1", "index": 0, "rating": 2, "comment": "My secret."}
    assert app("POST", "/feedback", sent, key="k").status_code == 201
    assert app("POST", "/feedback", {**sent, "ranking": "r2"}, key="l").status_code == 201
    with engine.connect() as connection:
        keys = rankings.of_query(connection, RANKING.query)
    rankings.forget(engine, keys, actor="anna")
    assert app("POST", "/feedback", sent, key="k").status_code == 404
    assert app("POST", "/feedback", {**sent, "ranking": "r2"}, key="l").headers["Idempotency-Replayed"] == "true"


def test_what_was_ranked_for_another_is_rated_nowhere(app: Caller, engine: Engine) -> None:
    """Neither as a review nor as a preference."""
    store_ranking(engine, replace(RANKING, caller="other"))
    assert app("POST", "/interactions/r1.0/reviews", {"rating": 4, "reviewer": "u7"}).status_code == 403
    better = {"chosen_id": "r1.0", "rejected_id": "r1.2", "reviewer": "u7"}
    assert app("POST", "/preferences", better).status_code == 403


def test_what_was_made_of_a_ranking_is_an_answer_of_its_own(app: Caller, engine: Engine) -> None:
    """It is stored once, apart from the passages; these are noted, by default those that went back, and not rated."""
    store_ranking(engine)
    sent = {"ranking": "r1", "answer": "Hold your breath, then take sugar.", "source": "llama3.2", "thumb": "up"}
    first = app("POST", "/feedback", {**sent, "reviewer": "u7"})
    second = app("POST", "/feedback", {**sent, "used": [5, 2, 5], "reviewer": "u8"})
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json["interaction_id"] == second.json["interaction_id"]
    answer = app("GET", f"/interactions/{first.json['interaction_id']}").json["interaction"]
    names = ("prompt", "response", "source", "drafted_by", "candidate_group", "end_user_rating")
    assert {name: answer[name] for name in names} == {
        "prompt": RANKING.query,
        "response": sent["answer"],
        "source": "llama3.2",
        "drafted_by": "llama3.2",
        "candidate_group": "answers:r1",
        "end_user_rating": 5,
    }
    with engine.connect() as connection:
        used = select(Interaction.external_id).join(UsedPassage, UsedPassage.passage_id == Interaction.id)
        assert set(connection.execute(used).scalars()) == {"r1.2", "r1.0", "r1.5"}
        rated = select(func.count()).where(Interaction.end_user_rating.is_not(None))
        assert connection.execute(rated).scalar_one() == 1


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"ranking": "r9"}, 404, "There is no recorded ranking with the id 'r9'"),
        ({"ranking": "old"}, 410, "The documents of the ranking 'old' are deleted"),
        ({"ranking": "theirs"}, 403, "The ranking 'theirs' was made for another application than 'app'"),
        ({"ranking": None, "index": None, "interaction_id": "theirs.0"}, 403, "made for another application"),
        (
            {"index": 1},
            422,
            "index is 1, which is not a recorded document of this ranking. Send one that is: 0, 2 and 5.",
        ),
        ({"index": None}, 422, "index is missing: 2 documents of this ranking went back"),
        ({"index": None, "answer": "Wait.", "used": [7]}, 422, "used is 7, which is not a recorded document"),
        ({"index": None, "answer": " "}, 422, "answer"),
        ({"rating": 10}, 422, "rating is 10, not a whole number from 1 to 5"),
        ({"answer": "Wait."}, 422, "send one of them"),
        ({"used": [0]}, 422, "used says what an answer was made of: send the answer, too"),
        ({"interaction_id": "r1.0"}, 422, "ranking names the answer already: send it without interaction_id"),
        ({"ranking": None}, 422, "ranking is missing, to which index would belong"),
        ({"index": -1}, 422, "index is -1"),
        ({"index": 10**30}, 422, "index is 1000"),
    ],
)
def test_feedback_on_a_ranking_that_is_refused(
    app: Caller, engine: Engine, changes: dict[str, Any], status: int, words: str
) -> None:
    """The error says what is wrong with which value, and nothing is stored."""
    for ranking in (RANKING, replace(RANKING, id="theirs", caller="other"), replace(RANKING, id="old")):
        store_ranking(engine, ranking)
    with transaction(engine) as connection:
        connection.execute(delete(Interaction).where(Interaction.candidate_group == "ranking:old"))
    before = count(engine)
    response = app("POST", "/feedback", {"ranking": "r1", "index": 0, "rating": 4, "reviewer": "u7", **changes})
    assert response.status_code == status
    assert words in response.json["detail"]
    assert (count(engine), count(engine, Review)) == (before, 0)


def test_a_new_answer_needs_the_scope_for_it(engine: Engine, tmp_path: Path) -> None:
    """A token for reviews alone rates documents, and adds no final answer."""
    app = caller(engine, tmp_path, scopes=(tokens.REVIEW,))
    store_ranking(engine)
    assert app("POST", "/feedback", {"ranking": "r1", "index": 0, "rating": 4}).status_code == 201
    refused = app("POST", "/feedback", {"ranking": "r1", "answer": "Wait.", "rating": 4})
    assert (refused.status_code, count(engine, UsedPassage)) == (403, 0)
    assert "interactions:write" in refused.json["detail"]
