"""Validation of ratings: every way into the database asks here, so that no reader has to doubt what is in it."""

from __future__ import annotations

import operator
from dataclasses import replace
from datetime import datetime
from typing import Any

from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.utils.text import blank, tidied, unstorable
from rlhf_loop.utils.translation import Message

RATINGS = range(1, 6)

_OPTIONAL_TEXTS = (
    "feedback_comment",
    "corrected_response",
    "reviewer",
    "source",
    "candidate_group",
    "model_version",
    "external_id",
    "title",
    "url",
    "licence",
    "drafted_by",
)
_NEEDED_TEXTS = ("user_prompt", "ai_response")
#: Texts whose line ends and Unicode form say nothing.
_PROSE = (*_NEEDED_TEXTS, "feedback_comment", "corrected_response")
#: By these somebody or something is known again: one in which nothing can be seen is an error, and not none.
_REFUSED_BLANK = ("reviewer", "external_id")
_NUMBERS = ("rating", "shown_rank", "score", "harmful")
_WHOLE = ("rating", "shown_rank")
_TIMES = ("created_at", "rated_at", "retrieved_at")
_FIRST_YEAR, _LAST_YEAR = 1900, 2100


def cleaned(rating: Rating) -> Rating:
    """Tidy the texts, take an optional one with nothing to see for none, and numpy's numbers for Python's.

    Files cannot tell an empty text from none.
    """
    if not isinstance(rating, Rating):
        return rating
    better: dict[str, Any] = {
        name: tidy
        for name in _PROSE
        if isinstance(value := getattr(rating, name), str) and (tidy := tidied(value)) != value
    }
    if isinstance(name := rating.reviewer, str) and not blank(name) and (tidy := tidied(name).strip()) != name:
        # Typed in another form or with a blank, it would be two people, whose change of mind counts as two reviews.
        better["reviewer"] = tidy
    better |= {
        name: None
        for name in _OPTIONAL_TEXTS
        if isinstance(value := getattr(rating, name), str) and (not value if name in _REFUSED_BLANK else blank(value))
    }
    # A column of a table has such; a database would store their bytes.
    better |= {name: value.item() for name in _NUMBERS if _is_of_numpy(value := getattr(rating, name))}
    # Nor has such a column whole numbers any more as soon as one of them is missing.
    for name in _WHOLE:
        value = better.get(name, getattr(rating, name))
        if isinstance(value, float) and value.is_integer():
            better[name] = int(value)
    return replace(rating, **better) if better else rating


def problem(rating: Rating, *, rated: bool = False) -> str | None:
    """Say why a rating cannot be stored, with the value seen; None if it can. `rated` says that it needs its grade."""
    if not isinstance(rating, Rating):
        return f"it is {_seen(rating)}, not a Rating: write Rating(user_prompt=..., ai_response=...)"
    return _wrong_text(rating) or _wrong_number(rating, rated) or _wrong_time(rating)


def whole(name: str, value: object) -> int:
    """Return a number that must be whole, numpy's as well, as Python's.

    Raises:
        ValueError: it is not whole.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{name} is {_seen(value)}, not a whole number. Pass one, such as record() returns.") from None


def is_of_our_time(moment: datetime) -> bool:
    """Tell whether something can have been said at a time; programs write the first or last year for none."""
    return _FIRST_YEAR <= moment.year < _LAST_YEAR


def _wrong_text(rating: Rating) -> str | None:
    for name in (*_NEEDED_TEXTS, *_OPTIONAL_TEXTS):
        text = getattr(rating, name)
        if text is None and name in _OPTIONAL_TEXTS:
            continue
        if not isinstance(text, str):
            return f"{name} is {_seen(text)}, not a text" + _none_instead(name in _OPTIONAL_TEXTS)
        if bad := unstorable(text):
            if bad.group() == "\x00":
                return Message("{name} holds a NUL character at position {place}", name=name, place=bad.start())
            return Message("{name} holds bytes that are not UTF-8 at position {place}", name=name, place=bad.start())
    for name in _NEEDED_TEXTS:
        if blank(getattr(rating, name)):
            return Message("{name} is empty", name=name)
    for name in _REFUSED_BLANK:
        text = getattr(rating, name)
        if text is not None and blank(text):
            return Message("{name} is {value!a}, only white space", name=name, value=text)
    return None


def _wrong_number(rating: Rating, rated: bool) -> str | None:
    grade, place, score = rating.rating, rating.shown_rank, rating.score
    if (rated or grade is not None) and not (_is_whole(grade) and grade in RATINGS):
        wrong = Message("rating is {value}, not a whole number from 1 to 5", value=str(_number(grade)))
        return Message.joined(wrong, _none_instead(_is_nan(grade)), by="")
    if place is not None and not (_is_whole(place) and 1 <= place < 2**31):
        wrong = Message("shown_rank is {value}, not a place from 1", value=str(_number(place)))
        return Message.joined(wrong, _none_instead(_is_nan(place)), by="")
    if score is not None and not ((isinstance(score, float) or _is_whole(score)) and 0 <= score <= 1):
        wrong = Message("score is {value}, not between 0 and 1", value=str(_number(score)))
        return Message.joined(wrong, _none_instead(_is_nan(score)), by="")
    if not isinstance(rating.harmful, bool):
        return f"harmful is {_seen(rating.harmful)}, not True or False"
    if rating.reviewer_role not in tuple(ReviewerRole):
        return f"reviewer_role is {rating.reviewer_role!r}, not one of {', '.join(ReviewerRole)}"
    return None


def _wrong_time(rating: Rating) -> str | None:
    for name in _TIMES:
        moment = getattr(rating, name)
        if moment is None:
            continue
        # Also pandas' NaT, which calls itself a datetime and has no year.
        if not isinstance(moment, datetime) or moment != moment:
            return f"{name} is {_seen(moment)}, not a datetime" + _none_instead(True)
        if moment.tzinfo is None:
            return Message("{name} is {value}, without a time zone", name=name, value=moment.isoformat())
        if not is_of_our_time(moment):
            values = {"name": name, "value": moment.isoformat()}
            return Message("{name} is {value}, not a time of ours, from 1900 to 2100", **values)
    return None


def _is_of_numpy(value: object) -> bool:
    # Not by its type: who has no numpy at hand need not wait until it is loaded.
    return getattr(value, "shape", None) == () and hasattr(value, "item")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> str:
    # A text that looks like one is told by its quotes.
    return _seen(value) if isinstance(value, str) else repr(value)


def _is_nan(value: object) -> bool:
    """Tell a missing cell of a table, which is not itself; pandas' own does not even say that."""
    return repr(value) in ("nan", "<NA>")


def _seen(value: object) -> str:
    shown = repr(value)
    return f"{shown if len(shown) <= 60 else shown[:60] + '...'} ({type(value).__name__})"


def _none_instead(optional: bool) -> str:
    return "; None stands for a missing one" if optional else ""
