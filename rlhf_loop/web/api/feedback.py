"""`/v1/feedback`: ratings from other programs, in a format of our own or in that of the tool they come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, get_args

from flask import Response, request, url_for
from pydantic import BaseModel, Field, RootModel, model_validator
from sqlalchemy.engine import Connection
from werkzeug.exceptions import Conflict, Forbidden, Gone, UnprocessableEntity

from rlhf_loop.accounts import tokens
from rlhf_loop.answering import AnswerService
from rlhf_loop.domain import ANSWERS, Rating, Review, ReviewerRole, User, final_id, ranked_id, ranking_of, rating_fields
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange import feedback
from rlhf_loop.exchange.feedback import AnnotationTarget, Fate, OtherTextsError
from rlhf_loop.exchange.fields import to_time
from rlhf_loop.exchange.formats.base import FileRow, Labels, Layout, NumberScale
from rlhf_loop.exchange.formats.label_studio import AnnotationReview, LabelStudioLayout, read_event
from rlhf_loop.exchange.reader import TOO_DEEP, layout_of
from rlhf_loop.store import interactions, rankings
from rlhf_loop.store.idempotency import StoredAnswer
from rlhf_loop.store.queries import interaction_key
from rlhf_loop.store.rankings import StoredRanking
from rlhf_loop.utils.rows import Record
from rlhf_loop.utils.text import clause, listed, unstorable
from rlhf_loop.web import logs
from rlhf_loop.web.api.applications import (
    Speaker,
    is_own,
    protect_expert,
    protect_ranking,
    read_address,
    read_body,
    resolve_author,
    written,
)
from rlhf_loop.web.api.openapi import Api, json_body, json_reply, problems
from rlhf_loop.web.api.v1 import ID_ERRORS, KEY, LOCATION, REPLAYED, REVIEW, WRITE_ERRORS, stored_review
from rlhf_loop.web.api.v1_schemas import NEW_ID, Date, Id, Name, NoParameters, ReviewIn, ReviewOut, Role, Words
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.problems import refusals
from rlhf_loop.web.process import Database
from rlhf_loop.web.schemas import shortened

_SCALE = r"^-?\d{1,9}(\.\d{1,9})?,-?\d{1,9}(\.\d{1,9})?$"
#: As the other, and of a name may follow a second value.
_MEANINGS = r"^[^=,]+=[^=,]+(,[^=,]+(=[^=,]+)?){0,40}$"
_PAIRS = r"^[^=,]{1,200}=[^=,]{1,200}(,[^=,]{1,200}=[^=,]{1,200}){0,20}$"


class FeedbackIn(ReviewIn, extra="forbid", strict=True, title="FeedbackInput"):
    """A review of an answer that is stored here, or that comes with it, or of a recorded ranking."""

    ranking: Annotated[
        Id | None,
        Field(
            description="A recorded ranking, by its `X-RLHF-Ranking-Id`: rate its document `index`, or the `answer` "
            "that was made of it."
        ),
    ] = None
    index: Annotated[
        Annotated[int, Field(ge=0)] | None,
        Field(
            description="Which document of the ranking, by its index in the request; not needed where one went back."
        ),
    ] = None
    answer: Annotated[
        Words | None,
        Field(description="The final answer that a language model made of the documents, to be rated itself."),
    ] = None
    used: Annotated[
        Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1_000)] | None,
        Field(description="The indexes of the documents that the answer was made of. Default: all that went back."),
    ] = None
    interaction_id: Annotated[
        Id | None, Field(description="Which answer: the id under which it was recorded, served or imported.")
    ] = None
    prompt: Annotated[
        Words | None, Field(description="The question. Together with the answer it is enough, and is known again.")
    ] = None
    response: Annotated[Words | None, Field(description="The answer that was given.")] = None
    source: Annotated[
        Name | None, Field(description="Where the answer comes from: a source, or a model; of `answer` the model.")
    ] = None
    candidate_group: Annotated[
        Name | None, Field(description="The same for all answers that were offered together for one question.")
    ] = None
    created_at: Annotated[Date | None, Field(description="When the answer was given. Default: now.")] = None
    rated_at: Annotated[
        Date | None,
        Field(description="When they said so. What is older than what they said since changes nothing. Default: now."),
    ] = None

    @model_validator(mode="after")
    def _about_something(self) -> Self:
        if self.ranking is not None:
            return self._about_ranking()
        if lost := [name for name in ("index", "answer", "used") if getattr(self, name) is not None]:
            raise ValueError(f"ranking is missing, to which {' and '.join(lost)} would belong: send its id")
        if (self.prompt is None) != (self.response is None):
            raise ValueError("prompt and response belong together: send both, or an interaction_id alone")
        if self.prompt is None and self.interaction_id is None:
            raise ValueError("interaction_id is missing: send it, or prompt and response")
        return self

    def _about_ranking(self) -> Self:
        names = ("interaction_id", "prompt", "response", "candidate_group")
        if others := [name for name in names if getattr(self, name) is not None]:
            raise ValueError(f"ranking names the answer already: send it without {' and '.join(others)}")
        if self.answer is not None and self.index is not None:
            raise ValueError("index is a document of the ranking, answer a text of its own: send one of them")
        if self.used is not None and self.answer is None:
            raise ValueError("used says what an answer was made of: send the answer, too")
        return self

    def final(self, ranking: StoredRanking) -> Rating:
        """Return the final answer that was made of a ranking, as it is stored."""
        assert self.answer is not None
        return replace(
            self.said(),
            user_prompt=ranking.query,
            ai_response=self.answer,
            candidate_group=f"{ANSWERS}{ranking.id}",
            external_id=final_id(ranking.id, self.answer),
            drafted_by=self.source,
        )

    def said(self) -> Rating:
        """Return it as it is stored; without texts of its own those are a dash."""
        return Rating(
            user_prompt=self.prompt or "-",
            ai_response=self.response or "-",
            source=self.source,
            candidate_group=self.candidate_group,
            external_id=self.interaction_id,
            created_at=self.created_at,
            **rating_fields(self.review(reviewer=None, role=ReviewerRole.EXPERT, reviewed_at=self.rated_at)),
        )


class ToolRecordIn(RootModel[dict[str, Any] | list[dict[str, Any]]], title="ToolRecord"):
    """One record as the tool itself has it, or several in an array."""

    def record(self) -> dict[str, Any]:
        """Return it; several as a page of the tool's API has them."""
        return {"data": self.root} if isinstance(self.root, list) else self.root


class ToolParameters(BaseModel, extra="forbid"):
    """Options for reading a tool's record, in the address, since the tool knows nothing of them."""

    thumbs: Annotated[bool, Field(description="Numbers are thumbs: 1 is up, 0 and -1 are down.")] = False
    scale: Annotated[
        Annotated[str, Field(pattern=_SCALE, max_length=50)] | None,
        Field(description="Numbers go from the first to the second, `1,10`, and become 1 to 5."),
    ] = None
    good: Annotated[int, Field(ge=1, le=5, description="The rating that a thumb up stands for.")] = 5
    bad: Annotated[int, Field(ge=1, le=5, description="That of a thumb down.")] = 1
    score_name: Annotated[
        str, Field(min_length=1, max_length=200, description="Langfuse, Phoenix: the score that is the rating.")
    ] = "rating"
    columns: Annotated[
        Annotated[str, Field(pattern=_PAIRS, max_length=2000)] | None,
        Field(description="Label Studio: names of fields and controls, `rating=quality,user_prompt=frage`."),
    ] = None
    map: Annotated[
        Annotated[str, Field(pattern=_MEANINGS, max_length=2000)] | None,
        Field(
            description="Label Studio: the fields that tags show, or what controls are and compare, "
            "`txt-1=answer1,q2=rating,better=answer1,answer2`."
        ),
    ] = None
    role: Annotated[Role | None, Field(description="Whose word it is; `expert` needs the scope `reviews:expert`.")] = (
        None
    )


_Tool = Literal["langfuse", "openwebui", "label-studio", "phoenix", "dify", "ragflow", "librechat"]


class FeedbackTakenOut(BaseModel, title="FeedbackTaken"):
    """The effects of a tool's record."""

    tool: _Tool
    interactions: Annotated[int, Field(ge=0, description="Answers that were not known before.")]
    reviews: Annotated[int, Field(ge=0, description="Reviews that are new, or say something else now.")]
    preferences: Annotated[int, Field(ge=0, description="Preferences that were stored.")]
    withdrawn: Annotated[int, Field(ge=0, description="Reviews and preferences that were taken back.")]
    unread: Annotated[int, Field(ge=0, description="Annotations, scores and records, of several, that were not used.")]
    unused: Annotated[
        list[str], Field(description="Names of the scores, annotations and controls that were not used, and what else.")
    ] = []


TOOLS: tuple[_Tool, ...] = get_args(_Tool)
#: What is in an index, and how long it may be there, as everywhere in the API.
_NAMES = ("reviewer", "external_id", "source", "candidate_group")
_LONGEST_NAME = 200
#: The names of what was not used begin so, where it may be somebody's word.
_OF_RATERS = ("score", "annotation", "control", "correction", "comment", "result")
#: Indexes that an error names.
_INDEXES_SHOWN = 20
_COUNTED = ("interactions", "reviews", "preferences", "withdrawn", "unread")

_QUESTION, _ANSWER = "What helps against a migraine attack?", "Rest in a dark room."
_CHAT = {
    "q": {"id": "q", "parentId": None, "childrenIds": ["a"], "role": "user", "content": _QUESTION},
    "a": {"id": "a", "parentId": "q", "childrenIds": [], "role": "assistant", "content": _ANSWER, "model": "llama3.2"},
}
_RECORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "langfuse": (
        "Take a score or a trace of Langfuse.\n\n"
        "As its public API has them. Langfuse calls no webhook for scores, so send here what you send to "
        "`/api/public/scores`; the trace has to be known by its id, or comes along.",
        {"traceId": "t-1", "name": "rating", "value": 1, "dataType": "BOOLEAN", "comment": "Short and right."},
    ),
    "openwebui": (
        "Take a feedback of Open WebUI.\n\n"
        "As its export has it, with the snapshot of the chat. Open WebUI calls no webhook for ratings.",
        {
            "type": "rating",
            "user_id": "u-7",
            "data": {"rating": 1, "model_id": "llama3.2", "reason": "accurate_information", "comment": ""},
            "meta": {"chat_id": "c-1", "message_id": "a"},
            "snapshot": {"chat": {"id": "c-1", "chat": {"history": {"currentId": "a", "messages": _CHAT}}}},
        },
    ),
    "label-studio": (
        "Take a webhook of Label Studio.\n\n"
        "Annotations created, updated and deleted; other events change nothing. Enter this address in the project's "
        "settings, with the header `Authorization`, and leave 'Send payload' on.",
        {
            "action": "ANNOTATION_CREATED",
            "annotation": {
                "id": 17,
                "completed_by": 1,
                "result": [{"from_name": "rating", "to_name": "answer", "type": "rating", "value": {"rating": 4}}],
                "was_cancelled": False,
                "task": 3,
            },
            "task": {"id": 3, "data": {"prompt": _QUESTION, "answer": _ANSWER}},
            "project": {"id": 1},
        },
    ),
    "phoenix": (
        "Take an annotation or a span of Arize Phoenix.\n\n"
        "As its API has them; the span has to be known by its id, or comes along.",
        {
            "context": {"span_id": "67f6740bbe1ddc3f"},
            "attributes": {"input.value": _QUESTION, "output.value": _ANSWER},
            "annotations": [{"name": "rating", "annotator_kind": "HUMAN", "result": {"label": "thumbs-up"}}],
        },
    ),
    "dify": (
        "Take a feedback or a message of Dify.\n\n"
        "The body of its own `/messages/{message_id}/feedbacks` with the `message_id` in it, or what its API gives; "
        "the message has to be known by its id, or comes along.",
        {"id": "m-1", "query": _QUESTION, "answer": _ANSWER, "feedback": {"rating": "like"}},
    ),
    "ragflow": (
        "Take a session of RAGFlow, or the feedback to one message.\n\n"
        "As its API has sessions, or `message_id`, `thumbup` and `feedback` of a message that is known by that id.",
        {
            "id": "s-1",
            "messages": [
                {"role": "user", "content": _QUESTION, "id": "m-1"},
                {"role": "assistant", "content": _ANSWER, "id": "m-1", "thumbup": True},
            ],
        },
    ),
    "librechat": (
        "Take a conversation of LibreChat, or the feedback to one message.\n\n"
        "As its export has conversations, or `messageId` and `feedback` of a message that is known by that id.",
        {
            "conversationId": "c-1",
            "messages": [
                {"messageId": "q", "parentMessageId": None, "isCreatedByUser": True, "text": _QUESTION},
                {
                    "messageId": "a",
                    "parentMessageId": "q",
                    "isCreatedByUser": False,
                    "text": _ANSWER,
                    "feedback": {"rating": "thumbsUp", "tag": "accurate_reliable"},
                },
            ],
        },
    ),
}
_NEW = "For an answer that is not here yet the token needs the scope `interactions:write`, too."
_BY_ID = {"interaction_id": "ticket-4711.1", "thumb": "down", "reviewer": "patient-7"}
_RANKED = {"ranking": "0d9d6f3c6f0b4f0f8f5c1d2e3a4b5c6d", "index": 2, "rating": 4, "reviewer": "patient-7"}
_FINAL = {
    "ranking": "0d9d6f3c6f0b4f0f8f5c1d2e3a4b5c6d",
    "answer": "Lie down in a dark room, and take what your doctor gave you early.",
    "used": [2, 0],
    "source": "llama3.2",
    "thumb": "up",
    "reviewer": "patient-7",
}
_WITH_TEXTS = {
    "prompt": _QUESTION,
    "response": _ANSWER,
    "source": "llama3.2",
    "rating": 4,
    "comment": "Names no medicine.",
    "reviewer": "patient-7",
    "rated_at": "2026-11-23T09:30:00Z",
}


def add_routes(api: Api, database: Database, guard: Guard, service: AnswerService) -> None:
    """Add the routes of feedback."""

    @api.route(
        "POST /v1/feedback",
        "giveFeedback",
        description=_NEW,
        replies={
            200: json_reply(
                "What they said before is replaced, or was the same or newer.",
                ReviewOut,
                examples={"stored": REVIEW},
                headers=REPLAYED,
            ),
            201: json_reply("It is stored.", ReviewOut, examples={"stored": REVIEW}, headers={**LOCATION, **REPLAYED}),
            **WRITE_ERRORS,
            404: ID_ERRORS[404],
            **problems(
                409,
                410,
                words={
                    409: "The id's answer says something else, or the request is under way.",
                    410: "The ranking's documents are deleted.",
                },
            ),
        },
        parameters=[KEY],
        body=json_body(
            FeedbackIn,
            examples={
                "by id": _BY_ID,
                "with texts": _WITH_TEXTS,
                "a ranked document": _RANKED,
                "what was made of a ranking": _FINAL,
            },
        ),
        scope=tokens.REVIEW,
    )
    def v1_feedback() -> Response:
        """Say how good an answer is, be it known here or not; a later word of the same reviewer replaces it.

        The answer is named by its id, or by question and answer, or by both; or as one of a recorded ranking.
        """
        user = guard.bearer(tokens.REVIEW)
        read_address(NoParameters)
        given = read_body(FeedbackIn)
        speaker = resolve_author(guard, user, reviewer=given.reviewer, role=given.role)
        if ranking := given.ranking or ranking_of(given.interaction_id or ""):
            # It may be on its way still.
            service.settle(ranking)

        def take(connection: Connection) -> StoredAnswer:
            if given.ranking is not None:
                return reviewed(connection, *_of_ranking(connection, guard, user, given, given.ranking))
            said = given.said()
            key, new = _answer(connection, guard, user, said, elsewhere=given.prompt is None)
            if new and said.external_id is not None and not re.fullmatch(NEW_ID, said.external_id):
                raise UnprocessableEntity(
                    f"interaction_id is {shortened(said.external_id)!r}, which is not a valid id for a new answer: "
                    "letters, digits and . _ : ~ - are, up to 200 of them. Send another one, or none."
                )
            return reviewed(connection, key, feedback.answer_id(said))

        def reviewed(connection: Connection, key: int, id: str) -> StoredAnswer:
            own = is_own(user, given.reviewer)
            fate = _review(connection, guard, key, given.said().review, speaker, own=own)
            body = stored_review(connection, key, id, speaker.name).model_dump_json()
            if fate is Fate.ADDED:
                return StoredAnswer(201, body, url_for(".v1_reviews", id=id))
            return StoredAnswer(200, body)

        return written(database.engine(), user, given.model_dump_json(), take)

    for tool in TOOLS:
        api.route(
            f"POST /v1/feedback/{tool}",
            f"feedbackOf{tool.title().replace('-', '')}",
            description=f"{_NEW} A second time it changes nothing.",
            replies={
                200: json_reply(
                    "What became of it.",
                    FeedbackTakenOut,
                    examples={"taken": {"tool": tool, **dict.fromkeys(_COUNTED, 0), "reviews": 1}},
                    headers=REPLAYED,
                ),
                202: json_reply(
                    "Nothing in it was understood as a rating, though it has something that may be one: see `unused`.",
                    FeedbackTakenOut,
                    examples={"not taken": {"tool": tool, **dict.fromkeys(_COUNTED, 0), "unused": ["score helpful"]}},
                    headers=REPLAYED,
                ),
                **WRITE_ERRORS,
                **problems(404, 414, words={404: "The answer is not here, and does not come along."}),
            },
            parameters=[ToolParameters, KEY],
            body=json_body(ToolRecordIn, examples={"as it comes": _RECORDS[tool][1]}),
            scope=tokens.REVIEW,
        )(_of_tool(tool, database, guard))


def _of_tool(tool: _Tool, database: Database, guard: Guard) -> Callable[[], Response]:
    def take() -> Response:
        user = guard.bearer(tokens.REVIEW)
        asked = read_address(ToolParameters)
        sent = read_body(ToolRecordIn)
        record = sent.record()

        def work(connection: Connection) -> StoredAnswer:
            taking = _Taking(guard, user, tool, asked.role)
            try:
                layout = layout_of(tool, columns=_pairs(asked.columns), names=_pairs(asked.map), labels=_labels(asked))
                taking.take(connection, record, layout)
            except ImportFileError as error:
                raise UnprocessableEntity(_in_address(str(error))) from error
            except OtherTextsError as error:
                raise Conflict(str(error)) from error
            except RecursionError as error:
                raise UnprocessableEntity(f"The record cannot be taken: {TOO_DEEP}. Nothing was stored.") from error
            except ValueError as error:
                said = f"The record cannot be taken: {clause(error)}. Nothing was stored."
                raise UnprocessableEntity(_in_address(said)) from error
            body = taking.report().model_dump_json(exclude=None if taking.unused else {"unused"})
            return StoredAnswer(taking.status(), body)

        content = f"{asked.model_dump_json()}\n{sent.model_dump_json()}"
        return written(database.engine(), user, content, work)

    take.__name__, take.__doc__ = f"v1_feedback_{tool.replace('-', '_')}", _RECORDS[tool][0]
    return take


@dataclass(slots=True)
class _Taking:
    """Takes what a record of a tool says, and counts what became of it."""

    guard: Guard
    user: User
    tool: _Tool
    role: str | None
    #: The role of the tool's reviewers, as in an import, where nobody says so; None for the token's usual one.
    usual: str | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    unused: tuple[str, ...] = ()
    #: Whether anything in the record was understood as somebody's word.
    heard: bool = False

    def report(self) -> FeedbackTakenOut:
        """Return what became of it."""
        return FeedbackTakenOut(tool=self.tool, **self.counts, unused=list(self.unused))

    def status(self) -> int:
        """Return the status: whoever sent a rating that was not taken for one should not take it for stored."""
        carried = any(name.startswith(_OF_RATERS) for name in self.unused)
        return 202 if carried and not self.heard and not self.counts["withdrawn"] else 200

    def take(self, connection: Connection, record: Mapping[str, Any], layout: Layout) -> None:
        """Store what the record says.

        Raises:
            ValueError: it says nothing that could be stored.
            HTTPException: the token is not for this, or an answer is not here.
        """
        self.usual = layout.role if self.guard.has_scope(tokens.REVIEW_AS_EXPERT) else None
        if not isinstance(layout, LabelStudioLayout):
            rows = [*layout.rows(Record(1, tuple(record), tuple(record.values()))), *layout.finish()]
            if layout.passed_over and not rows:
                raise ValueError(f"it is about {layout.passed_over[0]}")
            self.heard = any(map(_speaks, rows))
            self._rows(connection, rows)
            self.counts["unread"] += layout.passed_over_count
            self.unused += layout.unused
            return
        happened = read_event(record)
        gone = [self._target(id) for id in dict.fromkeys(happened.deleted)]
        self._withdraw(connection, feedback.annotated(connection, gone))
        feedback.note_deleted(connection, gone, actor=self.user.name)
        unread, readable = list(happened.unread), list[tuple[AnnotationReview, list[FileRow]]]()
        for said in happened.said:
            try:
                readable.append((said, [] if said.annotation.cancelled else layout.task_rows(1, said.task)))
            except ValueError as error:
                # Of several the others are somebody's word all the same, and nobody sends them again.
                unread.append(str(error))
        if unread and not readable:
            raise ValueError(unread[0])
        self.counts["unread"] += len(unread) + layout.passed_over_count
        self.unused = (*layout.unused, *unread)
        self.heard = any(said.annotation.cancelled or any(map(_speaks, rows)) for said, rows in readable)
        for said, rows in readable:
            self._annotation(connection, said, rows)

    def _annotation(self, connection: Connection, said: AnnotationReview, rows: Sequence[FileRow]) -> None:
        of, at = said.annotation, to_time("updated_at", said.annotation.said_at)
        # A clock that is wrong would keep out all that comes later.
        at = at and min(at, datetime.now(UTC))
        if of.id is None:
            self._rows(connection, rows)
            return
        target = self._target(of.id)
        past = feedback.past(connection, target)
        if past.is_late(at):
            return
        now = self._rows(connection, rows)
        # Who skips a task after all takes back what they said of it; so does who takes the grade away, or prefers
        # neither of two answers any more.
        gone = [each for each in past.became if each not in now]
        self._withdraw(connection, [each for each in gone if not feedback.is_newer(connection, each, than=at)])
        if (set(now), at) != (set(past.became), past.last_at):
            feedback.note_annotation(connection, target, now, at=at, actor=self.user.name)

    def _rows(self, connection: Connection, rows: Iterable[FileRow]) -> list[AnnotationTarget]:
        """Store what the rows say; return what that is now, whether it is new or not."""
        found, rows = list[AnnotationTarget](), list(rows)
        places = self._places(connection, rows)
        for row in rows:
            if row.rating is None:
                raise ValueError(row.reason)
            speaker = self._speaker(row.rating)
            answers = [places[id(row.rating)]]
            if row.worse is not None:
                answers.append(places[id(row.worse)])
                fate = self._prefer(connection, answers, speaker, row.rating.rated_at)
                self.counts["preferences"] += fate is not Fate.KEPT
            elif row.rating.rating is not None:
                own = is_own(self.user, row.rating.reviewer)
                fate = _review(connection, self.guard, answers[0], row.rating.review, speaker, own=own)
                self.counts["reviews"] += fate is not Fate.KEPT
            else:
                if row.taken_back and row.rating.reviewer is not None:
                    self._taken_back(connection, AnnotationTarget(speaker.name, (answers[0],)), row.rating.rated_at)
                elif row.rating.feedback_comment or row.rating.corrected_response:
                    # A comment, or a correction, needs a rating to stand beside.
                    self.counts["unread"] += 1
                    self.unused = tuple(dict.fromkeys((*self.unused, "comments and corrections without a rating")))
                continue
            found.append(AnnotationTarget(speaker.name, tuple(sorted(answers))))
        return found

    def _taken_back(self, connection: Connection, became: AnnotationTarget, at: datetime | None) -> None:
        # Whoever is named and has no grade has taken theirs away, such as a thumb in Open WebUI.
        there = feedback.annotated_role(connection, became) is not None
        if there and not feedback.is_newer(connection, became, than=at):
            self._withdraw(connection, [became])

    def _places(self, connection: Connection, rows: Sequence[FileRow]) -> dict[int, int]:
        """Find or add all answers, and lock them, everybody in the same order: else two could wait for each other.

        Return the answers' keys by the ids of what the rows say.
        """
        said = {id(each): (each, row) for row in rows for each in (row.rating, row.worse) if each is not None}
        places = {
            rating_id: self._placed(connection, rating, elsewhere=row.texts_elsewhere)
            for rating_id, (rating, row) in sorted(said.items(), key=lambda item: feedback.answer_id(item[1][0]))
        }
        for key in sorted(set(places.values())):
            interactions.lock(connection, key)
        return places

    def _withdraw(self, connection: Connection, gone: Iterable[AnnotationTarget]) -> None:
        for became in gone:
            role = feedback.annotated_role(connection, became)
            protect_expert(self.guard, role, became.reviewer, own=False)
            feedback.withdraw(connection, became)
            self.counts["withdrawn"] += 1

    def _placed(self, connection: Connection, rating: Rating, *, elsewhere: bool = False) -> int:
        for name in _NAMES:
            if len(getattr(rating, name) or "") > _LONGEST_NAME:
                raise ValueError(f"{name} has more than {_LONGEST_NAME} characters")
        key, new = _answer(connection, self.guard, self.user, rating, elsewhere=elsewhere)
        self.counts["interactions"] += new
        return key

    def _prefer(
        self, connection: Connection, answers: Sequence[int], speaker: Speaker, preferred_at: datetime | None
    ) -> Fate:
        better, worse = answers
        stored = interactions.stored_preference_role(connection, better, worse, speaker.name)
        protect_expert(self.guard, stored, speaker.name, own=False)
        return feedback.take_preference(
            connection, better, worse, reviewer=speaker.name, role=speaker.role, preferred_at=preferred_at
        )

    def _speaker(self, rating: Rating) -> Speaker:
        return resolve_author(
            self.guard, self.user, reviewer=self._plain(rating.reviewer), role=self.role or self.usual
        )

    def _plain(self, reviewer: str | None) -> str | None:
        # A user who is named as the tool speaks for the very reviewers that an import of its files names.
        return None if reviewer is None else reviewer.removeprefix(f"{self.tool}:")

    def _target(self, id: str) -> str:
        if unstorable(id):
            raise ValueError(f"the id of an annotation is {id[:60]!a}, which cannot be stored")
        return f"{self.tool}:{self.user.id}:{id}"


def _of_ranking(connection: Connection, guard: Guard, user: User, given: FeedbackIn, id: str) -> tuple[int, str]:
    """Return the key and the id of the answer that feedback on a ranking is about, which it may bring along.

    Raises:
        NotFound, Gone: there is no such ranking, or none any more.
        Forbidden: it is of another application; or it brings a new answer, and the token is not for that.
        UnprocessableEntity: the ranking does not have this document.
    """
    with refusals():
        try:
            ranking = rankings.find(connection, id)
        except rankings.PurgedError as error:
            raise Gone(str(error)) from error
    protect_ranking(guard, user, None if ranking.caller is None else (id, ranking.caller))
    known = list(ranking.documents)
    if given.answer is None:
        if given.index is None and ranking.returned != 1:
            gone = "not all of what went back could be recorded"
            if ranking.returned != 0:
                gone = f"{ranking.returned or len(known)} documents of this ranking went back"
            raise UnprocessableEntity(
                f"index is missing: {gone}. Send the index of the one that is rated, or the answer that was made of "
                "them."
            )
        index = known[0] if given.index is None else given.index
        return ranking.documents[_recorded(index, "index", known)], ranked_id(id, index)
    used = known[: ranking.returned] if given.used is None else given.used
    passages = sorted({ranking.documents[_recorded(index, "used", known)] for index in used})
    final = given.final(ranking)
    key, _ = _answer(connection, guard, user, final, elsewhere=False)
    rankings.note_used(connection, key, passages)
    return key, feedback.answer_id(final)


def _recorded(index: int, name: str, known: Sequence[int]) -> int:
    if index not in known:
        shown = listed([str(each) for each in sorted(known)[:_INDEXES_SHOWN]])
        raise UnprocessableEntity(
            f"{name} is {index}, which is not a recorded document of this ranking. Send one that is: {shown}"
            f"{', ...' if len(known) > _INDEXES_SHOWN else ''}. RLHF_RECORD_DOCUMENTS says how many are kept."
        )
    return index


def _answer(connection: Connection, guard: Guard, user: User, rating: Rating, *, elsewhere: bool) -> tuple[int, bool]:
    """Return the key of the answer, and whether it is new.

    Raises:
        NotFound, Conflict: the id is unknown and there are no texts, or it has others.
        Forbidden: it is new, and the token is not for that, or it was ranked for another application.
    """
    with refusals():
        if elsewhere:
            key = interaction_key(connection, rating.external_id or "")
            protect_ranking(guard, user, rankings.caller_of(connection, key))
            return key, False
        try:
            if (found := feedback.find_answer(connection, rating)) is not None:
                if rating.external_id is not None:
                    protect_ranking(guard, user, rankings.caller_of(connection, found))
                return found, False
            if not guard.has_scope(tokens.WRITE):
                raise Forbidden(
                    f"This answer is not here yet, and to add it the token needs the scope {tokens.WRITE}. Ask an "
                    "admin for another token, or record the answer first."
                )
            return feedback.add_answer(connection, rating, actor=user.name), True
        except OtherTextsError as error:
            raise Conflict(str(error)) from error


def _review(connection: Connection, guard: Guard, key: int, review: Review, speaker: Speaker, *, own: bool) -> Fate:
    stored = interactions.stored_role(connection, key, speaker.name)
    protect_expert(guard, stored, speaker.name, own=own)
    fate = feedback.take_review(connection, key, replace(review, reviewer=speaker.name, role=speaker.role))
    if fate is not Fate.KEPT:
        logs.begin(request).ratings.append(speaker.role)
    return fate


def _speaks(row: FileRow) -> bool:
    """Tell whether a row is somebody's word on an answer."""
    return row.worse is not None or row.taken_back or (row.rating is not None and row.rating.rating is not None)


def _in_address(said: str) -> str:
    """Translate the options of a command into parameters of the address."""
    said = re.sub(r"--map (\S+=)", r"?map=\1", said)
    options = " Here an option is a part of the address: --scale 0,1 is ?scale=0,1, and --thumbs is ?thumbs=true."
    return said + options if " --" in said else said


def _labels(asked: ToolParameters) -> Labels:
    scale = None
    if asked.scale is not None:
        lowest, _, highest = asked.scale.partition(",")
        scale = NumberScale(float(lowest), float(highest))
    return Labels(good=asked.good, bad=asked.bad, thumbs=asked.thumbs, score_name=asked.score_name, scale=scale)


def _pairs(given: str | None) -> dict[str, str]:
    # A comma inside of a value has no equals sign behind it before the next one.
    pairs = [pair.partition("=") for pair in re.split(r",(?=[^,=]*=)", given or "") if pair]
    return {left.strip(): right.strip() for left, _, right in pairs}
