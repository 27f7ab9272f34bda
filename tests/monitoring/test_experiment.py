from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from rlhf_loop.domain import Rating, Review, ReviewerRole, ServingRecord
from rlhf_loop.monitoring.experiment import ExperimentReport, experiment
from rlhf_loop.store import interactions
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import put

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def ask(
    engine: Engine,
    name: str,
    policy: str,
    *,
    user: int | None = None,
    expert: int | None = None,
    second: int | None = None,
    against: str | None = "incoming",
    propensity: float = 0.5,
    teams: tuple[str, str] | None = None,
    day: int = 0,
    prompt: str | None = None,
) -> None:
    """Store a question with two answers as it was served, the first rated by a user or an expert, or the second."""
    ids = [f"{name}-{place}" for place in (1, 2)]
    group, when = f"question:{name}", NOON + timedelta(days=day)
    with transaction(engine) as connection:
        answers = [
            Rating(prompt or name, f"Answer {id}.", candidate_group=group, external_id=id, created_at=when)
            for id in ids
        ]
        first, other = interactions.put_interactions(connection, answers)
        put(
            connection,
            ServingRecord(
                candidate_group=group,
                served_at=when,
                policy=policy,
                propensity=propensity,
                experiment=against,
                first_id=ids[0],
                teams=dict(zip(ids, teams, strict=True)) if teams else {},
            ),
        )
        for id, rating, role in ((first, user, "end_user"), (first, expert, "expert"), (other, second, "end_user")):
            if rating is not None:
                review = Review(rating=rating, reviewer=role, role=ReviewerRole(role))
                interactions.put_review(connection, id, review)


def test_nothing_has_been_compared(engine: Engine) -> None:
    """Then the report says what to set; where all questions went to the other order, too."""
    assert experiment(engine) == ExperimentReport(
        reason="No question has taken part in an experiment yet. Set RLHF_EXPERIMENT_SHARE, such as 0.1, and restart "
        "the service."
    )
    ask(engine, "plain", "live", against=None, propensity=1.0, user=5)
    assert "has taken part" in experiment(engine).reason
    ask(engine, "all", "incoming", propensity=1.0, user=5)
    found = experiment(engine)
    assert found.arms == ()
    assert "All questions go to the experiment (incoming)" in found.reason


def test_the_difference_of_two_orders(engine: Engine) -> None:
    """Of first answers only; the live order's comes first, and less the other's it is the difference."""
    for number in range(12):
        ask(engine, f"a{number}", "live", user=4 + number % 2, second=1)
        ask(engine, f"b{number}", "incoming", user=2 + number % 2, second=5)
    ask(engine, "unrated", "live", second=1)
    found = experiment(engine)
    live, incoming = found.arms
    assert (live.policy, live.questions, live.rated) == ("live", 13, 12)
    assert (incoming.policy, incoming.questions, incoming.rated) == ("incoming", 12, 12)
    assert live.mean_rating is not None
    assert incoming.good_share is not None
    assert (live.mean_rating.value, incoming.good_share.value) == (4.5, 0.0)
    assert found.rating_difference is not None
    assert found.good_difference is not None
    assert found.rating_difference.value == 2.0
    assert 1.5 < found.rating_difference.low < 2 < found.rating_difference.high < 2.5
    assert found.good_difference.value == 1.0
    assert (found.interleaving, found.reason) == (None, "")


def test_users_come_before_experts(engine: Engine) -> None:
    """An expert's rating counts where no user gave one."""
    for number in range(10):
        ask(engine, f"a{number}", "live", user=5, expert=1)
        ask(engine, f"b{number}", "incoming", expert=2)
    live, incoming = experiment(engine).arms
    assert live.mean_rating is not None
    assert incoming.mean_rating is not None
    assert (live.mean_rating.value, incoming.mean_rating.value) == (5, 2)


def test_only_the_newest_experiment_counts(engine: Engine) -> None:
    """With those live answers that took part in it, and since a time if one is given."""
    for number in range(10):
        ask(engine, f"a{number}", "live", user=1, day=0)
        ask(engine, f"b{number}", "incoming", user=1, day=0)
        ask(engine, f"c{number}", "live", user=3, day=1, against="passages-1")
        ask(engine, f"d{number}", "passages-1", user=2, day=1, against="passages-1")
        ask(engine, f"e{number}", "live", user=5, day=2, against="passages-1")
        ask(engine, f"f{number}", "passages-1", user=2, day=2, against="passages-1")
        ask(engine, f"g{number}", "live", user=1, day=3, against=None, propensity=1.0)
        ask(engine, f"h{number}", "passages-1", user=5, day=3, against="passages-1", propensity=1.0)
    found = experiment(engine)
    assert [(arm.policy, arm.questions, arm.mean_rating and arm.mean_rating.value) for arm in found.arms] == [
        ("live", 20, 4.0),
        ("passages-1", 20, 2.0),
    ]
    late = experiment(engine, since=NOON + timedelta(days=2))
    assert late.rating_difference is not None
    assert late.rating_difference.value == 3.0
    assert "has taken part" in experiment(engine, since=NOON + timedelta(days=9)).reason
    assert [arm.policy for arm in experiment(engine, since=NOON).arms] == ["live", "passages-1"]


def test_too_few_ratings_are_named(engine: Engine) -> None:
    """How many there are, and how many it takes."""
    for number in range(10):
        ask(engine, f"a{number}", "live", user=4)
        ask(engine, f"b{number}", "incoming", user=4 if number < 3 else None)
    found = experiment(engine)
    assert found.rating_difference is None
    assert found.reason == (
        "Too few first answers are rated: 10 of 10 of live and 3 of 10 of incoming. Ask users to rate; it takes "
        "10 questions of each."
    )


def test_one_question_in_many_spellings_is_one(engine: Engine) -> None:
    """Ten people who ask the same are not ten questions."""
    for number in range(10):
        ask(engine, f"a{number}", "live", user=4, prompt=f"{' ' * number}Why THIS?" if number % 2 else "why this?")
        ask(engine, f"b{number}", "incoming", user=4)
    live, incoming = experiment(engine).arms
    assert (live.rated, live.mean_rating) == (10, None)
    assert incoming.mean_rating is not None


def test_who_wins_in_interleaved_lists(engine: Engine) -> None:
    """By question, of the answers that were rated; lists that nobody rated are neither."""
    name, ours, theirs = "incoming interleaved", ("live", "incoming"), ("incoming", "live")

    def show(question: str, teams: tuple[str, str], first: int | None = None, second: int | None = None) -> None:
        ask(engine, question, "interleaved", against=name, teams=teams, user=first, second=second)

    for number in range(6):
        show(f"a{number}", ours, 5, 2)
        show(f"b{number}", theirs, 1)
    for number in range(3):
        show(f"c{number}", theirs, 5)
        show(f"d{number}", ours, 3, 3)
        show(f"e{number}", ours)
        ask(engine, f"f{number}", "live", against=name, user=1)
    found = experiment(engine)
    assert found.interleaving is not None
    counts = found.interleaving
    assert (counts.questions, counts.wins, counts.losses, counts.ties) == (21, 12, 3, 3)
    assert counts.preference is not None
    assert counts.preference.value == pytest.approx(9 / 18)
    assert 0 < counts.preference.low < 0.5 < counts.preference.high < 1
    assert (found.arms, found.rating_difference, found.reason) == ((), None, "")
    few = experiment(engine, since=NOON + timedelta(days=1))
    assert few.interleaving is None


def test_few_interleaved_lists(engine: Engine) -> None:
    """Their counts are there, and the sentence that says what is missing."""
    for number in range(12):
        rated = 5 if number < 3 else None
        ask(engine, f"a{number}", "interleaved", against="p-1 interleaved", teams=("live", "p-1"), user=rated)
    found = experiment(engine)
    assert found.interleaving is not None
    assert (found.interleaving.wins, found.interleaving.preference) == (3, None)
    assert found.reason == ("Too few interleaved answers are rated: 3 of 12. Ask users to rate; it takes 10 questions.")


def test_both_ways_to_compare_the_same_orders(engine: Engine) -> None:
    """One after the other, each is counted with its own live answers."""
    for number in range(10):
        ask(engine, f"a{number}", "live", user=5)
        ask(engine, f"b{number}", "incoming", user=4)
        ask(engine, f"c{number}", "live", user=1, against="incoming interleaved", day=1)
        ask(
            engine,
            f"d{number}",
            "interleaved",
            user=5,
            against="incoming interleaved",
            teams=("live", "incoming"),
            day=1,
        )
    found = experiment(engine)
    assert found.rating_difference is not None
    assert found.rating_difference.value == 1.0
    assert found.interleaving is not None
    assert (found.interleaving.wins, found.interleaving.losses) == (10, 0)
