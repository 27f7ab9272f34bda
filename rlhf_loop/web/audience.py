"""Who a view is for: people, who read pages, or programs, who read problem+json, or errors of a form of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flask import Response
from werkzeug.exceptions import HTTPException

_FOR_PEOPLE = "for_people"
_OWN_ERRORS = "own_errors"
_Answer = Callable[[HTTPException], Response]
_View = TypeVar("_View", bound=Callable[..., object])


def for_people(view: _View) -> _View:
    """Mark a view whose errors are pages and not problem+json."""
    setattr(view, _FOR_PEOPLE, True)
    return view


def is_for_people(view: Callable[..., object] | None) -> bool:
    """Tell whether a view was marked by `for_people`."""
    return getattr(view, _FOR_PEOPLE, False)


def with_errors(answer: _Answer) -> Callable[[_View], _View]:
    """Mark a view whose errors are what `answer` makes of them."""

    def mark(view: _View) -> _View:
        setattr(view, _OWN_ERRORS, answer)
        return view

    return mark


def own_errors(view: Callable[..., object] | None) -> _Answer | None:
    """Return what a view was marked with by `with_errors`."""
    return getattr(view, _OWN_ERRORS, None)
