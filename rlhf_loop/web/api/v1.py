"""The API for applications: `/v1/interactions`, reviews and preferences, by token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from flask import Blueprint, Response, request, url_for
from pydantic_core import from_json
from sqlalchemy.engine import Connection
from werkzeug.exceptions import Conflict, NotFound, UnprocessableEntity

from rlhf_loop.accounts import tokens
from rlhf_loop.config import Settings
from rlhf_loop.domain import ReviewerRole, User
from rlhf_loop.store import audit, interactions, queries
from rlhf_loop.store import interactions as preferences
from rlhf_loop.store.idempotency import StoredAnswer
from rlhf_loop.store.interactions import put_interactions, put_preference, put_review, withdraw_review
from rlhf_loop.store.queries import read_review, row_id
from rlhf_loop.utils.text import unstorable
from rlhf_loop.web import logs
from rlhf_loop.web.api.answers import json_response, parsed, whole_body
from rlhf_loop.web.api.applications import (
    Speaker,
    is_own,
    owner,
    read_address,
    read_body,
    read_more,
    refuse_experts_word,
    stored_name,
    whose_word,
)
from rlhf_loop.web.api.idempotency import written
from rlhf_loop.web.api.v1_schemas import (
    InteractionBatchIn,
    InteractionFilters,
    InteractionIn,
    InteractionOut,
    InteractionPageOut,
    NothingAsked,
    PreferenceIn,
    PreferenceOut,
    RecordedBatchOut,
    RecordedOut,
    ReviewAsked,
    ReviewedInteractionOut,
    ReviewIn,
    ReviewOut,
    ReviewPageOut,
    ReviewsAsked,
)
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.process import Database
from rlhf_loop.web.schemas import shortened


def add_routes(web: Blueprint, settings: Settings, database: Database, guard: Guard) -> None:
    """Give the blueprint these routes.

    Slashes are not merged: that would be a redirect to what another id names.
    """

    @web.post("/v1/interactions")
    def v1_record() -> Response:
        user = guard.bearer(tokens.WRITE)
        read_address(NothingAsked)
        given = _interactions()
        batch = given.interactions if isinstance(given, InteractionBatchIn) else [given]
        speakers = [_speaker(guard, user, item.review) if item.review else None for item in batch]
        if any(speakers):
            guard.bearer(tokens.REVIEW)

        def record(connection: Connection) -> StoredAnswer:
            found = _stored(connection, user, batch, speakers)
            if isinstance(given, InteractionBatchIn):
                return StoredAnswer(201, RecordedBatchOut(interactions=found).model_dump_json())
            return StoredAnswer(201, found[0].model_dump_json(), url_for(".v1_interaction", id=found[0].id))

        return written(database.engine(), owner(user), given.model_dump_json(), record)

    @web.get("/v1/interactions")
    def v1_interactions() -> Response:
        guard.bearer(tokens.READ)
        asked = read_address(InteractionFilters)
        try:
            page = queries.interactions(database.engine(), asked.filters(), limit=asked.limit, cursor=asked.cursor)
        except ValueError as error:
            raise UnprocessableEntity(str(error)) from error
        return json_response(InteractionPageOut.of(page))

    @web.get("/v1/interactions/<path:id>", merge_slashes=False)
    def v1_interaction(id: str) -> Response:
        guard.bearer(tokens.READ)
        read_address(NothingAsked)
        try:
            entry, page = queries.interaction(database.engine(), _storable(id))
        except LookupError as error:
            raise NotFound(str(error)) from error
        reviews = [ReviewOut.of(id, review) for review in page.reviews]
        return json_response(
            ReviewedInteractionOut(interaction=InteractionOut.of(entry), reviews=reviews, next=page.next)
        )

    @web.get("/v1/interactions/<path:id>/reviews", merge_slashes=False)
    def v1_reviews(id: str) -> Response:
        guard.bearer(tokens.READ)
        asked = read_address(ReviewsAsked)
        try:
            page = queries.reviews(database.engine(), _storable(id), limit=asked.limit, cursor=asked.cursor)
        except LookupError as error:
            raise NotFound(str(error)) from error
        except ValueError as error:
            raise UnprocessableEntity(str(error)) from error
        return json_response(ReviewPageOut.of(id, page))

    @web.post("/v1/interactions/<path:id>/reviews", merge_slashes=False)
    def v1_review(id: str) -> Response:
        user = guard.bearer(tokens.REVIEW)
        read_address(NothingAsked)
        given = read_body(ReviewIn)
        speaker = _speaker(guard, user, given)

        def review(connection: Connection) -> StoredAnswer:
            number = _number(connection, id)
            stored = interactions.stored_role(connection, number, speaker.name)
            refuse_experts_word(guard, stored, speaker.name, own=is_own(user, given.reviewer))
            new = _put(connection, number, given, speaker)
            body = ReviewOut.of(id, read_review(connection, number, reviewer=speaker.name)).model_dump_json()
            return StoredAnswer(201, body, url_for(".v1_reviews", id=id)) if new else StoredAnswer(200, body)

        return written(database.engine(), owner(user), given.model_dump_json(), review)

    @web.delete("/v1/interactions/<path:id>/reviews", merge_slashes=False)
    def v1_withdraw(id: str) -> Response:
        user = guard.bearer(tokens.REVIEW)
        asked = read_address(ReviewAsked)

        def withdraw(connection: Connection) -> StoredAnswer:
            number, reviewer = _number(connection, id), stored_name(user, asked.reviewer)
            try:
                stored = interactions.stored_role(connection, number, reviewer)
                refuse_experts_word(guard, stored, reviewer, own=is_own(user, asked.reviewer))
                withdraw_review(connection, number, reviewer=reviewer)
            except LookupError as error:
                raise NotFound(f"There is no review of {shortened(id)!r} by {reviewer!r}. Nothing was done.") from error
            return StoredAnswer(204, "")

        return written(database.engine(), owner(user), asked.model_dump_json(), withdraw)

    @web.post("/v1/preferences")
    def v1_prefer() -> Response:
        user = guard.bearer(tokens.REVIEW)
        read_address(NothingAsked)
        given = read_body(PreferenceIn)
        speaker = _speaker(guard, user, given)

        def prefer(connection: Connection) -> StoredAnswer:
            chosen, rejected = _number(connection, given.chosen_id), _number(connection, given.rejected_id)
            stored = preferences.stored_preference_role(connection, chosen, rejected, speaker.name)
            refuse_experts_word(guard, stored, speaker.name, own=is_own(user, given.reviewer))
            try:
                new = put_preference(
                    connection,
                    chosen,
                    rejected,
                    reviewer=speaker.name,
                    role=speaker.role,
                    tie=given.tie,
                    comment=given.comment,
                )
            except ValueError as error:
                raise UnprocessableEntity(str(error)) from error
            body = PreferenceOut(
                chosen_id=given.chosen_id,
                rejected_id=given.rejected_id,
                tie=given.tie,
                reviewer=speaker.name,
                role=speaker.role.value,
                comment=given.comment or None,
            )
            return StoredAnswer(201 if new else 200, body.model_dump_json())

        return written(database.engine(), owner(user), given.model_dump_json(), prefer)


def _interactions() -> InteractionIn | InteractionBatchIn:
    """Read one interaction or several: whoever sends the field `interactions` means several."""
    read_more()
    try:
        several = "interactions" in from_json(whole_body())
    except (ValueError, TypeError):
        # No JSON, or no object: then `parsed` says so.
        several = False
    return parsed(InteractionBatchIn) if several else parsed(InteractionIn)


def _speaker(guard: Guard, user: User, given: ReviewIn | PreferenceIn) -> Speaker:
    return whose_word(guard, user, reviewer=given.reviewer, role=given.role)


def _stored(
    connection: Connection, user: User, batch: Sequence[InteractionIn], speakers: Sequence[Speaker | None]
) -> list[RecordedOut]:
    named = Counter(item.id for item in batch if item.id)
    if doubled := sorted(id for id, times in named.items() if times > 1):
        raise UnprocessableEntity(f"The id {doubled[0]!r} is there more than once. Give each interaction its own.")
    if taken := queries.known(connection, list(named)):
        raise Conflict(
            f"There is an interaction with the id {min(taken)!r} already, so nothing was stored. Review that one, or "
            "send another id, or none."
        )
    names = [item.id or uuid4().hex for item in batch]
    ratings = [replace(item.rating(), external_id=name) for item, name in zip(batch, names, strict=True)]
    try:
        numbers = put_interactions(connection, ratings)
    except ValueError as error:
        # All else was looked at before.
        raise Conflict("Somebody else has just taken one of these ids, so nothing was stored. Try again.") from error
    audit.note(connection, user.name, "interactions.added", f"interaction:{numbers[0]}", {"count": len(numbers)})
    for number, item, speaker in zip(numbers, batch, speakers, strict=True):
        if item.review and speaker:
            _put(connection, number, item.review, speaker)
    return [_recorded(*each) for each in zip(names, batch, speakers, strict=True)]


def _recorded(id: str, item: InteractionIn, speaker: Speaker | None) -> RecordedOut:
    # The consensus of one is what that one says.
    rating = item.review.stars if item.review else None
    role = speaker.role if speaker else None
    return RecordedOut(
        id=id,
        rating=rating if role is ReviewerRole.EXPERT else None,
        end_user_rating=rating if role is ReviewerRole.END_USER else None,
    )


def _put(connection: Connection, number: int, given: ReviewIn, speaker: Speaker) -> bool:
    logs.begin(request).ratings.append(speaker.role)
    return put_review(
        connection,
        number,
        reviewer=speaker.name,
        rating=given.stars,
        comment=given.comment,
        correction=given.correction,
        harmful=given.harmful,
        role=speaker.role,
    )


def _number(connection: Connection, id: str) -> int:
    try:
        return row_id(connection, _storable(id))
    except LookupError as error:
        raise NotFound(str(error)) from error


def _storable(id: str) -> str:
    if unstorable(id):
        raise NotFound(queries.unknown(id))
    return id
