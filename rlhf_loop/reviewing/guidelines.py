"""Guidelines that tell raters what the five grades mean, and the rater's progress.

An admin can change the guidelines; each version is kept. Progress is towards what training needs, and today's goal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import func, insert, select
from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import MIN_SAMPLES, ReviewerRole
from rlhf_loop.reviewing.candidates import Rater, count_left, count_open, count_waiting
from rlhf_loop.reviewing.items import checked_text
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import Guideline, Interaction, Preference, Review
from rlhf_loop.utils.translation import Message

_MAX_INTRODUCTION, _MAX_GRADE = 4_000, 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidelines:
    """An introduction, and what each grade from 1 to 5 means; nobody has edited those that come with the package."""

    introduction: str
    grades: tuple[str, ...]
    edited_by: str | None = None
    edited_at: datetime | None = None


DEFAULT_GUIDELINES = Guidelines(
    introduction=Message(
        "Read the question first, and decide what a good answer would have to say. Then grade how right and how "
        "useful this answer is for somebody who may act on it: the facts count, not the style, the length or the "
        "source. Grade it for the question that was asked, not for one that it would suit better. If following it "
        "could hurt somebody, flag it as harmful, whatever else it says. If you cannot judge it, skip it: a skipped "
        "answer is better than a guessed grade."
    ),
    grades=(
        Message(
            "Wrong or useless: the main statement is false, or nothing in it answers the question. Nobody should "
            "act on it."
        ),
        Message(
            "Mostly wrong: a part is true, but an important statement is false, or so much is missing that a "
            "reader is led astray."
        ),
        Message(
            "Partly right: what counts is there and not false, but it is incomplete, vague or mixed with things "
            "beside the point. A reader would have to ask again."
        ),
        Message(
            "Right, with small gaps: the question is answered correctly and safely. A detail, a limit or a "
            "caution that a specialist would add is missing."
        ),
        Message(
            "Exactly right: correct, complete for this question, clear, and with the cautions that belong to it. "
            "You would say the same to a patient."
        ),
    ),
)


def guidelines(engine: Engine) -> Guidelines:
    """Return the guidelines in force: those that were saved last, else ours."""
    with reading(engine) as connection:
        row = connection.execute(select(Guideline.__table__).order_by(Guideline.id.desc()).limit(1)).one_or_none()
    if row is None:
        return DEFAULT_GUIDELINES
    return Guidelines(
        introduction=row.introduction,
        grades=(row.grade_1, row.grade_2, row.grade_3, row.grade_4, row.grade_5),
        edited_by=row.edited_by,
        edited_at=row.edited_at,
    )


def save_guidelines(
    engine: Engine, *, introduction: str, grades: Sequence[str], edited_by: str, now: datetime | None = None
) -> None:
    """Put new guidelines in force; the earlier ones stay in the database.

    Raises:
        ValueError: not five grades, one of them or the introduction is empty, too long or cannot be stored.
    """
    if len(grades) != 5:
        raise ValueError(f"There are {len(grades)} grades. Describe five, from 1 to 5.")
    values = {"introduction": _filled("introduction", introduction, limit=_MAX_INTRODUCTION)}
    for number, grade in enumerate(grades, start=1):
        values[f"grade_{number}"] = _filled(f"description of grade {number}", grade, limit=_MAX_GRADE)
    with transaction(engine) as connection:
        stored = insert(Guideline).values(**values, edited_by=edited_by, edited_at=now or datetime.now(UTC))
        version = connection.execute(stored.returning(Guideline.id)).scalar_one()
        audit.note(connection, edited_by, "guidelines.changed", f"guidelines:{version}")


def _filled(name: str, text: str, *, limit: int) -> str:
    checked = checked_text(name, text, limit=limit)
    if checked is None:
        raise ValueError(f"The {name} is empty. Write what raters should go by.")
    return checked


#: Among so many answers it counts, and so many rated ones; a larger number tells nobody more.
MOST_COUNTED, MOST_RATED = 1000, 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`rated` answers of the `needed` ones; `today`, since midnight UTC, of the `goal`; and how many wait.

    `rated` counts answers that experts rated, to `most`. `today` counts the rater's reviews and comparisons.
    `waiting` counts what the rater may still be given of the newest 1,000 answers that no expert has rated; second
    opinions are not in it. `left` counts these answers for all raters, and `mine` what the rater may be given or has
    open now.
    """

    rated: int
    needed: int
    today: int
    goal: int
    waiting: int
    left: int
    mine: int
    most: int = MOST_RATED


def progress(engine: Engine, *, reviewer: str, settings: Settings, now: datetime | None = None) -> Progress:
    """Count how far the rater is."""
    now = (now or datetime.now(UTC)).astimezone(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    some = select(Interaction.rating).where(Interaction.rating.is_not(None)).limit(MOST_RATED).subquery()
    rated = select(func.count()).select_from(some)
    reviews = select(func.count()).where(
        Review.reviewer == reviewer, Review.reviewed_at >= midnight, Review.role == ReviewerRole.EXPERT
    )
    preferences = select(func.count()).where(Preference.reviewer == reviewer, Preference.preferred_at >= midnight)
    with reading(engine) as connection:
        rater = Rater(name=reviewer, now=now, until=now)
        waiting = count_waiting(connection, rater, settings, most=MOST_COUNTED)
        return Progress(
            rated=connection.execute(rated).scalar_one(),
            needed=MIN_SAMPLES,
            today=connection.execute(reviews).scalar_one() + connection.execute(preferences).scalar_one(),
            goal=settings.review_daily_goal,
            waiting=waiting,
            left=count_left(connection, most=MOST_COUNTED),
            mine=waiting + count_open(connection, rater),
        )
