"""Queries for interactions and their reviews: newest first, filtered, a page at a time."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from operator import eq, ge, gt, le, lt
from typing import Any

from sqlalchemy import Row, Select, exists, func, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop import domain
from rlhf_loop.domain import Origin, ReviewerRole
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import REVIEW_COLUMNS, AuditEntry, Interaction, Review, origin_of, review_of

#: Entries of a page at most.
LONGEST_PAGE = 100
_CHECK_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Conditions on interactions; None means all. Ratings are the experts' consensus."""

    rated: bool | None = None
    min_rating: int | None = None
    max_rating: int | None = None
    source: str | None = None
    candidate_group: str | None = None
    model_version: str | None = None
    harmful: bool | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionEntry:
    """An answer that was offered, with what its reviews come to.

    `rating` is the consensus of the experts, `end_user_rating` that of the end users. `harmful` says that some reviewer
    flagged it.
    """

    id: str
    prompt: str
    response: str
    origin: Origin
    candidate_group: str | None
    shown_rank: int | None
    score: float | None
    model_version: str | None
    created_at: datetime
    rating: int | None
    rated_at: datetime | None
    end_user_rating: int | None
    harmful: bool
    expert_reviews: int
    end_user_reviews: int


@dataclass(frozen=True, slots=True)
class InteractionPage:
    """Some interactions, newest first; with `next` as cursor comes the next page, None on the last one."""

    interactions: tuple[InteractionEntry, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class ReviewPage:
    """Some reviews, newest first; with `next` as cursor comes the next page, None on the last one."""

    reviews: tuple[domain.Review, ...]
    next: str | None


def interactions(
    engine: Engine, filters: Filters = Filters(), *, limit: int = 20, cursor: str | None = None
) -> InteractionPage:
    """Return a page. What comes while somebody turns the pages moves none of them: it would be before the first.

    Raises:
        ValueError: the cursor is not valid, or of other filters.
    """
    of = _fingerprint("interactions", *map(str, astuple(filters)))
    wanted = _filtered(select(*_columns()), filters).order_by(Interaction.id.desc()).limit(limit + 1)
    if cursor is not None:
        wanted = wanted.where(Interaction.id < _position(cursor, of))
    with reading(engine) as connection:
        rows = connection.execute(wanted).all()
    return InteractionPage(tuple(map(_entry, rows[:limit])), _next(rows, limit, of))


def interaction(engine: Engine, id: str, *, reviews: int = LONGEST_PAGE) -> tuple[InteractionEntry, ReviewPage]:
    """Return the interaction with that external id and its first page of reviews.

    Raises:
        LookupError: there is none.
    """
    with reading(engine) as connection:
        row = connection.execute(select(*_columns()).where(Interaction.id == find_key(connection, id))).one_or_none()
        if row is None:
            raise LookupError(unknown(id))
        return _entry(row), _reviews(connection, row.row_id, id, limit=reviews, cursor=None)


def reviews(engine: Engine, id: str, *, limit: int = LONGEST_PAGE, cursor: str | None = None) -> ReviewPage:
    """Return a page of the reviews of the interaction with that external id.

    Raises:
        LookupError: there is no such interaction.
        ValueError: the cursor is not valid, or of another interaction.
    """
    with reading(engine) as connection:
        return _reviews(connection, interaction_key(connection, id), id, limit=limit, cursor=cursor)


def interaction_key(connection: Connection, id: str) -> int:
    """Return the key under which the database has the interaction with that external id.

    Raises:
        LookupError: there is none.
    """
    found = find_key(connection, id)
    if found is None:
        raise LookupError(unknown(id))
    return found


def find_key(connection: Connection, id: str) -> int | None:
    """Return the key of the interaction with that external id, or that had it before answers were merged."""
    found = connection.execute(select(Interaction.id).where(Interaction.external_id == id)).scalar()
    if found is not None:
        return int(found)
    former = select(AuditEntry.detail).where(
        AuditEntry.target == f"interaction_id:{id}", AuditEntry.action == "interaction.renamed"
    )
    detail = connection.execute(former.order_by(AuditEntry.id.desc()).limit(1)).scalar()
    return int(detail["interaction"]) if detail else None


def known(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Return those of the external ids that are there."""
    return set(connection.execute(select(Interaction.external_id).where(Interaction.external_id.in_(ids))).scalars())


def find_review(connection: Connection, interaction_key: int, *, reviewer: str) -> domain.Review | None:
    """Return the reviewer's review of the interaction with that key, None if there is none."""
    wanted = select(*REVIEW_COLUMNS).where(Review.interaction_key == interaction_key, Review.reviewer == reviewer)
    row = connection.execute(wanted).one_or_none()
    return None if row is None else review_of(row)


def unknown(id: str) -> str:
    """Say that there is no interaction with that external id."""
    shown = id if len(id) <= 100 else f"{id[:100]}..."
    return f"There is no interaction with the id {shown!r}. List them at /v1/interactions."


def _columns() -> list[Any]:
    of_it = Review.interaction_key == Interaction.id

    def counted(role: ReviewerRole) -> Any:
        found = select(func.count()).select_from(Review).where(of_it, Review.role == role)
        return found.scalar_subquery().label(f"{role}_reviews")

    return [
        Interaction.id.label("row_id"),
        *(column for column in Interaction.__table__.columns if column.name != "id"),
        exists().where(of_it, Review.harmful).label("harmful"),
        counted(ReviewerRole.EXPERT),
        counted(ReviewerRole.END_USER),
    ]


def _filtered(wanted: Select[Any], filters: Filters) -> Select[Any]:
    if filters.rated is not None:
        wanted = wanted.where(Interaction.rating.is_not(None) if filters.rated else Interaction.rating.is_(None))
    if filters.harmful is not None:
        flagged = exists().where(Review.interaction_key == Interaction.id, Review.harmful)
        wanted = wanted.where(flagged if filters.harmful else ~flagged)
    for column, compared, value in (
        (Interaction.rating, ge, filters.min_rating),
        (Interaction.rating, le, filters.max_rating),
        (Interaction.source, eq, filters.source),
        (Interaction.candidate_group, eq, filters.candidate_group),
        (Interaction.model_version, eq, filters.model_version),
        (Interaction.created_at, gt, filters.created_after),
        (Interaction.created_at, lt, filters.created_before),
    ):
        if value is not None:
            wanted = wanted.where(compared(column, value))
    return wanted


def _reviews(connection: Connection, key: int, id: str, *, limit: int, cursor: str | None) -> ReviewPage:
    of = _fingerprint("reviews", id)
    wanted = select(Review.id.label("row_id"), *REVIEW_COLUMNS).where(Review.interaction_key == key)
    wanted = wanted.order_by(Review.id.desc()).limit(limit + 1)
    if cursor is not None:
        wanted = wanted.where(Review.id < _position(cursor, of))
    rows = connection.execute(wanted).all()
    return ReviewPage(tuple(map(review_of, rows[:limit])), _next(rows, limit, of))


def _entry(row: Row[Any]) -> InteractionEntry:
    return InteractionEntry(
        id=row.external_id,
        prompt=row.user_prompt,
        response=row.ai_response,
        origin=origin_of(row),
        candidate_group=row.candidate_group,
        shown_rank=row.shown_rank,
        score=row.score,
        model_version=row.model_version,
        created_at=row.created_at,
        rating=row.rating,
        rated_at=row.rated_at,
        end_user_rating=row.end_user_rating,
        harmful=bool(row.harmful),
        expert_reviews=row.expert_reviews,
        end_user_reviews=row.end_user_reviews,
    )


# A cursor is the number of the last entry that was seen, and a check of what was asked for. It is not signed: whoever
# makes one up may read all pages anyway.


def _fingerprint(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()[:_CHECK_BYTES]


def _next(rows: Sequence[Row[Any]], limit: int, of: bytes) -> str | None:
    if len(rows) <= limit:
        return None
    last: int = rows[limit - 1].row_id
    return urlsafe_b64encode(of + last.to_bytes(8)).rstrip(b"=").decode()


def _position(cursor: str, of: bytes) -> int:
    try:
        whole = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    except (ValueError, Base64Error):
        whole = b""
    position = int.from_bytes(whole[_CHECK_BYTES:])
    if len(whole) != _CHECK_BYTES + 8 or whole[:_CHECK_BYTES] != of or not 0 < position < 2**63:
        shown = cursor if len(cursor) <= 40 else f"{cursor[:40]}..."
        raise ValueError(
            f"The cursor {shown!r} does not belong to this request. Send `next` of the page before, with the same "
            "filters, or begin without a cursor."
        )
    return position
