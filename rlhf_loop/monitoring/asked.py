"""Which questions were asked when, and how sure the model was: a sample that is the same each time.

Millions of answers may be there, and no index knows their time. So the questions are found by the index of their
groups, and only those of the sample are read.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import blake2b
from itertools import chain
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.db import reading
from rlhf_loop.domain import prompt_key
from rlhf_loop.tables import Interaction

#: Questions that are looked at in all, and of one week at most.
_LOOKED_AT, OF_A_WEEK = 30_000, 500
_AT_A_TIME = 500

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question. `score` is that of its best answer by the model `version`; both None where none scored them."""

    prompt: str
    at: datetime
    version: str | None
    score: float | None


@dataclass(frozen=True, slots=True)
class Week:
    """The questions of a week, which begins on a Monday (UTC), in the order in which they were drawn."""

    start: date
    questions: tuple[Asked, ...]

    @property
    def first(self) -> date:
        """The day of its first question."""
        return min(one.at for one in self.questions).date()

    @property
    def last(self) -> date:
        """The day of its last question."""
        return max(one.at for one in self.questions).date()


@dataclass(frozen=True, slots=True)
class _First:
    """The first answer to a question. `group` is None where the answers to a question belong to no group."""

    group: str | None
    prompt: str
    at: datetime
    version: str | None
    score: float | None


def weeks_of_questions(engine: Engine, *, now: datetime) -> list[Week]:
    """Return the weeks until now in which anything was asked, the oldest first, each with a sample of its questions.

    A question is one candidate group, or a prompt in a week where there are no groups.
    """
    with reading(engine) as connection:
        drawn = heapq.nsmallest(_LOOKED_AT, _drawn(connection))
        by_week: dict[date, list[_First]] = defaultdict(list)
        seen: set[tuple[date, str]] = set()
        for first in _firsts(connection, [id for _, id in drawn]):
            week = monday(first.at)
            without_group = (week, prompt_key(first.prompt))
            if first.at > now or len(by_week[week]) >= OF_A_WEEK or (first.group is None and without_group in seen):
                continue
            if first.group is None:
                seen.add(without_group)
            by_week[week].append(first)
        best = _best(connection, [first.group for each in by_week.values() for first in each if first.group])
    return [
        Week(week, tuple(Asked(one.prompt, one.at, *best.get(one.group, (one.version, one.score))) for one in firsts))
        for week, firsts in sorted(by_week.items())
        if firsts
    ]


def monday(moment: datetime) -> date:
    """Return the first day of its week."""
    return moment.date() - timedelta(days=moment.weekday())


def _drawn(connection: Connection) -> Iterator[tuple[bytes, int]]:
    """Give each question's place in the sample, which depends on its name alone, and the id of its first answer."""
    group = Interaction.candidate_group
    grouped = select(group, func.min(Interaction.id)).where(group.is_not(None)).group_by(group)
    alone = select(Interaction.id).where(group.is_(None))
    stream = {"yield_per": 10_000}
    names = ((name or "", id) for name, id in connection.execute(grouped, execution_options=stream))
    others = ((f"answer {id}", id) for id in connection.execute(alone, execution_options=stream).scalars())
    for name, id in chain(names, others):
        yield blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), id


def _firsts(connection: Connection, ids: Sequence[int]) -> Iterator[_First]:
    """Give the answers with these ids, in their order."""
    columns = (
        Interaction.id,
        Interaction.candidate_group,
        Interaction.user_prompt,
        Interaction.created_at,
        Interaction.model_version,
        Interaction.score,
    )
    for some in _portions(ids):
        rows = {row.id: row for row in connection.execute(select(*columns).where(Interaction.id.in_(some)))}
        for id in some:
            row = rows[id]
            version, score = (None, None) if row.score is None else (row.model_version, row.score)
            yield _First(row.candidate_group, row.user_prompt, row.created_at, version, score)


def _best(connection: Connection, groups: Sequence[str]) -> dict[str | None, tuple[str | None, float | None]]:
    """Return of each group the best score, with the model that gave it."""
    found: dict[str | None, tuple[str | None, float | None]] = {}
    for some in _portions(groups):
        best = func.max(Interaction.score)
        scored = (
            select(Interaction.candidate_group, Interaction.model_version, best)
            .where(Interaction.candidate_group.in_(some), Interaction.score.is_not(None))
            .group_by(Interaction.candidate_group, Interaction.model_version)
            .order_by(best, Interaction.model_version)
        )
        # The last of a group has the best score.
        found |= {group: (version, score) for group, version, score in connection.execute(scored)}
    return found


def _portions(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    return (items[start : start + _AT_A_TIME] for start in range(0, len(items), _AT_A_TIME))
