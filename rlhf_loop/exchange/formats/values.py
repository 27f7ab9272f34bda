"""What the files of other tools have in common: objects as the text of JSON, times as numbers, values at two places."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rlhf_loop.exchange.fields import is_missing
from rlhf_loop.exchange.formats.messages import parsed

#: Up to here a number is seconds since 1970 (the year 5138), then thousandths, millionths, billionths of them.
_SECONDS = 1e11
#: No time is beyond it in any unit, and no number that is not finite is below.
_ANY = 1e30


def first(*values: Any) -> Any:
    """Return the first value that is there, None if there is none."""
    return next((value for value in values if not is_missing(value)), None)


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object, be it the text of one; an empty one for anything else."""
    found = parsed(value)
    return found if isinstance(found, Mapping) else {}


def moment(value: Any) -> Any:
    """Return a time for the parser of ratings, which knows ISO 8601; a number is time since 1970."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _ANY:
        while abs(value) > _SECONDS:
            value /= 1000
        try:
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            return str(value)
    return value if value is None or isinstance(value, datetime) else str(value)


def name_of(tool: str, id: object) -> str | None:
    """Name a user of another tool; no user's name here has a colon, so that nobody is taken for one of them."""
    return None if is_missing(id) or not str(id).strip() else f"{tool}:{id}"
