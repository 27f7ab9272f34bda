"""`rlhf-loop purge` shows what is too old, and deletes it when it is told to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner, Result
from figure_rows import add, serve
from sqlalchemy import Engine, select, update

from rlhf_loop.cli import main
from rlhf_loop.monitoring.served_days import OfSource, served_sums
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import Interaction, ServedDay, ServedQuestion

NOW = datetime.now(UTC)
OLD, YOUNG = NOW - timedelta(days=40), NOW - timedelta(hours=1)
AGES = ("--record-days", "30", "--served-days", "30")
Run = Callable[..., Result]


@pytest.fixture
def filled(sqlite_engine: Engine) -> Engine:
    """Questions and recorded rankings, old ones and young ones; somebody has rated a document of an old ranking."""
    for age, at in (("old", OLD), ("young", YOUNG)):
        add(sqlite_engine, age, score=0.7, source="index", external_id=age, candidate_group=age, created_at=at)
        serve(sqlite_engine, age, group=age, at=at)
        for name, rating in (("unrated", None), ("rated", 4)):
            group = f"ranking:{age}, {name}"
            add(sqlite_engine, group, rating=rating, external_id=group, candidate_group=group, created_at=at)
            serve(sqlite_engine, group, group=group, at=at)
    with transaction(sqlite_engine) as connection:
        recorded = ServedQuestion.candidate_group.startswith("ranking:")
        connection.execute(update(ServedQuestion).where(recorded).values(door="/v1/rerank"))
    return sqlite_engine


@pytest.fixture
def run(filled: Engine) -> Run:
    def run(*arguments: str, code: int = 0, **settings: str) -> Result:
        url = filled.url.render_as_string(hide_password=False)
        result = CliRunner().invoke(main, ["purge", *arguments], env={"RLHF_DATABASE_URL": url, **settings})
        assert result.exit_code == code, result.output
        return result

    return run


def left(engine: Engine) -> tuple[set[str], set[str], int]:
    """The answers, the records of serving, and the number of days that are summed up."""
    with reading(engine) as connection:
        answers = set(connection.execute(select(Interaction.external_id)).scalars())
        served = set(connection.execute(select(ServedQuestion.candidate_group)).scalars())
        return answers, served, len(connection.execute(select(ServedDay.day)).all())


def test_without_yes_nothing_is_deleted(filled: Engine, run: Run) -> None:
    """What is too old is counted, and stays."""
    before = left(filled)
    output = run(*AGES).output
    assert "1 answer or document in 1 list, with 0 reviews: too old." in output
    # The question's, and that of the ranking whose documents would go first.
    assert "2 records of served questions: too old." in output
    assert "Nothing is deleted yet. Add --yes" in output
    assert left(filled) == before == (before[0], before[0], 0)


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [(AGES, {}), ((), {"RLHF_RECORD_DAYS": "30", "RLHF_SERVED_DAYS": "30"})],
    ids=["options", "settings"],
)
def test_what_is_old_goes_and_the_trends_stay(
    filled: Engine, run: Run, arguments: tuple[str, ...], settings: dict[str, str]
) -> None:
    """Answers of questions, rated rankings and all that is young stay; sums of the days that are over are kept."""
    everything, _, _ = left(filled)
    trends = served_sums(filled, since=OLD - timedelta(days=1), threshold=0.5)
    assert trends[OLD.date()].sources == {"index": OfSource(1, 1)}
    output = run(*arguments, "--yes", **settings).output
    assert "1 answer or document in 1 list, with 0 reviews: deleted." in output
    # The question's, and that of the ranking which has no documents any more.
    assert "2 records of served questions: deleted." in output
    answers, served, days = left(filled)
    assert everything - answers == {"ranking:old, unrated"}
    assert everything - served == {"old", "ranking:old, unrated"}
    assert days >= 38
    assert served_sums(filled, since=OLD - timedelta(days=1), threshold=0.5)[OLD.date()] == trends[OLD.date()]
    assert "There was nothing to delete." in run(*arguments, "--yes", **settings).output
    assert left(filled) == (answers, served, days)


def test_each_age_by_itself(filled: Engine, run: Run) -> None:
    """0 days are for ever, whatever the settings say."""
    everything, _, _ = left(filled)
    run("--record-days", "0", "--yes", RLHF_RECORD_DAYS="30", RLHF_SERVED_DAYS="30")
    answers, served, _ = left(filled)
    assert (answers, everything - served) == (everything, {"old"})
    run("--served-days", "0", "--yes", RLHF_RECORD_DAYS="30")
    answers, served, _ = left(filled)
    assert (everything - answers, everything - served) == ({"ranking:old, unrated"}, {"old"})


def test_what_is_no_age(filled: Engine, run: Run) -> None:
    """Without any, and with one that is none, it says what to do."""
    assert "RLHF_RECORD_DAYS and RLHF_SERVED_DAYS are 0, so nothing is too old. Set one" in run(code=2).output
    assert "nan is not a valid number of days" in run("--served-days", "nan", "--yes", code=2).output
    assert "-1" in run("--record-days", "-1", "--yes", code=2).output
    assert len(left(filled)[0]) == 6
