from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pytest
from operation_fakes import NOW, START, TopicEncoder, put_live, put_questions
from sqlalchemy import Engine

from rlhf_loop.domain import Rating
from rlhf_loop.monitoring import drift as asked
from rlhf_loop.monitoring.drift import Drift, drift, weeks_of_questions
from rlhf_loop.store.interactions import record

OLD = ("heart", "lung", "liver", "skin", "eye", "ear")
ENCODER: object = TopicEncoder()


def draw(topics: Sequence[str], count: int, week: int) -> list[str]:
    return random.Random(week).choices(topics, k=count)


def look(engine: Engine, encoder: object = ENCODER, **options: int) -> Drift:
    return drift(engine, encoder=encoder, now=NOW, **options)  # type: ignore[arg-type]


def put_weeks(engine: Engine, weeks: range, topics: Sequence[str] = OLD, count: int = 60, **options: object) -> None:
    for week in weeks:
        put_questions(engine, week, draw(topics, count, week), **options)  # type: ignore[arg-type]


def test_without_questions_there_is_nothing_to_see(engine: Engine) -> None:
    """An empty database has no drift and says what is missing."""
    found = look(engine)
    assert (found.points, found.drifted_since, found.reference_from) == ((), None, None)
    assert "there are 0 questions so far, and the first 100" in found.reason


def test_questions_about_the_same_have_not_drifted(engine: Engine) -> None:
    """Weeks like those before the training are near the reference, which is named with its days."""
    put_weeks(engine, range(14))
    put_live(engine, made_at=START + timedelta(weeks=10, days=2))
    found = look(engine)
    assert found.drifted_since is None
    assert found.reference_from == (START + timedelta(weeks=2)).date()
    assert found.reference_until == (START + timedelta(weeks=9, days=6)).date()
    assert [point.week for point in found.points] == [(START + timedelta(weeks=week)).date() for week in range(14)]
    assert all(point.questions == 60 for point in found.points)
    assert all(point.question_psi < 0.2 for point in found.points)  # type: ignore[operator]
    assert "has not scored enough" in found.reason


def test_a_new_topic_is_a_drift_from_its_first_week_on(engine: Engine) -> None:
    """Two weeks in a row with half of the questions about something new are a drift, since the first of them."""
    put_weeks(engine, range(10))
    put_weeks(engine, range(10, 12), (*OLD, *["vaccine"] * 3))
    put_live(engine, made_at=START + timedelta(weeks=9))
    found = look(engine)
    assert found.drifted_since == (START + timedelta(weeks=10)).date()
    assert found.moved == ("questions",)
    assert all(point.question_psi >= 0.2 and point.question_p < 0.01 for point in found.points[-2:])  # type: ignore[operator]


@pytest.mark.parametrize(("topics", "drifted"), [(("vaccine",), True), (("heart", *OLD), False)])
def test_one_week_is_enough_where_all_is_new(engine: Engine, topics: Sequence[str], drifted: bool) -> None:
    """A single week counts if it is far away, and not if only a little more is asked about one topic."""
    put_weeks(engine, range(6))
    put_weeks(engine, range(6, 7), topics)
    assert (look(engine).drifted_since is not None) == drifted


def test_a_drift_that_has_ended_is_none(engine: Engine) -> None:
    """When the latest week is as before, nothing has drifted any more."""
    put_weeks(engine, range(6))
    put_weeks(engine, range(6, 8), ("vaccine",))
    assert look(engine).drifted_since is not None
    put_weeks(engine, range(8, 9))
    assert look(engine).drifted_since is None


def test_a_training_on_newer_questions_begins_anew(engine: Engine) -> None:
    """What was a drift for the model before is none for one that was trained after it."""
    put_weeks(engine, range(4))
    put_weeks(engine, range(4, 16), ("vaccine", "virus"))
    put_live(engine, made_at=START + timedelta(weeks=14))
    found = look(engine)
    assert found.drifted_since is None
    assert found.points[0].question_psi > 0.5  # type: ignore[operator]


def test_weeks_with_few_questions_are_not_judged(engine: Engine) -> None:
    """A week below fifty questions has no index and can neither begin nor end a drift."""
    put_weeks(engine, range(6))
    put_weeks(engine, range(6, 7), ("vaccine",))
    put_weeks(engine, range(7, 8), count=49)
    found = look(engine)
    assert found.drifted_since == (START + timedelta(weeks=6)).date()
    assert (found.points[-1].questions, found.points[-1].question_psi) == (49, None)


def test_no_week_after_the_reference(engine: Engine) -> None:
    """As long as nothing came after the reference, the reason says so."""
    put_weeks(engine, range(3))
    found = look(engine)
    assert len(found.points) == 3
    assert "no week after 25 January 2026, where the reference ends, has 50 questions" in found.reason
    assert look(engine, None).reason.startswith("Drift cannot be seen yet: the encoder is not there")


def test_the_latest_weeks_are_shown(engine: Engine) -> None:
    """`weeks` bounds the points, and weeks without a question are no points."""
    put_weeks(engine, range(0, 12, 2))
    assert [point.week for point in look(engine, weeks=2).points] == [
        (START + timedelta(weeks=week)).date() for week in (8, 10)
    ]


def scores(mean: float, week: int, count: int = 60) -> list[float]:
    return np.clip(np.random.default_rng(week).normal(mean, 0.1, count), 0, 1).tolist()


def test_scores_that_fall_are_a_drift(engine: Engine) -> None:
    """The best score of each question counts; without an encoder the scores alone are compared."""
    put_live(engine, made_at=START)
    for week in range(6):
        mean = 0.7 if week < 4 else 0.55
        put_questions(engine, week, draw(OLD, 60, week), scores=scores(mean, week), version="model-1")
    for encoder in (None, ENCODER):
        found = look(engine, encoder)
        assert found.moved == ("scores",)
        assert found.drifted_since == (START + timedelta(weeks=4)).date()
    assert "Only the scores" in look(engine, None).reason
    assert [point.score_psi is None for point in found.points] == [True, True, False, False, False, False]


def test_scores_of_another_model_say_nothing(engine: Engine) -> None:
    """A promotion begins anew: lower scores by another model are no drift."""
    put_live(engine, "model-2", made_at=START + timedelta(weeks=4))
    for week in range(8):
        old = week < 4
        put_questions(
            engine,
            week,
            draw(OLD, 60, week),
            scores=scores(0.8 if old else 0.5, week),
            version="model-1" if old else "model-2",
        )
    found = look(engine)
    assert found.drifted_since is None
    assert [point.score_psi is not None for point in found.points] == [False] * 6 + [True] * 2


def test_a_question_without_group_is_its_prompt_in_a_week(engine: Engine) -> None:
    """Answers without a group belong together by their prompt; the next week it is asked anew."""
    put_questions(engine, 0, ["heart"] * 3, groups=False)
    put_questions(engine, 0, ["heart"] * 3, groups=False)
    put_questions(engine, 1, ["heart"], groups=False)
    assert [len(week.questions) for week in weeks_of_questions(engine, now=NOW)] == [3, 1]


def test_questions_of_tomorrow_do_not_count(engine: Engine) -> None:
    """What is dated later than now is left out."""
    record(engine, [Rating("later", "answer", created_at=NOW + timedelta(days=1))])
    record(engine, [Rating("now", "answer", created_at=NOW)])
    ((week),) = weeks_of_questions(engine, now=NOW)
    assert [one.prompt for one in week.questions] == ["now"]


def test_the_sample_is_the_same_each_time(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more questions than are looked at, the same ones are taken, and of each week not too many."""
    put_weeks(engine, range(4), count=40)
    monkeypatch.setattr(asked, "_LOOKED_AT", 100)
    monkeypatch.setattr(asked, "OF_A_WEEK", 20)
    first, second = (weeks_of_questions(engine, now=NOW) for _ in range(2))
    assert first == second
    assert [len(week.questions) for week in first] == [20] * 4
    put_weeks(engine, range(4, 5), count=40)
    again = {one.prompt for week in weeks_of_questions(engine, now=NOW) for one in week.questions}
    before = {one.prompt for week in first for one in week.questions}
    assert len(again & before) > 50


def test_chance_alone_is_hardly_ever_a_drift(sqlite_engine: Engine) -> None:
    """Of twelve weeks that are all alike none is a drift, from the first to the last."""
    put_weeks(sqlite_engine, range(14), count=60)
    for week in range(3, 14):
        now = START + timedelta(weeks=week + 1)
        assert drift(sqlite_engine, encoder=ENCODER, now=now).drifted_since is None  # type: ignore[arg-type]
