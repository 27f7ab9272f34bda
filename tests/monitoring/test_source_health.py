from __future__ import annotations

from datetime import timedelta

import pytest
from operation_fakes import NOW, put_served
from sqlalchemy import Engine, insert

from rlhf_loop.monitoring.checks import SourceHealth, source_health
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.tables import ServedQuestion

OK: dict[str, str] = {"wikipedia": ""}
BAD = {"wikipedia": "no answer within 3 s"}


def health(engine: Engine) -> SourceHealth:
    (found,) = source_health(engine, now=NOW)
    return found


@pytest.mark.parametrize(
    ("outcomes", "failing", "well"),
    [
        ([OK] * 20, False, True),
        ([OK] * 10 + [BAD] * 10, True, False),
        ([OK, BAD] * 10, True, False),
        ([OK] * 11 + [BAD] * 9, False, False),
        ([BAD] * 9 + [OK] * 11, False, True),
        ([OK] * 9 + [BAD] * 2 + [OK] * 9, False, True),
        ([BAD] * 9, False, False),
        ([OK] * 9, False, False),
    ],
)
def test_what_counts_as_failing(engine: Engine, outcomes: list[dict[str, str]], failing: bool, well: bool) -> None:
    """Half of at least ten questions in an hour; it is well again when of the latest ten at most one failed."""
    put_served(engine, outcomes, until=NOW)
    found = health(engine)
    assert (found.failing, found.well) == (failing, well)


def test_the_latest_ten_in_a_row_where_few_ask(engine: Engine) -> None:
    """With one question an hour, ten failures in a row are enough, and nine are not."""
    put_served(engine, [OK] * 3 + [BAD] * 9, until=NOW, apart=timedelta(hours=1))
    assert not health(engine).failing
    put_served(engine, [BAD], until=NOW - timedelta(minutes=30))
    found = health(engine)
    assert found.failing
    assert (found.asked, found.failed, found.reason) == (10, 10, "no answer within 3 s")


def test_yesterday_is_over(engine: Engine) -> None:
    """Failures of more than a day ago say nothing, nor do questions of the future."""
    put_served(engine, [BAD] * 20, until=NOW - timedelta(days=1))
    put_served(engine, [BAD] * 20, until=NOW + timedelta(hours=1))
    assert source_health(engine, now=NOW) == []


def test_each_source_for_itself(engine: Engine) -> None:
    """One that fails leaves the others well, and what is no source is not judged."""
    outcome = {"arxiv": "busy", "index": "", "wikipedia": ""}
    put_served(engine, [outcome] * 12, until=NOW)
    with transaction(engine) as connection:
        for trouble in ("model", "drafts", "recording", "experiment"):
            row = {"candidate_group": trouble, "served_at": NOW, "policy": "live", "degraded": {trouble: "broken"}}
            connection.execute(insert(ServedQuestion), row)
    found = source_health(engine, now=NOW)
    assert [(each.name, each.failing, each.well) for each in found] == [
        ("arxiv", True, False),
        ("index", False, True),
        ("wikipedia", False, True),
    ]


def test_a_source_that_is_asked_no_more_is_well(engine: Engine) -> None:
    """Taken out of the settings, it fails nobody, as soon as ten questions went without it."""
    put_served(engine, [{**BAD, "index": ""}] * 15 + [{"index": ""}] * 9, until=NOW)
    assert {each.name: each.failing for each in source_health(engine, now=NOW)} == {"index": False, "wikipedia": True}
    put_served(engine, [{"index": ""}], until=NOW - timedelta(seconds=1))
    found = {each.name: each for each in source_health(engine, now=NOW)}
    assert (found["wikipedia"].failing, found["wikipedia"].well) == (False, True)
