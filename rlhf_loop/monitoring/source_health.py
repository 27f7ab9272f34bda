"""Which sources fail, by what was noted of the questions that were answered lately."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.engine import Engine

from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import ServedQuestion

#: What `degraded` names beside sources.
_NO_SOURCES = frozenset({"model", "drafts", "recording", "experiment"})
#: The stage of a source, among those that have a time.
_STAGE = "source:"
#: How far back is looked, and how many questions; and what counts as lately.
_SINCE, _QUESTIONS = timedelta(days=1), 1_000
_LATELY = timedelta(hours=1)
#: Questions that it takes to say anything, and the share of them that has to fail.
_ENOUGH, _MANY = 10, 0.5
#: Of the latest questions so many may fail where all is well again.
_FORGIVEN = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceHealth:
    """A source lately: it failed for `failed` of `asked` questions. `reason` is what was wrong the last time.

    Between `failing` and `well` nothing is sure.
    """

    name: str
    asked: int
    failed: int
    failing: bool
    well: bool
    reason: str


@dataclass(frozen=True, slots=True)
class _Outcome:
    at: datetime
    trouble: str


def source_health(engine: Engine, *, now: datetime) -> list[SourceHealth]:
    """Tell how each source does that was asked within a day, by name.

    One that was not asked any more in the latest ten questions is well: somebody has taken it out.
    """
    latest = (
        select(ServedQuestion.served_at, ServedQuestion.degraded, ServedQuestion.timings)
        .where(ServedQuestion.served_at > now - _SINCE, ServedQuestion.served_at <= now)
        .order_by(ServedQuestion.served_at.desc(), ServedQuestion.candidate_group)
        .limit(_QUESTIONS)
    )
    outcomes: dict[str, list[_Outcome]] = defaultdict(list)
    with reading(engine) as connection:
        rows = connection.execute(latest).all()
    asked_now: set[str] = set()
    for place, row in enumerate(rows):
        degraded = row.degraded or {}
        names = {stage.removeprefix(_STAGE) for stage in row.timings or () if stage.startswith(_STAGE)}
        names |= degraded.keys() - _NO_SOURCES
        for name in names:
            outcomes[name].append(_Outcome(row.served_at, degraded.get(name, "")))
        if place < _ENOUGH:
            asked_now |= names
    gone = outcomes.keys() - asked_now if len(rows) >= _ENOUGH else set()
    return [_health(name, outcomes[name], now, gone=name in gone) for name in sorted(outcomes)]


def _health(name: str, outcomes: list[_Outcome], now: datetime, *, gone: bool) -> SourceHealth:
    """Judge the outcomes, the latest of which comes first."""
    lately = [outcome for outcome in outcomes if outcome.at > now - _LATELY]
    last = outcomes[:_ENOUGH]
    # Where few people ask, an hour has too few questions.
    counted = lately if len(lately) >= _ENOUGH else last
    failed = sum(bool(outcome.trouble) for outcome in counted)
    failed_last = sum(bool(outcome.trouble) for outcome in last)
    often = len(lately) >= _ENOUGH and failed >= _MANY * len(lately)
    failing = not gone and (often or (len(last) >= _ENOUGH and failed_last == len(last)))
    return SourceHealth(
        name=name,
        asked=len(counted),
        failed=failed,
        failing=failing,
        well=gone or (not failing and len(last) >= _ENOUGH and failed_last <= _FORGIVEN),
        reason=next((outcome.trouble for outcome in outcomes if outcome.trouble), ""),
    )
