"""Sums of past days, what they change of the trends, and what is deleted for its age."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from figure_rows import NOW, add, serve, shown
from sqlalchemy import Engine, delete, func, select, update

from rlhf_loop.monitoring.served_days import OfSource, purge_old, served_sums, sum_up
from rlhf_loop.store import rankings
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import Interaction, ServedDay, ServedQuestion

#: As `Settings` has it.
THRESHOLD = 0.5
SINCE = NOW - timedelta(weeks=26)


@pytest.fixture
def served(engine: Engine) -> Engine:
    """Two questions on each of ten days until now, with answers of two sources; each third comes first without any."""
    for number in range(20):
        at = NOW - timedelta(days=number // 2, hours=number % 2)
        for source, score in (("index", 0.1 + 0.04 * number), ("arxiv", 0.9 - 0.04 * number)):
            name = f"{source} {number}"
            add(engine, name, score=score, source=source, external_id=name, candidate_group=f"g{number}", created_at=at)
        first = None if number % 3 == 2 else f"{'index' if number % 2 else 'arxiv'} {number}"
        serve(engine, first, group=f"g{number}", at=at)
    serve(engine, "index 3", group="ranking:r", at=NOW - timedelta(days=4))
    with transaction(engine) as connection:
        connection.execute(
            update(ServedQuestion).where(ServedQuestion.candidate_group == "ranking:r").values(door="/v1/rerank")
        )
    return engine


def count(engine: Engine, table: type) -> int:
    with reading(engine) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_sums_are_those_of_the_questions(served: Engine) -> None:
    """With the worker's sums the trends are what they are without; a day that is not over is not summed up yet."""
    before = served_sums(served, since=SINCE, threshold=THRESHOLD)
    figures = {name: shown(name, served).rows for name in ("quality", "sources")}
    assert sum_up(served, threshold=THRESHOLD, now=NOW) == 8
    assert sum_up(served, threshold=THRESHOLD, now=NOW) == 0
    after = served_sums(served, since=SINCE, threshold=THRESHOLD)
    assert list(after) == list(before) == [date(2026, 5, 11) + timedelta(days=n) for n in range(10)]
    for day, sums in before.items():
        assert after[day].sources == sums.sources
        assert (after[day].answers, after[day].below) == (sums.answers, sums.below)
        assert after[day].score_sum == pytest.approx(sums.score_sum)
    assert before[date(2026, 5, 16)].sources == {"arxiv": OfSource(2, 0), "index": OfSource(2, 1)}
    for name, rows in figures.items():
        for now, then in zip(shown(name, served).rows, rows, strict=True):
            assert now == pytest.approx(then)


def test_trends_outlive_the_questions(served: Engine) -> None:
    """Old records of serving are deleted after they are summed up; answers stay, and so does what is not summed up."""
    rows = shown("sources", served).rows
    ages = {"record_days": 0, "served_days": 0.5}
    gone = purge_old(served, **ages, threshold=THRESHOLD, actor="test", now=NOW)
    assert gone.served == 16
    assert shown("sources", served).rows == rows
    assert count(served, Interaction) == 40
    # Today and yesterday, and a ranking that has a document.
    assert count(served, ServedQuestion) == 5
    assert purge_old(served, **ages, threshold=THRESHOLD, actor="test", now=NOW).served == 0
    again = purge_old(served, **ages, threshold=THRESHOLD, actor="test", now=NOW + timedelta(days=9))
    assert again.served == 4
    assert count(served, ServedDay) == 17


def test_nothing_is_deleted_unless_somebody_says_so(served: Engine) -> None:
    """0 days are for ever."""
    gone = purge_old(served, record_days=0, served_days=0, threshold=THRESHOLD, actor="test", now=NOW)
    assert (gone.served, gone.documents.answers) == (0, 0)
    assert count(served, ServedQuestion) == 21


def test_another_threshold(served: Engine) -> None:
    """What was summed up with another threshold counts anew."""
    sum_up(served, threshold=THRESHOLD, now=NOW)
    fresh = served_sums(served, since=SINCE, threshold=0.3)
    assert sum(day.below for day in fresh.values()) < sum(
        day.below for day in served_sums(served, since=SINCE, threshold=THRESHOLD).values()
    )
    assert sum_up(served, threshold=0.3, now=NOW) == 8
    assert sum_up(served, threshold=0.3, now=NOW) == 0
    kept = served_sums(served, since=SINCE, threshold=0.3)
    assert {day: of.below for day, of in kept.items()} == {day: of.below for day, of in fresh.items()}


def test_another_threshold_after_a_purge(served: Engine) -> None:
    """Days of which something was deleted keep their sums, with what was below the threshold of then."""
    purge_old(served, record_days=0, served_days=5, threshold=THRESHOLD, actor="test", now=NOW)
    with transaction(served) as connection:
        connection.execute(delete(Interaction).where(Interaction.external_id == "index 7"))
    before = served_sums(served, since=SINCE, threshold=THRESHOLD)
    for _ in range(2):
        after = served_sums(served, since=SINCE, threshold=0.3)
        assert list(after) == list(before)
        assert all(after[day].answers == sums.answers for day, sums in before.items())
        assert all(after[day].sources == sums.sources for day, sums in before.items())
        sum_up(served, threshold=0.3, now=NOW)


def test_a_part_of_a_day_is_not_taken_for_all_of_it(served: Engine) -> None:
    """The trends begin at their hour, also where the day is summed up as a whole."""
    sum_up(served, threshold=THRESHOLD, now=NOW)
    since = datetime(2026, 5, 13, 11, 30, tzinfo=UTC)
    found = served_sums(served, since=since, threshold=THRESHOLD)
    assert found[date(2026, 5, 13)].sources == {"arxiv": OfSource(1, 0), "index": OfSource(1, 0)}
    assert min(found) == date(2026, 5, 13)


def test_what_has_no_documents_is_not_looked_at_again(served: Engine) -> None:
    """A purge notes which rankings have none, in batches; one with a rated document is looked at each time."""
    for number in range(7):
        serve(served, None, group=f"ranking:{number}", at=NOW - timedelta(days=20))
    add(served, "rated", rating=4, candidate_group="ranking:0", created_at=NOW - timedelta(days=20))
    with transaction(served) as connection:
        rankings_of = ServedQuestion.candidate_group.startswith("ranking:")
        connection.execute(update(ServedQuestion).where(rankings_of).values(door="/v1/rerank"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankings, "_RECORDS_AT_ONCE", 3)
        assert rankings.purge(served, before=NOW - timedelta(days=10), actor="test").answers == 0
    with reading(served) as connection:
        left = select(ServedQuestion.candidate_group).where(
            ServedQuestion.door.is_not(None), ServedQuestion.emptied_at.is_(None)
        )
        assert sorted(connection.execute(left).scalars()) == ["ranking:0", "ranking:r"]
        assert rankings.count_served(connection, before=NOW - timedelta(days=10)) == 6
