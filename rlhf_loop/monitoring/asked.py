"""Which questions were asked when, and how sure the model was: a sample that is the same each time.

Millions of answers may be there, and no index knows their time. So the questions are found by the index of their
groups, which holds the ids of their answers, and only those of the sample are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, func, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import aliased

from rlhf_loop.domain import prompt_key
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction

#: Questions that are looked at in all, and of one week at most.
_LOOKED_AT, OF_A_WEEK = 20_000, 300
_AT_A_TIME = 1_000


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

    id: int
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
        by_week: dict[date, list[_First]] = defaultdict(list)
        seen: set[tuple[date, str]] = set()
        for first in _firsts(connection, _drawn(connection)):
            week = monday(first.at)
            without_group = (week, prompt_key(first.prompt))
            if first.at > now or len(by_week[week]) >= OF_A_WEEK or (first.group is None and without_group in seen):
                continue
            if first.group is None:
                seen.add(without_group)
            by_week[week].append(first)
        best = _best(connection, [first.id for each in by_week.values() for first in each if first.group])
    return [
        Week(week, tuple(Asked(one.prompt, one.at, *best.get(one.id, (one.version, one.score))) for one in firsts))
        for week, firsts in sorted(by_week.items())
        if firsts
    ]


def monday(moment: datetime) -> date:
    """Return the first day of its week."""
    return moment.date() - timedelta(days=moment.weekday())


def _drawn(connection: Connection) -> list[int]:
    """Return the ids of the first answers to the questions of the sample, in the order in which they were drawn.

    The draw depends on the id alone: a question stays in the sample, or out of it, however many others there are.
    """
    group = Interaction.candidate_group
    wanted = (
        select(func.min(Interaction.id)).where(group.is_not(None)).group_by(group),
        select(Interaction.id).where(group.is_(None)),
    )
    found = [
        np.array(some, dtype=np.uint64)
        for each in wanted
        for some in connection.execute(each, execution_options={"yield_per": 10_000}).scalars().partitions()
    ]
    ids = np.concatenate([np.empty(0, dtype=np.uint64), *found])
    drawn = ids[np.argsort(_mixed(ids), kind="stable")][:_LOOKED_AT]
    return [int(id) for id in drawn]


def _mixed(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers that look drawn, each the same for the same id: SplitMix64's finalizer (Steele et al. 2014)."""
    mixed = ids + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _firsts(connection: Connection, ids: Sequence[int]) -> Iterator[_First]:
    """Give the answers with these ids, in their order."""
    wanted = select(
        Interaction.id,
        Interaction.candidate_group,
        Interaction.user_prompt,
        Interaction.created_at,
        Interaction.model_version,
        Interaction.score,
    ).where(Interaction.id.in_(_IDS))
    for some in _portions(ids):
        rows = {row.id: row for row in connection.execute(wanted, {"ids": some})}
        for id in some:
            row = rows[id]
            version, score = (None, None) if row.score is None else (row.model_version, row.score)
            yield _First(id, row.candidate_group, row.user_prompt, row.created_at, version, score)


def _best(connection: Connection, firsts: Sequence[int]) -> dict[int, tuple[str | None, float | None]]:
    """Return the best score of each group, with the model that gave it, by the id of the group's first answer."""
    found: dict[int, tuple[str | None, float | None]] = {}
    first = aliased(Interaction)
    best = func.max(Interaction.score)
    wanted = (
        select(first.id, Interaction.model_version, best)
        .join(Interaction, Interaction.candidate_group == first.candidate_group)
        .where(first.id.in_(_IDS), Interaction.score.is_not(None))
        .group_by(first.id, Interaction.model_version)
        .order_by(best, Interaction.model_version)
    )
    for some in _portions(firsts):
        # The last of a group has the best score.
        found |= {id: (version, score) for id, version, score in connection.execute(wanted, {"ids": some})}
    return found


#: Whole numbers, written into the statement: thousands of parameters take longer than the search itself.
_IDS: Any = bindparam("ids", expanding=True, literal_execute=True)


def _portions(items: Sequence[int]) -> Iterator[Sequence[int]]:
    return (items[start : start + _AT_A_TIME] for start in range(0, len(items), _AT_A_TIME))
