"""Which answer teaches most: the rules of the queue, without a database.

The value of an answer that waits is the largest of what speaks for it:

- the live model is uncertain: 1 - 2 |p - 0.5| for its probability p that the answer is good. Where the live model has
  not scored it yet, p is the score with which it was served; without one the value is 0.5;
- experts disagree (their ratings are two grades or more apart): 1, until five have rated it;
- the best two answers of its question are close, and it is one of them: 0.9 at no distance, 0 from 0.2 on;
- somebody has rated it, and it is to have several raters (overlap): 0.3.

The largest value comes first, of equal values the newest answer. Two kinds of turns go before that. One in ten is
random, or the queue would never see what the model is wrongly sure of. And as many turns as second opinions need go to
answers that wait for one, so that they neither pile up nor come in a row.

A question belongs to the overlap by its name alone, so all its answers do, in every process, for good.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from rlhf_loop.config import Settings

#: The share of turns that give a random answer.
RANDOM_SHARE = 0.1
#: Experts disagree from this many grades on, and are this many at most.
DISAGREEMENT, MOST_EXPERTS = 2, 5

_UNKNOWN = 0.5
_OF_OVERLAP = 0.3
_CLOSE, _CLOSEST_VALUE = 0.2, 0.9


class Why(StrEnum):
    """Why an answer was given to a rater."""

    UNCERTAIN = "uncertain"
    DISAGREEMENT = "disagreement"
    CLOSE = "close"
    OVERLAP = "overlap"
    RECENT = "recent"
    RANDOM = "random"


class Turn(StrEnum):
    """What kind of answer comes next."""

    BEST = "best"
    SECOND_OPINION = "second opinion"
    RANDOM = "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of an answer that waits: `experts` rated it, `spread` grades apart; None is unknown."""

    interaction_id: int
    score: float | None = None
    margin: float | None = None
    experts: int = 0
    spread: int = 0


def value(facts: Facts) -> tuple[float, Why]:
    """Return how much a review of the answer teaches, from 0 to 1, and why."""
    if disagree(facts.experts, facts.spread):
        return 1.0, Why.DISAGREEMENT
    if facts.experts:
        return _OF_OVERLAP, Why.OVERLAP
    doubt = _UNKNOWN if facts.score is None else 1 - 2 * abs(facts.score - 0.5)
    close = 0.0 if facts.margin is None else max(0.0, _CLOSEST_VALUE * (1 - facts.margin / _CLOSE))
    if close > doubt:
        return close, Why.CLOSE
    return doubt, Why.UNCERTAIN if doubt > _UNKNOWN else Why.RECENT


def wanted(question: str, *, experts: int, spread: int, settings: Settings) -> int:
    """Return how many experts are to rate an answer to the question that so many have rated so far."""
    several = max(1, settings.review_overlap_raters) if in_overlap(question, settings.review_overlap) else 1
    return max(several, experts + 1) if disagree(experts, spread) else several


def disagree(experts: int, spread: int) -> bool:
    """Tell whether the experts differ so much that one more is asked."""
    return 2 <= experts < MOST_EXPERTS and spread >= DISAGREEMENT


def in_overlap(question: str, share: float) -> bool:
    """Tell whether the question's answers are to have several raters, for this share of all questions."""
    return part("overlap", question) < share


def turn(reviewer: str, previous: int | None, settings: Settings) -> Turn:
    """Return what kind of answer a rater gets after the previous one; the same for the same arguments."""
    drawn = part("turn", reviewer, str(previous))
    if drawn < RANDOM_SHARE:
        return Turn.RANDOM
    further = min(1.0, settings.review_overlap) * max(0, settings.review_overlap_raters - 1)
    # Of 1 + `further` ratings that an answer gets on average, so many are second opinions.
    return Turn.SECOND_OPINION if drawn < RANDOM_SHARE + (1 - RANDOM_SHARE) * further / (1 + further) else Turn.BEST


def part(*words: str) -> float:
    """Return a number from 0 up to but not 1 that only depends on the words, evenly spread."""
    digest = hashlib.sha256("\x1f".join(words).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
