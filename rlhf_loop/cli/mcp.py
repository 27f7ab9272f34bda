"""`rlhf-loop mcp`: ranking, answering and rating as tools of a language model (Model Context Protocol, SDK 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from rlhf_loop.cli.common import operator, read_settings
from rlhf_loop.domain import Candidate, Review, ReviewerRole
from rlhf_loop.errors import RlhfLoopError

if TYPE_CHECKING:
    from rlhf_loop.answering import AnswerService

# What the tools give is without slots, which the SDK's schemas would take for defaults.
_DOOR = "mcp"
_MOST = 1_000


@dataclass(frozen=True)
class RankedText:
    """A text by its place in the list that was given, best first.

    `score` is the probability that an expert would rate it 4 or 5; `interaction_id` is for `rate`, where there is one.
    """

    index: int
    text: str
    score: float | None
    interaction_id: str | None


@dataclass(frozen=True)
class FoundAnswer:
    """A candidate for an answer, with its origin; `interaction_id` is for `rate`.

    `drafted_by` is the language model that wrote the text from what the origin names, if one did.
    """

    interaction_id: str
    text: str
    score: float | None
    source: str | None
    title: str | None
    url: str | None
    drafted_by: str | None


@dataclass(frozen=True)
class RankedAnswers:
    """Candidates, best first; `certain` is false where none is good enough, `degraded` names what did not work."""

    answers: tuple[FoundAnswer, ...]
    certain: bool | None
    degraded: dict[str, str]
    model_version: str | None


@click.command(short_help="Offer ranking, answering and rating to an assistant (MCP).")
@click.option("--reviewer", metavar="NAME", help="Whose word a rating is. Default: whoever runs this.")
@click.option(
    "--role",
    type=click.Choice(["expert", "end-user"]),
    default="end-user",
    show_default=True,
    help="Whether theirs is an expert's word.",
)
def mcp(reviewer: str | None, role: str) -> None:
    """Serve the Model Context Protocol on standard input and output: the tools rerank, answer and rate.

    Enter `rlhf-loop mcp` as the command of a server in the assistant's settings, with RLHF_DATABASE_URL and whatever
    else is set for `rlhf-loop serve`. Needs the extra [mcp].
    """
    from rlhf_loop.answering import AnswerService

    settings = read_settings()
    kind = ReviewerRole.EXPERT if role == "expert" else ReviewerRole.END_USER
    service = AnswerService(settings)
    try:
        mcp_server(
            service, reviewer=reviewer or operator().replace("cli", "mcp"), role=kind, share=settings.record_rankings
        ).run("stdio")
    finally:
        service.close()


def mcp_server(service: AnswerService, *, reviewer: str, role: ReviewerRole, share: float = 0.0) -> Any:
    """Return a server with the three tools; `share` of the rankings is recorded.

    Raises:
        MissingExtraError: the SDK is not installed.
    """
    from rlhf_loop.ranking import is_drawn
    from rlhf_loop.utils.extras import require
    from rlhf_loop.version import __version__

    server = require("mcp.server.mcpserver", "mcp").MCPServer(
        "rlhf-loop",
        version=__version__,
        instructions="Answers and texts ranked by a model that experts' ratings taught. Rate what turned out right or "
        "wrong: the next training learns from it.",
    )

    def rerank(query: str, documents: list[str]) -> list[RankedText]:
        """Rank documents by how good an answer each is to the question, best first; at most 1,000."""
        if not query.strip() or not 0 < len(documents) <= _MOST:
            raise ValueError(f"A question and 1 to {_MOST:,} documents are needed; there are {len(documents):,}.")
        kept = [place for place, text in enumerate(documents) if text.strip()]
        ranker = service.ranker()
        if ranker is None:
            raise ValueError("The encoder cannot be loaded, so nothing can be ranked. Run: rlhf-loop doctor")
        found = ranker.ranking(query, [Candidate(documents[place]) for place in kept])
        ids: Mapping[int, str] = {}
        if is_drawn(share):
            recorded = service.record_ranking(
                query, found.candidates, model_version=found.model_version, door=_DOOR, caller=reviewer
            )
            ids = recorded.interaction_ids if recorded else {}
        return [
            RankedText(kept[of.position], of.candidate.text, of.score, ids.get(of.position)) for of in found.candidates
        ]

    def answer(question: str) -> RankedAnswers:
        """Find answers to a question in the configured sources, best first; each is recorded and can be rated."""
        found = service.answer(question)
        answers = []
        for each in found.ranked:
            of = each.origin
            shown = (each.interaction_id, each.text, each.score)
            answers.append(FoundAnswer(*shown, of.source, of.title, of.url, of.drafted_by))
        return RankedAnswers(tuple(answers), found.certain, dict(found.degraded), found.model_version)

    def rate(interaction_id: str, rating: int, comment: str | None = None, correction: str | None = None) -> str:
        """Say how good an answer is, 1 (wrong) to 5 (exactly right); a correction is the answer as it should be."""
        review = Review(rating=rating, comment=comment, correction=correction, reviewer=reviewer, role=role)
        try:
            stored = service.rate(interaction_id, review)
        except LookupError:
            said = f"There is no answer {interaction_id[:100]!r}. Give the id that answer or rerank gave."
            raise ValueError(said) from None
        return "Stored." if stored else "Kept; it is stored as soon as the database is back."

    refusal = require("mcp.server.mcpserver.exceptions", "mcp").ToolError
    for tool in (rerank, answer, rate):
        server.add_tool(_saying(tool, refusal))
    return server


def _saying(tool: Callable[..., Any], refusal: type[Exception]) -> Callable[..., Any]:
    """Return a tool whose deliberate errors reach the assistant: the SDK keeps all others to itself."""

    @wraps(tool)
    def call(*args: Any, **named: Any) -> Any:
        try:
            return tool(*args, **named)
        except (ValueError, RlhfLoopError) as error:
            raise refusal(str(error)) from error

    return call
