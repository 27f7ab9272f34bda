from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, Engine, delete, insert, select

from rlhf_loop.config import Settings
from rlhf_loop.domain import Rating
from rlhf_loop.reviewing import PairItem, comparisons, next_pair, prefer, progress, skip_pair, undo_pair
from rlhf_loop.reviewing.comparisons import FoundPair
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.store.tables import AnswerScore, Interaction, Preference

NOW = datetime(2025, 5, 1, 12, tzinfo=UTC)
ALONE = Settings(review_overlap=0.0)
SHARED = Settings(review_overlap=1.0, review_overlap_raters=2)


def question(engine: Engine, name: str, *scores: float | None, group: str | None = "") -> list[int]:
    """Record the answers to a question, with these scores; they are one candidate group, unless that is None."""
    ratings = [
        Rating(name, f"{name} answer {place}", score=score, candidate_group=name if group == "" else group)
        for place, score in enumerate(scores)
    ]
    return record(engine, ratings)


def take(engine: Engine, reviewer: str = "ann", settings: Settings = ALONE, now: datetime = NOW) -> PairItem | None:
    return next_pair(engine, reviewer=reviewer, settings=settings, now=now)


def ids(pair: PairItem | None) -> tuple[int, int] | None:
    return None if pair is None else (pair.first.interaction_key, pair.second.interaction_key)


def choose(
    engine: Engine, pair: PairItem, preferred: str = "first", *, reviewer: str = "ann", comment: str = ""
) -> None:
    prefer(
        engine,
        reviewer=reviewer,
        first_id=pair.first.interaction_key,
        second_id=pair.second.interaction_key,
        preferred=preferred,  # type: ignore[arg-type]
        comment=comment or None,
        now=NOW,
    )


def all_pairs(engine: Engine, reviewer: str = "ann", settings: Settings = ALONE) -> list[tuple[int, int] | None]:
    found: list[tuple[int, int] | None] = []
    while pair := take(engine, reviewer, settings, NOW + timedelta(seconds=len(found))):
        found.append(ids(pair))
        choose(engine, pair, "tie", reviewer=reviewer)
    return found


def stored(engine: Engine) -> list[tuple[str, int, int, str, str | None]]:
    columns = (Preference.reviewer, Preference.first_id, Preference.second_id, Preference.preferred, Preference.comment)
    with reading(engine) as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(Preference.id))]


def test_two_requests_of_a_rater_at_one_moment(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are given the last pair, not one of them nothing."""
    first, second = question(engine, "q", 0.6, 0.5)
    look, other = comparisons.pair_candidates, list[PairItem | None]()

    def meanwhile(connection: Connection, reviewer: str) -> list[FoundPair]:
        monkeypatch.setattr(comparisons, "pair_candidates", look)
        found = look(connection, reviewer)
        other.append(take(engine))
        return found

    monkeypatch.setattr(comparisons, "pair_candidates", meanwhile)
    assert [ids(each) for each in (take(engine), *other)] == [(first, second), (first, second)]


def test_the_closest_pairs_come_first(engine: Engine) -> None:
    """Every pair comes once, the closest scores first, and those that nobody scored in the middle."""
    a, b, c = question(engine, "q1", 0.9, 0.8, 0.1)
    d, e = question(engine, "q2", 0.45, 0.44)
    f, g = question(engine, "q3", None, None)
    expected = [(d, e), (a, b), (f, g), (b, c), (a, c)]
    assert all_pairs(engine) == expected


def test_the_live_score_comes_before_that_of_serving(engine: Engine) -> None:
    """Where the live model finds two answers close, those come first, however they were served."""
    a, b = question(engine, "q1", 0.9, 0.1)
    question(engine, "q2", 0.5, 0.4)
    with transaction(engine) as connection:
        rows = [{"interaction_key": id, "model_version": "v", "score": 0.7, "margin": 0.0} for id in (a, b)]
        connection.execute(insert(AnswerScore), rows)
    assert ids(take(engine)) == (a, b)


def test_what_the_ratings_have_ordered_comes_last(engine: Engine) -> None:
    """Two answers with different grades of experts are compared when nothing else is left."""
    a, b = question(engine, "q1", 0.5, 0.5)
    c, d = question(engine, "q2", 0.9, 0.1)
    rate(engine, a, reviewer="bob", rating=5)
    rate(engine, b, reviewer="bob", rating=1)
    assert all_pairs(engine) == [(c, d), (a, b)]


def test_the_same_text_is_no_pair(engine: Engine) -> None:
    """Equal answers are not compared, nor answers to different questions; one answer alone is no pair."""
    record(engine, [Rating("q", " same ", candidate_group="g"), Rating("q", "same", candidate_group="g")])
    record(engine, [Rating("one", "x", candidate_group="h"), Rating("two", "y", candidate_group="h")])
    record(engine, [Rating("alone", "z"), Rating("other", "z")])
    assert take(engine) is None


def test_answers_without_a_group_belong_to_their_prompt(engine: Engine) -> None:
    """Without candidate groups the prompt makes the question."""
    a, b = question(engine, "q", 0.5, 0.6, group=None)
    question(engine, "other", 0.5, group=None)
    assert all_pairs(engine) == [(a, b)]


def test_repeated_pairs_come_once(engine: Engine) -> None:
    """The same two texts, offered again for the same question, are not compared twice by one rater."""
    record(engine, [Rating("q", text, candidate_group=group) for group in ("g", "h") for text in ("a", "b")])
    record(engine, [Rating("q", text, candidate_group="i") for text in ("b", "a")])
    assert len(all_pairs(engine)) == 1


def test_a_pair_has_one_rater_unless_it_is_of_the_overlap(engine: Engine) -> None:
    """Others get a pair only if its question is to have several raters."""
    question(engine, "q", 0.5, 0.6)
    assert len(all_pairs(engine, "ann", SHARED)) == 1
    assert take(engine, "bob", ALONE) is None
    assert len(all_pairs(engine, "bob", SHARED)) == 1
    assert take(engine, "cem", SHARED) is None


def test_raters_who_ask_at_once_get_different_pairs(engine: Engine) -> None:
    """Of many raters at the same moment no two get the same pair."""
    for number in range(4):
        question(engine, f"q{number}", 0.5, 0.5)
    with ThreadPoolExecutor(6) as pool:
        given = list(pool.map(lambda n: ids(take(engine, f"rater-{n}")), range(6)))
    assert len({pair for pair in given if pair}) == len([pair for pair in given if pair]) == 4


def test_an_open_pair_stays_until_its_lease_ran_out(engine: Engine) -> None:
    """A page loaded again shows the same pair on the same sides; later it is free for others."""
    question(engine, "q", 0.5, 0.6)
    first = take(engine)
    assert first is not None
    assert take(engine, now=NOW + timedelta(minutes=10)) == first
    assert take(engine, "bob", now=NOW + timedelta(minutes=20)) is None
    assert ids(take(engine, "bob", now=NOW + timedelta(minutes=30))) == ids(first)
    assert take(engine, "ann", now=NOW + timedelta(minutes=31)) is None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sides_are_drawn(engine: Engine) -> None:
    """Over many pairs the first answer stands about as often left as right."""
    record(engine, [Rating(f"q{n // 2}", f"answer {n}", score=0.5, candidate_group=f"q{n // 2}") for n in range(80)])
    sides = []
    while pair := take(engine):
        sides.append(pair.left_is_first)
        choose(engine, pair)
    assert len(sides) == 40
    assert 8 < sum(sides) < 32


def test_a_choice_is_stored_and_can_be_changed(engine: Engine) -> None:
    """The newest choice counts; the same again is no change; the audit log has each."""
    a, b = question(engine, "q", 0.5, 0.6)
    pair = take(engine)
    assert pair is not None
    choose(engine, pair, "second", comment=" because ")
    choose(engine, pair, "second", comment="because")
    choose(engine, pair, "tie")
    assert stored(engine) == [("ann", a, b, "tie", None)]
    assert [entry.action for entry in audit.entries(engine, actor="ann")] == ["preference.changed", "preference.added"]
    assert progress(engine, reviewer="ann", settings=ALONE, now=NOW).today == 1


def test_undo_takes_back_step_by_step(engine: Engine) -> None:
    """The newest choice or skip is undone, and its pair is open again; then nothing is left."""
    for number in range(2):
        question(engine, f"q{number}", 0.5, 0.6)
    first = take(engine)
    assert first is not None
    skip_pair(engine, reviewer="ann", first_id=first.first.interaction_key, second_id=first.second.interaction_key)
    second = take(engine, now=NOW + timedelta(seconds=1))
    assert second is not None
    choose(engine, second)
    undone = [undo_pair(engine, reviewer="ann", settings=ALONE, now=NOW) for _ in range(3)]
    assert [ids(pair) for pair in undone] == [ids(second), ids(first), None]
    assert stored(engine) == []
    assert ids(take(engine)) in (ids(first), ids(second))
    assert [entry.action for entry in audit.entries(engine, actor="ann")] == [
        "pair.reopened",
        "preference.withdrawn",
        "preference.added",
        "pair.skipped",
    ]


def test_skipped_pairs_do_not_come_again(engine: Engine) -> None:
    """A skipped pair is done for this rater, and another may get it; a choice is not taken away by a skip."""
    a, b = question(engine, "q", 0.5, 0.6)
    assert ids(take(engine)) == (a, b)
    skip_pair(engine, reviewer="ann", first_id=a, second_id=b)
    assert take(engine) is None
    pair = take(engine, "bob")
    assert pair is not None
    choose(engine, pair, reviewer="bob")
    skip_pair(engine, reviewer="bob", first_id=a, second_id=b)
    assert stored(engine) == [("bob", a, b, "first", None)]


@pytest.mark.parametrize("first_id", [1, 2, 999, 2**40])
def test_only_what_was_given_can_be_compared(engine: Engine, first_id: int) -> None:
    """Pairs of others, reversed ones and unknown ids are a LookupError."""
    question(engine, "q", 0.5, 0.6)
    take(engine)
    with pytest.raises(LookupError, match="not given to 'bob'"):
        prefer(engine, reviewer="bob", first_id=first_id, second_id=2, preferred="tie")
    with pytest.raises(LookupError, match="not given to 'bob'"):
        skip_pair(engine, reviewer="bob", first_id=first_id, second_id=1)
    assert stored(engine) == []


def test_a_bad_choice_is_refused(engine: Engine) -> None:
    """What is no choice, and a comment that is too long, is a ValueError."""
    question(engine, "q", 0.5, 0.6)
    pair = take(engine)
    assert pair is not None
    for preferred, comment, message in (("left", "", "choice is 'left'"), ("tie", "c" * 4001, "4,001 characters")):
        with pytest.raises(ValueError, match=message):
            choose(engine, pair, preferred, comment=comment)
    assert stored(engine) == []


def test_a_pair_of_a_deleted_answer_is_gone(engine: Engine) -> None:
    """When an answer is deleted, its open pair makes room for another."""
    a, b, c = question(engine, "q", 0.5, 0.5, 0.9)
    assert ids(take(engine)) == (a, b)
    with transaction(engine) as connection:
        connection.execute(delete(Interaction).where(Interaction.id == a))
    assert ids(take(engine)) == (b, c)
