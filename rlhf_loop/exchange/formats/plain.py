"""Our own format: a column for each field of a rating, a row for each review.

Preferences between two answers are not in such a file: they go out and come in as `trl-preference`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rlhf_loop.domain import Rating
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.fields import FIELDS, Columns, check_wanted, is_missing, kind_of, match_columns, to_rating
from rlhf_loop.exchange.formats.base import FileRow, Labels, Layout
from rlhf_loop.utils.rows import Record, Row

#: The columns of such a file, in their order.
COLUMNS = {name: kind_of(name) for name in FIELDS}
_OF_REVIEWS = ("reviewer_role", "harmful")


class PlainLayout(Layout):
    """The layout of such rows. `each_alone`: each row has its own names, as in JSONL, and what it lacks is its error.

    Ratings are from 1 to 5, unless the labels say that they are thumbs or of another scale.
    """

    advice = "if two people said so, add a reviewer column"

    def __init__(self, path: Path, *, columns: Mapping[str, str], each_alone: bool, labels: Labels) -> None:
        super().__init__(labels)
        check_wanted(columns)
        self._path = path
        self._columns = dict(columns)
        self._each_alone = each_alone
        self._matched: dict[tuple[str, ...], Columns] = {}

    def match(self, names: Sequence[str]) -> tuple[str, ...]:
        found = match_columns(names, self._columns)
        if not self._each_alone:
            self._refuse_missing(names, found)
        self._matched[tuple(names)] = found
        return found.ignored

    def rows(self, record: Record) -> Iterable[FileRow]:
        values = {name: record.cells[place] for name, place in self._matched[record.names].positions.items()}
        if self._labels.reads_numbers and not is_missing(values.get("rating")):
            values["rating"] = self._labels.rating("rating", values["rating"])
        elif not self._has_other_numbers:
            self._note_number(values.get("rating"))
        unsaid = frozenset(name for name in _OF_REVIEWS if is_missing(values.get(name)))
        return (FileRow(record.line, to_rating(values), unsaid=unsaid),)

    def _refuse_missing(self, names: Sequence[str], found: Columns) -> None:
        absent = [column for column in self._columns.values() if column not in names]
        if absent:
            raise ImportFileError(
                f"The file {str(self._path)!r} has no column {absent[0]!r}. Its columns are: {', '.join(names)}."
            )
        if found.missing:
            given = " ".join(f"--column {field}=NAME" for field in found.missing)
            raise ImportFileError(
                f"The file {str(self._path)!r} has no column for {' and '.join(found.missing)}. Its columns are: "
                f"{', '.join(names)}. Name the right ones: {given}; with others, such as rating, in the same way."
            )


def cells(rating: Rating) -> Row:
    """Return a row of `COLUMNS`. An answer without a review has no role."""
    reviewed = rating.rating is not None
    return [getattr(rating, name) if reviewed or name not in _OF_REVIEWS else None for name in FIELDS]
