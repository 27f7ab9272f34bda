"""Who a view is for: people, who read pages, or programs, who read problem+json."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_FOR_PEOPLE = "for_people"
_View = TypeVar("_View", bound=Callable[..., object])


def for_people(view: _View) -> _View:
    """Mark a view whose errors are pages and not problem+json."""
    setattr(view, _FOR_PEOPLE, True)
    return view


def is_for_people(view: Callable[..., object] | None) -> bool:
    """Tell whether a view was marked by `for_people`."""
    return getattr(view, _FOR_PEOPLE, False)
