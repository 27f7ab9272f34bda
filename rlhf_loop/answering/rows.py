"""What is kept of an answered question: its candidates, each of which can be rated, and how it was served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import unquote_plus

from rlhf_loop.answering.experiments import Order
from rlhf_loop.domain import RankedAnswer, Rating, Served, prompt_key

# What stands there for a reason that quotes the question.
_QUOTES = "the reason quotes the question, so only the log has it"
#: Reasons are cut off, and then so is the question in them.
_ENOUGH_CHARS = 40


def recorded_answers(
    query: str,
    ranked: Sequence[RankedAnswer],
    order: Order,
    *,
    group: str,
    model_version: str | None,
    now: datetime,
) -> list[Rating]:
    """Return the candidates in the order in which they are served; their rank is that in which they came."""
    return [
        Rating(
            user_prompt=query,
            ai_response=answer.text,
            source=answer.source,
            candidate_group=group,
            shown_rank=of.position + 1,
            score=answer.score,
            model_version=model_version,
            external_id=answer.interaction_id,
            created_at=now,
            title=answer.title,
            url=answer.url,
            licence=answer.licence,
            retrieved_at=answer.retrieved_at,
        )
        for answer, of in zip(ranked, order.candidates, strict=True)
    ]


def served_as(
    query: str,
    ranked: Sequence[RankedAnswer],
    order: Order,
    *,
    group: str,
    model_version: str | None,
    degraded: Mapping[str, str],
    timings: Mapping[str, float],
    now: datetime,
) -> Served:
    """Return how the question was served; nothing of what was asked is in it."""
    names = [answer.interaction_id for answer in ranked]
    troubles = {**degraded, "experiment": order.trouble} if order.trouble else degraded
    return Served(
        candidate_group=group,
        served_at=now,
        policy=order.policy,
        propensity=order.propensity,
        experiment=order.experiment,
        model_version=model_version,
        first_id=names[0] if names else None,
        teams=dict(zip(names, order.teams, strict=True)) if order.teams else {},
        degraded={name: _without(query, reason) for name, reason in troubles.items()},
        timings=timings,
    )


def _without(query: str, reason: str) -> str:
    """Return the reason as it may be kept: a source may say what it was asked, be it in an address."""
    return _QUOTES if prompt_key(query)[:_ENOUGH_CHARS] in prompt_key(unquote_plus(reason)) else reason
