"""Interactions, reviews and preferences in the database: record answers, rate and compare them, count.

Of a reviewer the last review of an answer counts, and the last preference between two. Serving records say by which
order a question was answered, how fast, and what did not work; the question itself is not in them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, case, delete, func, insert, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from rlhf_loop import domain
from rlhf_loop.domain import GOOD_RATING, Rating, ReviewerRole, ServingRecord, field_values, prompt_key, rating_fields
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, transaction, upsert
from rlhf_loop.store.tables import ANONYMOUS, LARGEST_ID, Interaction, JudgeLabel, Preference, Review, ServedQuestion
from rlhf_loop.store.validation import RATINGS, cleaned, problem, whole
from rlhf_loop.utils.text import clause, unstorable


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingStats:
    """The numbers of what the ratings database holds.

    `questions` counts the candidate groups, `comparable_questions` those with at least two rated answers. All of it is
    about experts; of end users there are `end_user_reviews`, of `end_user_rated` answers.
    `positive_share` is the share of rated answers from `GOOD_RATING` up; None without any.
    """

    interactions: int
    rated: int
    unrated: int
    reviews: int
    reviewers: int
    questions: int
    comparable_questions: int
    distribution: Mapping[int, int]
    positive_share: float | None
    first_rated_at: datetime | None
    last_rated_at: datetime | None
    end_user_reviews: int = 0
    end_user_rated: int = 0


def judge_labels() -> Select[Any]:
    """Return a query for the labels of judges that hold: of each judge on each answer that of the latest import."""
    later = aliased(JudgeLabel)
    same = (later.interaction_key == JudgeLabel.interaction_key) & (later.judge == JudgeLabel.judge)
    newest = select(func.max(later.import_id)).where(same).scalar_subquery()
    names = ("interaction_key", "judge", "label", "labelled_at")
    return select(*(JudgeLabel.__table__.c[name] for name in names)).where(JudgeLabel.import_id == newest)


def record(engine: Engine, ratings: Sequence[Rating]) -> list[int]:
    """Store answers that were served, rated or not; return their ids in the order given.

    Each becomes an interaction of its own, also where the same answer is there already; a rating becomes its first
    review.

    Raises:
        ValueError: one of them cannot be stored, or its `external_id` is taken; nothing was stored.
    """
    with transaction(engine) as connection:
        return put_interactions(connection, ratings)


def put_interactions(connection: Connection, ratings: Sequence[Rating]) -> list[int]:
    """Do what `record` does, in a transaction of the caller's, which has to end with an error.

    Raises:
        ValueError: as `record`.
    """
    if isinstance(ratings, Rating | str | bytes) or not isinstance(ratings, Iterable):
        raise ValueError(f"What to record is one {type(ratings).__name__}, not a list. Pass a list of Rating(...).")
    ratings = [cleaned(rating) for rating in ratings]
    for number, rating in enumerate(ratings):
        if reason := problem(rating):
            raise ValueError(f"Item {number} cannot be recorded: {reason}.")
    if not ratings:
        return []
    now = datetime.now(UTC)
    statement = insert(Interaction).returning(Interaction.id, sort_by_parameter_order=True)
    try:
        found = connection.execute(statement, [_interaction_values(rating, now) for rating in ratings])
    except IntegrityError as error:
        raise ValueError(
            f"An external_id is taken: {clause(error.orig)}. Leave it out, or rate the interaction that has it."
        ) from error
    new = list(found.scalars())
    reviews = [_review_values(key, each.review, now) for key, each in zip(new, ratings, strict=True) if each.rating]
    if reviews:
        connection.execute(insert(Review), reviews)
    return new


def rate(
    engine: Engine,
    interaction_key: int,
    *,
    reviewer: str | None = None,
    rating: int,
    comment: str | None = None,
    correction: str | None = None,
    harmful: bool = False,
    role: ReviewerRole = ReviewerRole.EXPERT,
    rated_at: datetime | None = None,
) -> int:
    """Add one reviewer's review, or replace the one given earlier; return the experts' consensus, 0 if there is none.

    `rated_at` is the time of the review, by default now.

    Raises:
        ValueError: a rating outside 1-5, a time without a zone, text that cannot be stored, or a key that is not whole.
        LookupError: there is no such interaction.
    """
    interaction_key = whole("interaction_key", interaction_key)
    review = domain.Review(
        rating=rating,
        comment=comment,
        correction=correction,
        harmful=harmful,
        reviewer=reviewer,
        role=role,
        reviewed_at=rated_at,
    )
    with transaction(engine) as connection:
        put_review(connection, interaction_key, review)
        consensus = select(Interaction.rating).where(Interaction.id == interaction_key)
        return int(connection.execute(consensus).scalar_one() or 0)


def put_review(connection: Connection, interaction_key: int, review: domain.Review) -> bool:
    """Do what `rate` does, in a transaction of the caller's; return whether the review is the reviewer's first.

    Raises:
        ValueError, LookupError: as `rate`.
    """
    rating = cleaned(Rating("-", "-", **rating_fields(review)))
    if reason := problem(rating, rated=True):
        raise ValueError(f"The review of interaction {interaction_key} cannot be stored: {reason}.")
    lock(connection, interaction_key)
    values = _review_values(interaction_key, rating.review, datetime.now(UTC))
    before = _rating_by(connection, interaction_key, values["reviewer"])
    upsert(connection, Review, values, key=["interaction_key", "reviewer"])
    action = "review.added" if before is None else "review.changed"
    detail = {"rating": values["rating"], "role": values["role"]} | ({} if before is None else {"before": before})
    audit.note(connection, values["reviewer"], action, f"interaction:{interaction_key}", detail)
    return before is None


def withdraw_review(connection: Connection, interaction_key: int, *, reviewer: str) -> None:
    """Take back a reviewer's review of an answer, in a transaction of the caller's.

    Raises:
        LookupError: there is no such review.
    """
    lock(connection, interaction_key)
    before = _rating_by(connection, interaction_key, reviewer)
    if before is None:
        raise LookupError(f"There is no review of interaction {interaction_key} by {reviewer!r}. Reload the page.")
    connection.execute(delete(Review).where(Review.interaction_key == interaction_key, Review.reviewer == reviewer))
    audit.note(connection, reviewer, "review.withdrawn", f"interaction:{interaction_key}", {"before": before})


def stored_role(connection: Connection, interaction_key: int, reviewer: str) -> ReviewerRole | None:
    """Return the role with which the reviewer's review is stored, None without one; it stays so in this transaction.

    Raises:
        LookupError: there is no such interaction.
    """
    lock(connection, interaction_key)
    wanted = select(Review.role).where(Review.interaction_key == interaction_key, Review.reviewer == reviewer)
    found = connection.execute(wanted).scalar()
    return None if found is None else ReviewerRole(found)


def lock(connection: Connection, interaction_key: int) -> None:
    """Keep others from reviewing the answer until the transaction ends: reviews of one queue up instead of colliding.

    Every writer does it first.

    Raises:
        LookupError: there is no such interaction.
    """
    locked = select(Interaction.id).where(Interaction.id == interaction_key).with_for_update(key_share=True)
    if interaction_key > LARGEST_ID or connection.execute(locked).scalar() is None:
        raise LookupError(f"There is no interaction {interaction_key}. It may have been deleted; reload the list.")


def ids(engine: Engine, external_ids: Sequence[str]) -> dict[str, int]:
    """Return the ids of those of the external ids that are there."""
    wanted = select(Interaction.external_id, Interaction.id).where(Interaction.external_id.in_(external_ids))
    with reading(engine) as connection:
        return {row.external_id: row.id for row in connection.execute(wanted)}


def stats(engine: Engine) -> RatingStats:
    """Count what there is, for the screens and for the decision to train."""
    with reading(engine) as connection:
        interactions = connection.execute(select(func.count()).select_from(Interaction)).scalar_one()
        by_rating = connection.execute(
            select(Interaction.rating, func.count()).where(Interaction.rating.is_not(None)).group_by(Interaction.rating)
        )
        found = {int(rating or 0): int(count) for rating, count in by_rating}
        reviews, reviewers, first, last = connection.execute(
            select(
                func.count(),
                func.count(Review.reviewer.distinct()),
                func.min(Review.reviewed_at),
                func.max(Review.reviewed_at),
            ).where(Review.role == ReviewerRole.EXPERT)
        ).one()
        end_users = select(func.count(), func.count(Review.interaction_key.distinct()))
        end_user_reviews, end_user_rated = connection.execute(
            end_users.where(Review.role == ReviewerRole.END_USER)
        ).one()
        rated_by_question = _rated_by_question(connection)
    rated = sum(found.values())
    positive = sum(count for rating, count in found.items() if rating >= GOOD_RATING)
    return RatingStats(
        interactions=interactions,
        rated=rated,
        unrated=interactions - rated,
        reviews=reviews,
        reviewers=reviewers,
        questions=len(rated_by_question),
        comparable_questions=sum(count >= 2 for count in rated_by_question),
        distribution={rating: found.get(rating, 0) for rating in RATINGS},
        positive_share=positive / rated if rated else None,
        first_rated_at=first,
        last_rated_at=last,
        end_user_reviews=end_user_reviews,
        end_user_rated=end_user_rated,
    )


def group_name(candidate_group: str | None, prompt: str) -> str:
    """Return the candidate group; without one, the prompt, so that the answers to one question belong together."""
    return f"prompt:{prompt_key(prompt)}" if candidate_group is None else candidate_group


def _rating_by(connection: Connection, interaction_key: int, reviewer: str) -> int | None:
    found = select(Review.rating).where(Review.interaction_key == interaction_key, Review.reviewer == reviewer)
    return connection.execute(found).scalar()


def _interaction_values(rating: Rating, now: datetime) -> dict[str, Any]:
    return {
        "user_prompt": rating.user_prompt,
        "ai_response": rating.ai_response,
        "feedback_comment": rating.feedback_comment,
        "corrected_response": rating.corrected_response,
        "candidate_group": rating.candidate_group,
        "shown_rank": rating.shown_rank,
        "score": rating.score,
        "model_version": rating.model_version,
        "external_id": rating.external_id or uuid.uuid4().hex,
        "created_at": rating.created_at or now,
        **field_values(rating.origin),
    }


def _review_values(interaction_key: int, review: domain.Review, now: datetime) -> dict[str, Any]:
    return {
        **field_values(review),
        "interaction_key": interaction_key,
        "reviewer": review.reviewer or ANONYMOUS,
        "reviewed_at": review.reviewed_at or now,
        "role": str(review.role),
    }


def _rated_by_question(connection: Connection) -> list[int]:
    """Count the rated answers of each question."""
    prompt = case((Interaction.candidate_group.is_(None), Interaction.user_prompt))
    counted = select(
        Interaction.candidate_group, prompt.label("user_prompt"), func.count(Interaction.rating).label("rated")
    ).group_by(Interaction.candidate_group, prompt)
    # By their hashes: where answers have no group, the names of their questions are all the prompts there are.
    found: dict[int, int] = {}
    for row in connection.execute(counted, execution_options={"yield_per": 1000}):
        group = hash(group_name(row.candidate_group, row.user_prompt))
        found[group] = found.get(group, 0) + row.rated
    return list(found.values())


def put_preference(
    connection: Connection,
    chosen: int,
    rejected: int,
    *,
    reviewer: str,
    role: ReviewerRole = ReviewerRole.EXPERT,
    tie: bool = False,
    comment: str | None = None,
    preferred_at: datetime | None = None,
) -> bool:
    """Add a reviewer's preference, or replace the one given earlier; return whether it is the first of this pair.

    The transaction is the caller's. With `tie` neither is better. `preferred_at` is by default now.

    Raises:
        ValueError: both are the same answer, they answer different questions, or the comment cannot be stored.
        LookupError: one of them is not there.
    """
    if chosen == rejected:
        raise ValueError("A preference is between two answers, but both ids are of one. Name the other one.")
    if comment and (bad := unstorable(comment)):
        raise ValueError(f"The comment holds {bad.group()!a} at position {bad.start()}, which cannot be stored.")
    first, second, mine = _locked_pair(connection, chosen, rejected, reviewer)
    wanted = select(Interaction.id, Interaction.user_prompt, Interaction.candidate_group)
    one, other = connection.execute(wanted.where(Interaction.id.in_((first, second)))).all()
    together = one.candidate_group is not None and one.candidate_group == other.candidate_group
    if not together and prompt_key(one.user_prompt) != prompt_key(other.user_prompt):
        raise ValueError("These two answers are to different questions, so neither can be the better one.")
    preferred = "tie" if tie else "first" if chosen == first else "second"
    before = connection.execute(select(Preference.preferred).where(mine)).scalar()
    values = {
        "first_id": first,
        "second_id": second,
        "reviewer": reviewer,
        "preferred": preferred,
        "comment": comment or None,
        "role": str(role),
        "preferred_at": preferred_at or datetime.now(UTC),
    }
    upsert(connection, Preference, values, key=["first_id", "second_id", "reviewer"])
    action = "preference.added" if before is None else "preference.changed"
    detail = {"preferred": preferred, "role": str(role)} | ({} if before is None else {"before": before})
    audit.note(connection, reviewer, action, f"pair:{first}-{second}", detail)
    return before is None


def withdraw_preference(connection: Connection, one: int, other: int, *, reviewer: str) -> None:
    """Take back what a reviewer said of two answers, in a transaction of the caller's.

    Raises:
        LookupError: there is no such preference, or one of the answers is not there.
    """
    first, second, mine = _locked_pair(connection, one, other, reviewer)
    before = connection.execute(select(Preference.preferred).where(mine)).scalar()
    if before is None:
        raise LookupError(f"There is no preference between {first} and {second} by {reviewer!r}. Nothing was done.")
    connection.execute(delete(Preference).where(mine))
    audit.note(connection, reviewer, "preference.withdrawn", f"pair:{first}-{second}", {"before": before})


def stored_preference_role(connection: Connection, one: int, other: int, reviewer: str) -> ReviewerRole | None:
    """Return the role with which the reviewer's preference is stored, None without one; it stays so meanwhile.

    Raises:
        LookupError: one of the answers is not there.
    """
    mine = _locked_pair(connection, one, other, reviewer)[2]
    found = connection.execute(select(Preference.role).where(mine)).scalar()
    return None if found is None else ReviewerRole(found)


def _locked_pair(connection: Connection, one: int, other: int, reviewer: str) -> tuple[int, int, ColumnElement[bool]]:
    """Lock both answers; return the lower id, the higher id, and the condition of the reviewer's preference."""
    first, second = sorted((one, other))
    lock(connection, first)
    lock(connection, second)
    mine = (Preference.first_id == first) & (Preference.second_id == second) & (Preference.reviewer == reviewer)
    return first, second, mine


#: The policies that order the answers to a question, beside the versions of models.
LIVE, INCOMING, INTERLEAVED = "live", "incoming", "interleaved"


def experiment_name(other: str, *, interleaved: bool) -> str:
    """Return what an experiment against the other order is called in `Served`."""
    return f"{other} {INTERLEAVED}" if interleaved else other


def other_order(experiment: str) -> str:
    """Return the order that an experiment of that name compares with the live one."""
    return experiment.removesuffix(f" {INTERLEAVED}")


def put(connection: Connection, *served: ServingRecord) -> None:
    """Keep how questions were answered, in a transaction of the caller's; the second time does nothing."""
    rows = [field_values(each) for each in served]
    for values in rows:
        for name in ("teams", "degraded", "timings"):
            values[name] = dict(values[name]) or None
    upsert(connection, ServedQuestion, rows, key=["candidate_group"], changed=())
