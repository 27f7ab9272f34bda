"""Queries for interactions and their reviews: newest first, filtered, a page at a time."""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import eq, ge, gt, le, lt
from time import monotonic
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, exists, func, literal_column, or_, select, tuple_, union
from sqlalchemy.engine import Connection, Engine

from rlhf_loop import domain
from rlhf_loop.domain import Origin, ReviewerRole
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import (
    LARGEST_ID,
    REVIEW_COLUMNS,
    AnswerScore,
    AuditEntry,
    Interaction,
    Review,
    ServedQuestion,
    origin_of,
    review_of,
)

#: Entries of a page at most.
LONGEST_PAGE = 100
_CHECK_BYTES = 8
#: Bytes of a number, and of a time with a number.
_PLACE_BYTES = (8, 12)
#: Interactions that a search reads first; then twice as many, and so on.
_FIRST_STEP = 1000
_SEARCHED = re.compile(r'"([^"]+)"|([^\s"]+)')
_MOST_SEARCHED = 8
_TEXTS = (
    Interaction.user_prompt,
    Interaction.ai_response,
    Interaction.feedback_comment,
    Interaction.corrected_response,
)
#: Of one answer of a history, the newest.
_MOST_REVIEWS = 50


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

    @property
    def by_time(self) -> bool:
        """Tell whether they ask for a time: then what they find is in its order, else in that of the recording."""
        return self.created_after is not None or self.created_before is not None


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
    """Some interactions, newest first; with `next` as cursor comes the next page, None on the last one.

    A page may have fewer than were asked for, or none, and a next one all the same.
    """

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
    """Return a page. What comes while somebody turns the pages moves none of them.

    Where hardly anything fulfils the filters, it ends early, as a search does, and may be empty with a next one.

    Raises:
        ValueError: the cursor is not valid, or of other filters.
    """
    of = _fingerprint("interactions by time" if filters.by_time else "interactions", *map(str, astuple(filters)))
    found = search(engine, filters, before=None if cursor is None else _position(cursor, of), limit=limit)
    return InteractionPage(found.interactions, None if found.before is None else _cursor(found.before, of))


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Interactions that a search found, newest first; older ones come with `before`, None where nothing is left.

    A search that ended early for want of time has fewer than were asked for, and `before` all the same.
    """

    interactions: tuple[InteractionEntry, ...]
    before: int | None


def search(
    engine: Engine,
    filters: Filters = Filters(),
    *,
    words: str = "",
    reviewer: str | None = None,
    before: int | None = None,
    limit: int = 20,
    seconds: float = 2.0,
    clock: Callable[[], float] = monotonic,
) -> SearchResult:
    """Look for interactions that hold all words: in question, answer, newest comment or correction, in either case.

    What stands in quotation marks is one word. Words have no index: rows are read from the newest on, a range of them
    at a time, and no further range is begun after so many seconds; so a search takes no longer in a large database, and
    writing costs next to nothing. Times have one: with them the order is that of time, and `before` a place in it.
    """
    started = clock()
    every = [each[0] or each[1] for each in _SEARCHED.findall(words)][:_MOST_SEARCHED]
    order = [Interaction.created_at, Interaction.id] if filters.by_time else [Interaction.id]
    place, newest_first = tuple_(*order), [column.desc() for column in order]
    wanted = _filtered(select(*_columns()), filters).order_by(*newest_first)
    within = _filtered(select(*order), Filters(created_after=filters.created_after)).order_by(*newest_first).limit(1)
    if reviewer is not None:
        wanted = wanted.where(exists().where(Review.interaction_key == Interaction.id, Review.reviewer == reviewer))
    upper = _place(before, filters)
    found: list[Row[Any]] = []
    # What an index finds by itself needs no ranges.
    step = None if filters.candidate_group is not None or filters.harmful else _FIRST_STEP
    with reading(engine) as connection:
        ignoring_case = "ilike" if connection.dialect.name == "postgresql" else "like"
        for word in every:
            holding = (getattr(column, ignoring_case)(_pattern(word), escape="\\") for column in _TEXTS)
            wanted = wanted.where(or_(*holding))
        lasted = before_that = 0.0
        while lasted < seconds:
            of_range, missing, lower = wanted.where(place < upper), limit + 1 - len(found), None
            if step is not None:
                lower = connection.execute(within.where(place < upper).offset(step - 1)).one_or_none()
            if lower is not None:
                of_range = of_range.where(place >= tuple(lower))
            rows = connection.execute(of_range.limit(missing)).all()
            found += [row for row in rows if _holds(row, every)]
            if len(found) > limit:
                return SearchResult(tuple(map(_entry, found[:limit])), _number(_place_of(found[limit - 1], filters)))
            if len(rows) == missing:
                upper = _place_of(rows[-1], filters)
            elif lower is None:
                return SearchResult(tuple(map(_entry, found)), None)
            else:
                upper = tuple(lower)
            before_that, lasted = lasted, clock() - started
            # Not so many that the last range would take long itself.
            if step is not None and lasted - before_that < seconds / 8:
                step *= 2
    return SearchResult(tuple(map(_entry, found)), _number(upper))


# A place in the order of a search is an interaction's number, with its time before it where the order is that of time.
# To others it is one number, with the interaction's in its lowest bits.

_BITS = LARGEST_ID.bit_length()
_START, _END = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _place(before: int | None, filters: Filters) -> tuple[Any, ...]:
    if not filters.by_time:
        return (min(before or LARGEST_ID, LARGEST_ID),)
    if before is None:
        return (filters.created_before or _END, 0)
    time, id = divmod(before, 1 << _BITS)
    return (_START + min(time, (_END - _START) // _MICROSECOND) * _MICROSECOND, id)


def _place_of(row: Row[Any], filters: Filters) -> tuple[Any, ...]:
    return (row.created_at, row.row_id) if filters.by_time else (row.row_id,)


def _number(place: tuple[Any, ...]) -> int:
    *time, id = place
    return int(id) + (((time[0] - _START) // _MICROSECOND) << _BITS if time else 0)


def first_and_last(*where: ColumnElement[bool]) -> Select[Any]:
    """Select the least and the largest number of the interactions that fulfil all conditions."""
    # Each by itself: SQLite reads all rows for both in one.
    return select(*(select(end(Interaction.id)).where(*where).scalar_subquery() for end in (func.min, func.max)))


def _pattern(word: str) -> str:
    """Return a pattern of LIKE for a word; a letter of which a database may not know the other case may be any."""

    def of(letter: str) -> str:
        if letter.isascii():
            return f"\\{letter}" if letter in "%_\\" else letter
        return letter if letter.upper() == letter.lower() else "_"

    return f"%{''.join(map(of, word))}%"


def _holds(row: Row[Any], every: Sequence[str]) -> bool:
    texts = [(getattr(row, column.key) or "").casefold() for column in _TEXTS]
    return all(any(word.casefold() in text for text in texts) for word in every)


@dataclass(frozen=True, slots=True)
class PastAnswer:
    """An answer of a question's history: its newest reviews, and the live model's score as long as it waits for one."""

    entry: InteractionEntry
    reviews: tuple[domain.Review, ...]
    live_score: float | None
    live_version: str | None

    @property
    def earlier(self) -> int:
        """The number of reviews before these."""
        return self.entry.expert_reviews + self.entry.end_user_reviews - len(self.reviews)


@dataclass(frozen=True, slots=True)
class History:
    """A page of the answers that were offered for a question, and how it was answered each time, by group.

    The newest time comes first, and each time the answer with the best rank.
    """

    prompt: str
    answers: tuple[PastAnswer, ...]
    served: Mapping[str, ServedAs]
    before: int | None


@dataclass(frozen=True, slots=True)
class ServedAs:
    """The order in which a question's answers were shown: see `ServingRecord`."""

    policy: str
    model_version: str | None
    degraded: tuple[str, ...]
    door: str | None = None
    caller: str | None = None


def history(engine: Engine, id: str, *, before: int | None = None, limit: int = 20) -> History:
    """Return a page of the history of the question to which the interaction with that external id belongs.

    To it belong the answers that were offered together with it, and all to a question of the same words.

    Raises:
        LookupError: there is no such interaction.
    """
    with reading(engine) as connection:
        key = interaction_key(connection, id)
        chosen = connection.execute(
            select(Interaction.user_prompt, Interaction.candidate_group).where(Interaction.id == key)
        ).one()
        # Joined with nothing: else SQLite puts the whole text into the index's expression, and reads all rows.
        same = and_(
            literal_column("substr(user_prompt, 1, 64)") == chosen.user_prompt[:64],
            literal_column("user_prompt || ''") == chosen.user_prompt,
        )
        keys = [select(Interaction.id).where(same)]
        if chosen.candidate_group is not None:
            keys.append(select(Interaction.id).where(Interaction.candidate_group == chosen.candidate_group))
        wanted = (
            select(*_columns(), AnswerScore.score.label("live_score"), AnswerScore.model_version.label("live_version"))
            .join(AnswerScore, AnswerScore.interaction_key == Interaction.id, isouter=True)
            .where(Interaction.id.in_(union(*keys)))
            .order_by(Interaction.id.desc())
        )
        if before is not None:
            wanted = wanted.where(Interaction.id < min(before, LARGEST_ID))
        rows: list[Any] = list(connection.execute(wanted.limit(limit + 1)))
        shown = rows[:limit]
        of = Review.interaction_key.in_([row.row_id for row in shown])
        said: dict[int, list[domain.Review]] = {}
        place = func.row_number().over(partition_by=Review.interaction_key, order_by=Review.id.desc())
        newest = select(Review.id, place.label("place")).where(of).subquery()
        reviews = (
            select(Review.interaction_key.label("of"), *REVIEW_COLUMNS)
            .join(newest, newest.c.id == Review.id)
            .where(newest.c.place <= _MOST_REVIEWS)
            .order_by(Review.id)
        )
        for row in connection.execute(reviews):
            said.setdefault(row.of, []).append(review_of(row))
        groups = {row.candidate_group for row in shown if row.candidate_group is not None}
        served = {
            row.candidate_group: ServedAs(
                row.policy, row.model_version, tuple(row.degraded or ()), row.door, row.caller
            )
            for row in connection.execute(
                select(
                    ServedQuestion.candidate_group,
                    ServedQuestion.policy,
                    ServedQuestion.model_version,
                    ServedQuestion.degraded,
                    ServedQuestion.door,
                    ServedQuestion.caller,
                ).where(ServedQuestion.candidate_group.in_(groups))
            )
        }
    answers = [
        PastAnswer(_entry(row), tuple(said.get(row.row_id, ())), row.live_score, row.live_version)
        for _, together in groupby(shown, key=lambda row: row.candidate_group)
        for row in sorted(together, key=lambda row: (row.shown_rank or LARGEST_ID, -row.row_id))
    ]
    older = shown[-1].row_id if len(rows) > limit else None
    return History(chosen.user_prompt, tuple(answers), served, older)


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
        wanted = wanted.where(Review.id < min(_position(cursor, of), LARGEST_ID))
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
    return _cursor(rows[limit - 1].row_id, of)


def _cursor(position: int, of: bytes) -> str:
    return urlsafe_b64encode(of + position.to_bytes(_PLACE_BYTES[position >= 2**63])).rstrip(b"=").decode()


def _position(cursor: str, of: bytes) -> int:
    try:
        whole = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    except (ValueError, Base64Error):
        whole = b""
    position = int.from_bytes(whole[_CHECK_BYTES:])
    if len(whole) - _CHECK_BYTES not in _PLACE_BYTES or whole[:_CHECK_BYTES] != of or not position:
        shown = cursor if len(cursor) <= 40 else f"{cursor[:40]}..."
        raise ValueError(
            f"The cursor {shown!r} does not belong to this request. Send `next` of the page before, with the same "
            "filters, or begin without a cursor."
        )
    return position
