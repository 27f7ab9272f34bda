"""Do people ask other questions than before, and is the model less or more sure of its answers?

A model is only known to be good at what it was judged by. So the questions of each week are compared with those of the
weeks before the live model was trained: once it has learned from newer ones, the comparison begins anew. Scores of
different models say nothing about each other, so those of a week are compared with the first that the live model gave:
a promotion begins anew here, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import takewhile
from typing import TYPE_CHECKING

from sqlalchemy.engine import Engine

from rlhf_loop import registry
from rlhf_loop.monitoring.asked import Week, monday, weeks_of_questions
from rlhf_loop.utils.text import counted, verb

if TYPE_CHECKING:
    from rlhf_loop.encoders import TextEncoder
    from rlhf_loop.monitoring.shifts import Shift

#: A week has moved from this index on, if chance brings as much less often than this.
MOVED, RARE = 0.2, 0.01
#: So far, one week is enough; else it takes two in a row.
FAR = 0.5
#: Questions of a week from which on it is compared, and of the reference.
ENOUGH, ENOUGH_REFERENCE = 50, 100
#: Weeks of the reference, and the questions of it that make the topics.
_REFERENCE_WEEKS, _REFERENCE = 8, 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftPoint:
    """A week, which begins on a Monday (UTC): how far its questions and scores are from the reference.

    `questions` counts those of the sample. The indices are `shifts.Shift`'s, with p values; None where there are too
    few to compare, or nothing to compare with.
    """

    week: date
    questions: int
    question_psi: float | None = None
    question_p: float | None = None
    score_psi: float | None = None
    score_p: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The weeks, the oldest first, and since when they have drifted; None if they have not.

    The reference of the questions reaches from `reference_from` until `reference_until`, both days included. Its own
    weeks and those before are among the points, too, for the picture; only later ones can drift. `moved` names what
    has drifted: "questions", "scores"; `compared` what could have. `reason` says why that is nothing, or only a part.
    """

    reference_from: date | None
    reference_until: date | None
    points: tuple[DriftPoint, ...]
    drifted_since: date | None
    reason: str
    moved: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()


def drift(engine: Engine, *, encoder: TextEncoder | None, now: datetime | None = None, weeks: int = 26) -> Drift:
    """Compare the latest `weeks` in which anything was asked with the reference; without encoder the scores alone.

    It has drifted if the latest weeks that can be compared have moved: two in a row, or one of them far.
    """
    now = (now or datetime.now(UTC)).astimezone(UTC)
    asked = weeks_of_questions(engine, now=now)
    live = registry.live(engine)
    reference = _reference(asked, live.made_at if live else None)
    shown = asked[-weeks:]
    questions = _question_shifts(shown, reference, encoder) if encoder is not None and reference else {}
    scores = _score_shifts(asked, live.version) if live else {}
    later = {week: shift for week, shift in questions.items() if week > reference[-1].start}
    since = {name: _since(list(of.items())) for name, of in (("questions", later), ("scores", scores)) if of}
    moved = {name: week for name, week in since.items() if week is not None}
    return Drift(
        reference_from=reference[0].first if reference else None,
        reference_until=reference[-1].last if reference else None,
        points=tuple(_point(week, questions.get(week.start), scores.get(week.start)) for week in shown),
        drifted_since=min(moved.values(), default=None),
        reason=_reason(asked, reference, encoder, later, scores),
        moved=tuple(moved),
        compared=tuple(since),
    )


def _reference(asked: Sequence[Week], trained_at: datetime | None) -> Sequence[Week]:
    """Return the weeks before the live model was trained, else the first ones that there are; none if too few."""
    if trained_at is not None:
        before = [week for week in asked if week.start < monday(trained_at)][-_REFERENCE_WEEKS:]
        if _count(before) >= ENOUGH_REFERENCE:
            return before
    for weeks in range(1, _REFERENCE_WEEKS + 1):
        if _count(asked[:weeks]) >= 2 * ENOUGH_REFERENCE:
            return asked[:weeks]
    return asked[:_REFERENCE_WEEKS] if _count(asked[:_REFERENCE_WEEKS]) >= ENOUGH_REFERENCE else ()


def _question_shifts(shown: Sequence[Week], reference: Sequence[Week], encoder: TextEncoder) -> dict[date, Shift]:
    # Imported here: numpy and scikit-learn take longer than most pages.
    from rlhf_loop.monitoring.shifts import Topics

    of_each = _REFERENCE // len(reference)
    topics = Topics(encoder.encode([one.prompt for week in reference for one in week.questions[:of_each]]))
    enough = [week for week in shown if len(week.questions) >= ENOUGH]
    return {week.start: topics.shift(encoder.encode([one.prompt for one in week.questions])) for week in enough}


def _score_shifts(asked: Sequence[Week], version: str) -> dict[date, Shift]:
    """Compare the scores by this model with its first ones."""
    import numpy as np

    from rlhf_loop.monitoring.shifts import of_numbers

    found: dict[date, Shift] = {}
    reference: list[float] = []
    for week in asked:
        scores = [one.score for one in week.questions if one.version == version and one.score is not None]
        if len(reference) < ENOUGH_REFERENCE:
            reference += scores
        elif len(scores) >= ENOUGH:
            found[week.start] = of_numbers(np.array(reference), np.array(scores))
    return found


def _since(weeks: Sequence[tuple[date, Shift]]) -> date | None:
    """Return the first of the latest weeks that have all moved, None where that is not enough to speak of a drift."""
    latest = list(takewhile(lambda one: one[1].index >= MOVED and one[1].p < RARE, reversed(weeks)))
    if len(latest) >= 2 or any(shift.index >= FAR for _, shift in latest):
        return latest[-1][0]
    return None


def _point(week: Week, questions: Shift | None, scores: Shift | None) -> DriftPoint:
    return DriftPoint(
        week=week.start,
        questions=len(week.questions),
        question_psi=questions.index if questions else None,
        question_p=questions.p if questions else None,
        score_psi=scores.index if scores else None,
        score_p=scores.p if scores else None,
    )


def _reason(
    asked: Sequence[Week],
    reference: Sequence[Week],
    encoder: TextEncoder | None,
    later: Mapping[date, Shift],
    scores: Mapping[date, Shift],
) -> str:
    """Say why there is nothing to see, or only a part of it."""
    if not reference:
        count = _count(asked)
        why = (
            f"{counted(count, 'question')} {verb(count, 'was', 'were')} asked so far, and the first "
            f"{ENOUGH_REFERENCE} are what later ones are compared with"
        )
    elif encoder is None:
        why = "the encoder is not there (rlhf-loop doctor says why)"
    elif not later:
        last = reference[-1].last
        why = f"no week after {last.day} {last:%B %Y}, where the reference ends, has {ENOUGH} questions"
    else:
        return "" if scores else "Only the questions are compared: the live model has not scored enough of them yet."
    return f"{'Only the scores are compared' if scores else 'Drift cannot be seen yet'}: {why}."


def _count(weeks: Sequence[Week]) -> int:
    return sum(len(week.questions) for week in weeks)
