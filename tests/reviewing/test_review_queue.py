from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from patience import PATIENCE_S
from sqlalchemy import Connection, Engine, delete, insert, select, update

from rlhf_loop.config import Settings
from rlhf_loop.domain import Rating, Review, ReviewerRole
from rlhf_loop.reviewing import (
    ReviewItem,
    following_item,
    item,
    next_item,
    previous_item,
    progress,
    queue,
    renew,
    skip,
    submit,
)
from rlhf_loop.reviewing.candidates import (
    Facts,
    QueueCandidate,
    Rater,
    Turn,
    Why,
    in_overlap,
    part,
    turn,
    value,
    wanted,
)
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.store.tables import AnswerScore, Assignment, Interaction

NOW = datetime(2025, 5, 1, 12, tzinfo=UTC)
ALONE = Settings(review_overlap=0.0)
SHARED = Settings(review_overlap=1.0, review_overlap_raters=3)


def answers(engine: Engine, count: int, **values: object) -> list[int]:
    return record(engine, [Rating(f"question {n}", f"answer {n}", **values) for n in range(count)])  # type: ignore[arg-type]


def score(engine: Engine, scores: dict[int, float], margins: dict[int, float] | None = None) -> None:
    rows = [
        {"interaction_key": id, "model_version": "v1", "score": p, "margin": (margins or {}).get(id)}
        for id, p in scores.items()
    ]
    with transaction(engine) as connection:
        connection.execute(insert(AnswerScore), rows)


def best_turns(monkeypatch: pytest.MonkeyPatch, kind: Turn = Turn.BEST) -> None:
    """Make every turn one of that kind, where the order is what a test is about."""
    monkeypatch.setattr("rlhf_loop.reviewing.candidates.turn", lambda *_: kind)


def take(engine: Engine, reviewer: str = "ann", settings: Settings = ALONE, now: datetime = NOW) -> ReviewItem | None:
    return next_item(engine, reviewer=reviewer, settings=settings, now=now)


def taken(engine: Engine, reviewer: str = "ann", settings: Settings = ALONE, now: datetime = NOW) -> ReviewItem:
    found = take(engine, reviewer, settings, now)
    assert found is not None
    return found


def handle_all(
    engine: Engine, reviewer: str = "ann", settings: Settings = ALONE, *, rating: int = 4
) -> list[ReviewItem]:
    """Review everything that the rater is given, in that order."""
    found = []
    while given := take(engine, reviewer, settings, NOW + timedelta(seconds=len(found))):
        found.append(given)
        submit(engine, given.interaction_key, reviewer=reviewer, review=Review(rating=rating), now=NOW)
    return found


# --- The rules, without a database -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "expected", "why"),
    [
        ({"score": 0.5}, 1.0, Why.UNCERTAIN),
        ({"score": 0.7}, 0.6, Why.UNCERTAIN),
        ({"score": 0.95}, 0.1, Why.RECENT),
        ({}, 0.5, Why.RECENT),
        ({"score": 0.95, "margin": 0.0}, 0.9, Why.CLOSE),
        ({"score": 0.95, "margin": 0.1}, 0.45, Why.CLOSE),
        ({"score": 0.55, "margin": 0.1}, 0.9, Why.UNCERTAIN),
        ({"score": 0.95, "margin": 0.6}, 0.1, Why.RECENT),
        ({"experts": 2, "spread": 2}, 1.0, Why.DISAGREEMENT),
        ({"experts": 1}, 0.3, Why.OVERLAP),
        ({"experts": 5, "spread": 4}, 0.3, Why.OVERLAP),
    ],
)
def test_the_value_of_an_answer(facts: dict[str, float], expected: float, why: Why) -> None:
    """The largest of what speaks for an answer is its value, and says why it comes."""
    found, reason = value(Facts(interaction_key=1, **facts))  # type: ignore[arg-type]
    assert (found, reason) == (pytest.approx(expected), why)


@pytest.mark.parametrize(
    ("experts", "spread", "settings", "expected"),
    [
        (0, 0, ALONE, 1),
        (1, 0, ALONE, 1),
        (0, 0, SHARED, 3),
        (2, 1, ALONE, 1),
        (2, 2, ALONE, 3),
        (2, 2, SHARED, 3),
        (4, 3, ALONE, 5),
        (5, 4, ALONE, 1),
        (0, 0, Settings(review_overlap=1.0, review_overlap_raters=0), 1),
    ],
)
def test_how_many_experts_an_answer_wants(experts: int, spread: int, settings: Settings, expected: int) -> None:
    """One, or as many as the overlap says; one more while they disagree, up to five."""
    assert wanted("q", experts=experts, spread=spread, settings=settings) == expected


def test_the_overlap_is_the_share_that_was_asked_for() -> None:
    """A fifth of all questions is in an overlap of a fifth, and those are in every larger one."""
    names = [f"question {n}" for n in range(5000)]
    fifth = {name for name in names if in_overlap(name, 0.2)}
    assert 900 < len(fifth) < 1100
    assert fifth <= {name for name in names if in_overlap(name, 0.3)}
    assert not any(in_overlap(name, 0.0) for name in names)
    assert all(in_overlap(name, 1.0) for name in names)


def test_the_kinds_of_turns_have_their_shares() -> None:
    """A tenth of the turns is random; second opinions get the share of ratings that they are."""
    kinds = [turn("ann", n, Settings(review_overlap=0.2, review_overlap_raters=3)) for n in range(5000)]
    assert 400 < kinds.count(Turn.RANDOM) < 600
    assert kinds.count(Turn.SECOND_OPINION) / 5000 == pytest.approx(0.9 * 0.4 / 1.4, abs=0.03)
    assert Turn.SECOND_OPINION not in {turn("ann", n, ALONE) for n in range(500)}
    assert turn("ann", 7, ALONE) == turn("ann", 7, ALONE)
    assert 0 <= part("\ud800") < 1


# --- The order -------------------------------------------------------------------------------------------------------


def test_what_the_model_is_unsure_of_comes_first(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near 0.5, then close ones, then those never scored, then those that the model is sure of."""
    best_turns(monkeypatch)
    sure, near, close, unknown, nearest = answers(engine, 5)
    score(engine, {sure: 0.99, near: 0.35, close: 0.9, nearest: 0.52}, {close: 0.02})
    given = handle_all(engine)
    assert [each.interaction_key for each in given] == [nearest, close, near, unknown, sure]
    assert [each.why for each in given] == ["uncertain", "close", "uncertain", "recent", "recent"]


def test_without_a_model_the_newest_comes_first(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers without any score come in reverse order."""
    best_turns(monkeypatch)
    ids = answers(engine, 3)
    assert [each.interaction_key for each in handle_all(engine)] == ids[::-1]


def test_the_score_at_serving_counts_until_there_is_another(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that the live model has not scored counts by the score with which it was served."""
    best_turns(monkeypatch)
    (unsure,) = answers(engine, 1, score=0.45)
    answers(engine, 4, score=0.97)
    assert taken(engine).interaction_key == unsure


def test_a_disagreement_wants_one_more_expert_up_to_five(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts two grades apart: the answer comes to others before all else, until they are five."""
    best_turns(monkeypatch)
    disputed, agreed = answers(engine, 2)
    answers(engine, 3, score=0.49)
    for reviewer, rating in (("bob", 5), ("cem", 1)):
        rate(engine, disputed, reviewer=reviewer, rating=rating)
    for reviewer, rating in (("bob", 5), ("cem", 4)):
        rate(engine, agreed, reviewer=reviewer, rating=rating)
    for reviewer in ("ann", "dan", "eve"):
        given = taken(engine, reviewer)
        assert (given.interaction_key, given.why) == (disputed, "disagreement")
        submit(engine, disputed, reviewer=reviewer, review=Review(rating=2), now=NOW)
    assert taken(engine, "fay").interaction_key != disputed


def test_end_users_are_no_experts(engine: Engine) -> None:
    """What end users said of an answer neither settles it nor makes a disagreement."""
    (id,) = answers(engine, 1)
    for visitor, rating in (("visitor:1", 5), ("visitor:2", 1)):
        rate(engine, id, reviewer=visitor, rating=rating, role=ReviewerRole.END_USER)
    assert taken(engine).why == "recent"


def test_the_overlap_goes_to_several_raters(engine: Engine) -> None:
    """An answer of the overlap is given to as many raters as set, and to no more."""
    answers(engine, 3)
    given = {name: {each.interaction_key for each in handle_all(engine, name, SHARED)} for name in ("a", "b", "c", "d")}
    assert [len(given[name]) for name in "abcd"] == [3, 3, 3, 0]


def test_second_opinions_come_in_their_turns(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a turn for second opinions an answer that waits for one goes before all others; else it comes last."""
    begun, *_ = answers(engine, 1)
    rate(engine, begun, reviewer="bob", rating=4)
    score(engine, {answers(engine, 5)[-1]: 0.5})
    best_turns(monkeypatch, Turn.SECOND_OPINION)
    assert (taken(engine, "ann", SHARED).interaction_key, taken(engine, "ann", SHARED).why) == (begun, "overlap")
    best_turns(monkeypatch)
    assert handle_all(engine, "cem", SHARED)[-1].interaction_key == begun


def test_random_turns_reach_what_the_order_would_not(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a random turn the answers come from the whole queue, not from its head."""
    ids = answers(engine, 200)
    score(engine, {id: 0.5 + 0.002 * place for place, id in enumerate(ids)})
    best_turns(monkeypatch, Turn.RANDOM)
    first = [taken(engine, f"rater-{n}") for n in range(20)]
    assert {each.why for each in first} == {"random"}
    assert (
        min(each.interaction_key for each in first) < ids[60] < ids[140] < max(each.interaction_key for each in first)
    )


# --- Once, and by nobody else ----------------------------------------------------------------------------------------


def test_everything_comes_once(engine: Engine) -> None:
    """A rater gets each answer once, reviewed or skipped, and then nothing is left."""
    ids = answers(engine, 12)
    seen = []
    while given := take(engine, now=NOW + timedelta(seconds=len(seen))):
        seen.append(given.interaction_key)
        if len(seen) % 3:
            skip(engine, given.interaction_key, reviewer="ann", now=NOW)
        else:
            submit(engine, given.interaction_key, reviewer="ann", review=Review(rating=3), now=NOW)
    assert sorted(seen) == ids
    assert take(engine, now=NOW + timedelta(days=30)) is None


def test_what_was_rated_elsewhere_does_not_come(engine: Engine) -> None:
    """A review by API or import under the same name counts, in the overlap too."""
    first, second = answers(engine, 2)
    rate(engine, first, reviewer="ann", rating=2)
    assert [each.interaction_key for each in handle_all(engine, "ann", SHARED)] == [second]


def test_a_page_that_is_loaded_again_shows_the_same(engine: Engine) -> None:
    """An open answer stays the rater's, and its lease is longer afterwards."""
    answers(engine, 5)
    first = taken(engine)
    again = taken(engine, now=NOW + timedelta(minutes=10))
    assert again.interaction_key == first.interaction_key
    seen = {taken(engine, f"rater-{n}", now=NOW + timedelta(minutes=20)).interaction_key for n in range(4)}
    assert first.interaction_key not in seen


def test_a_lease_that_ran_out_frees_the_answer(engine: Engine) -> None:
    """Nobody else gets an answer while it is leased; afterwards somebody does, and its first rater does not."""
    (id,) = answers(engine, 1)
    assert taken(engine).interaction_key == id
    assert take(engine, "bob", now=NOW + timedelta(minutes=14)) is None
    later = NOW + timedelta(minutes=16)
    assert taken(engine, "bob", now=later).interaction_key == id
    assert take(engine, "ann", now=later) is None


def test_who_comes_back_goes_on_where_they_were(engine: Engine) -> None:
    """An answer whose lease ran out comes again first, if nobody took it."""
    answers(engine, 5)
    first = taken(engine)
    assert taken(engine, now=NOW + timedelta(hours=3)).interaction_key == first.interaction_key


def test_renewing_keeps_the_answer(engine: Engine) -> None:
    """A lease is renewed while its rater types, but not that of an answer which is done, or another's."""
    (id,) = answers(engine, 1)
    taken(engine)
    renew(engine, id, reviewer="ann", settings=ALONE, now=NOW + timedelta(minutes=10))
    assert take(engine, "bob", now=NOW + timedelta(minutes=20)) is None
    with pytest.raises(LookupError, match="not given to 'bob'"):
        renew(engine, id, reviewer="bob", settings=ALONE)


def test_an_answer_fetched_ahead_comes_second(engine: Engine) -> None:
    """Whoever reads one answer and has another ahead goes on with the first; both go back when their leases ran out."""
    answers(engine, 3)
    first = taken(engine)

    def fetch_ahead(after: int) -> ReviewItem | None:
        now = NOW + timedelta(minutes=after)
        return next_item(engine, reviewer="ann", settings=ALONE, ahead_of=first.interaction_key, now=now)

    ahead = fetch_ahead(10)
    assert ahead is not None
    assert (ahead.interaction_key == first.interaction_key, fetch_ahead(12)) == (False, ahead)
    assert taken(engine, now=NOW + timedelta(minutes=13)).interaction_key == first.interaction_key
    bobs = taken(engine, "bob", now=NOW + timedelta(minutes=20))
    assert bobs.interaction_key not in (first.interaction_key, ahead.interaction_key)
    submit(engine, bobs.interaction_key, reviewer="bob", review=Review(rating=4), now=NOW + timedelta(minutes=20))
    assert take(engine, "cid", now=NOW + timedelta(minutes=20)) is None
    submit(engine, first.interaction_key, reviewer="ann", review=Review(rating=4), now=NOW + timedelta(minutes=21))
    assert taken(engine, now=NOW + timedelta(minutes=21)) == ahead
    assert taken(engine, "cid", now=NOW + timedelta(minutes=40)).interaction_key == ahead.interaction_key
    with pytest.raises(LookupError, match="was not given"):
        next_item(engine, reviewer="ann", settings=ALONE, ahead_of=10**12)


def test_two_requests_of_a_rater_at_one_moment(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are given the last answer, not one of them nothing."""
    [last], look, other = answers(engine, 1), queue.candidates, list[ReviewItem | None]()

    def meanwhile(connection: Connection, rater: Rater, settings: Settings) -> list[QueueCandidate]:
        monkeypatch.setattr(queue, "candidates", look)
        found = look(connection, rater, settings)
        other.append(take(engine))
        return found

    monkeypatch.setattr(queue, "candidates", meanwhile)
    assert [each and each.interaction_key for each in (take(engine), *other)] == [last, last]


def test_questions_of_other_fields_come_last(engine: Engine) -> None:
    """Those like one that the rater skipped as not their field come after all others, and to others as ever."""
    asked = ["heart 1", "heart 2", "skin 1", "heart 3", "skin 2"]
    ids = record(engine, [Rating(question, "an answer") for question in asked])

    def out_of_field(questions: Sequence[str], others: Sequence[str], own: Sequence[str]) -> list[bool]:
        return [any(each[:4] == other[:4] for other in others) for each in questions]

    def take_of_field(reviewer: str) -> int:
        found = next_item(engine, reviewer=reviewer, settings=ALONE, out_of_field=out_of_field, now=NOW)
        assert found is not None
        return found.interaction_key

    first = ids[0]
    with transaction(engine) as connection:
        values = {"reviewer": "ann", "interaction_key": first, "assigned_at": NOW, "leased_until": NOW}
        connection.execute(insert(Assignment), values)
    skip(engine, first, reviewer="ann", not_my_field=True, now=NOW)
    given = []
    for _ in range(4):
        given.append(take_of_field("ann"))
        skip(engine, given[-1], reviewer="ann", now=NOW)
    assert ({*given[:2]}, {*given[2:]}) == ({ids[2], ids[4]}, {ids[1], ids[3]})
    assert {take_of_field(f"rater-{number}") for number in range(5)} == set(ids)


def test_raters_who_ask_at_once_get_different_answers(engine: Engine) -> None:
    """Of many raters at the same moment no two get an answer that wants one; the last ones get nothing."""
    ids = answers(engine, 8)
    score(engine, {id: 0.5 for id in ids[:4]})
    with ThreadPoolExecutor(6) as pool:
        given = list(pool.map(lambda n: take(engine, f"rater-{n}"), range(10)))
    assert sorted(each.interaction_key for each in given if each) == ids


def test_the_overlap_is_no_larger_when_many_ask_at_once(engine: Engine) -> None:
    """Of many raters at the same moment exactly as many as wanted get an answer of the overlap."""
    (id,) = answers(engine, 1)
    with ThreadPoolExecutor(6) as pool:
        given = list(pool.map(lambda n: take(engine, f"rater-{n}", SHARED), range(6)))
    assert [each.interaction_key for each in given if each] == [id] * 3


def test_an_answer_that_somebody_else_reviews_meanwhile_is_waited_for(engine: Engine) -> None:
    """Who holds the row of the only answer delays the next rater, who then gets it or learns that it is done."""
    (id,) = answers(engine, 1)
    with ThreadPoolExecutor(1) as pool:
        with transaction(engine) as connection:
            connection.execute(update(Interaction).where(Interaction.id == id).values(source="x"))
            waiting = pool.submit(take, engine)
            assert not waiting.done()
        found = waiting.result(timeout=PATIENCE_S)
    assert found is not None
    assert found.interaction_key == id


# --- Answers that were served again ----------------------------------------------------------------------------------


def test_a_repeated_answer_is_rated_once(engine: Engine) -> None:
    """Of an answer that was served three times for one question the first serving comes, and then it is done."""
    again = record(engine, [Rating("How?", "So.", candidate_group=group) for group in ("a", "b", "c")])
    (other,) = record(engine, [Rating("How?", "Otherwise.")])
    assert sorted(each.interaction_key for each in handle_all(engine)) == [again[0], other]
    assert take(engine, "bob") is None


def test_what_was_said_of_another_serving_counts(engine: Engine) -> None:
    """A review of a later serving, by API, settles the first one too, and its rater does not get that one."""
    first, second = record(engine, [Rating("How?", "So.")] * 2)
    rate(engine, second, reviewer="bob", rating=4)
    assert take(engine) is None
    assert take(engine, "bob", SHARED) is None
    assert taken(engine, "ann", SHARED).interaction_key == first


def test_answers_rated_elsewhere_do_not_hide_what_waits_behind_them(engine: Engine) -> None:
    """However many first servings were settled by reviews of later ones, what still waits is found."""
    (old,) = record(engine, [Rating("old", "old")])
    score(engine, {id: 0.5 for id in answers(engine, 300)})
    for id in answers(engine, 300):
        rate(engine, id, reviewer="bob", rating=4)
    assert [each.interaction_key for each in handle_all(engine)] == [old]


def test_repetitions_do_not_hide_what_waits_behind_them(engine: Engine) -> None:
    """However often an answer is repeated, older ones are found."""
    (old,) = record(engine, [Rating("old", "old")])
    record(engine, [Rating("How?", "So.")] * 1500)
    assert len(handle_all(engine)) == 2
    with reading(engine) as connection:
        assert old in connection.execute(select(Assignment.interaction_key)).scalars()


# --- Back and forth --------------------------------------------------------------------------------------------------


def test_previous_and_following_walk_along_what_was_given(engine: Engine) -> None:
    """Back to the first answer given, forth to the last, reviewed or not."""
    answers(engine, 3)
    given = [each.interaction_key for each in handle_all(engine)]
    newest = previous_item(engine, None, reviewer="ann")
    assert newest is not None
    assert newest.review is not None
    assert (newest.interaction_key, newest.review.rating, newest.state) == (given[2], 4, "reviewed")
    before = previous_item(engine, given[2], reviewer="ann")
    assert before is not None
    assert before.interaction_key == given[1]
    after = following_item(engine, given[1], reviewer="ann")
    assert after is not None
    assert after.interaction_key == given[2]
    assert previous_item(engine, given[0], reviewer="ann") is None
    assert following_item(engine, given[2], reviewer="ann") is None
    assert previous_item(engine, None, reviewer="bob") is None


def test_only_what_was_given_can_be_looked_at(engine: Engine) -> None:
    """An answer that was given to somebody else, or to nobody, is a LookupError."""
    (id,) = answers(engine, 1)
    taken(engine)
    assert item(engine, id, reviewer="ann").prompt == "question 0"
    for look in (item, previous_item, following_item):
        for unknown in (id, 999):
            with pytest.raises(LookupError, match="not given to 'bob'"):
                look(engine, unknown, reviewer="bob")


def test_a_deleted_answer_is_gone_from_the_queue(engine: Engine) -> None:
    """An answer that is deleted while somebody has it open makes room for the next."""
    first, second = answers(engine, 2)
    given = taken(engine).interaction_key
    with transaction(engine) as connection:
        connection.execute(delete(Interaction).where(Interaction.id == given))
    assert taken(engine).interaction_key == ({first, second} - {given}).pop()


def test_progress_counts_what_is_done_and_what_waits(engine: Engine) -> None:
    """Rated answers of all, this rater's reviews since midnight UTC, and what waits for the rater."""
    ids = answers(engine, 4)
    rate(engine, ids[0], reviewer="bob", rating=4)
    taken(engine)
    given = taken(engine)
    submit(engine, given.interaction_key, reviewer="ann", review=Review(rating=4), now=NOW)
    found = progress(engine, reviewer="ann", settings=ALONE, now=NOW)
    assert (found.rated, found.needed, found.today, found.goal, found.waiting) == (2, 50, 1, 30, 2)
    assert progress(engine, reviewer="ann", settings=ALONE, now=NOW + timedelta(hours=12)).today == 0
    assert progress(engine, reviewer="bob", settings=ALONE, now=NOW).waiting == 2
