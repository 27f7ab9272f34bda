"""Our own format: a column for each field of a rating, a row for each review.

Preferences between two answers are not in such a file: they go out and come in as `trl-preference`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_loop.domain import Rating, Review, rating_fields
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.fields import (
    FIELDS,
    Columns,
    check_wanted,
    is_missing,
    kind_of,
    match_columns,
    to_rating,
    with_point,
)
from rlhf_loop.exchange.formats.base import FileRow, Labels, Layout
from rlhf_loop.utils.row_writers import Kind, Row
from rlhf_loop.utils.rows import Record, shown_columns
from rlhf_loop.utils.translation import Message

#: The columns of such a file, in their order.
COLUMNS = {name: kind_of(name) for name in FIELDS}
#: The same where labels of judges are written, which have decimals.
JUDGE_COLUMNS = COLUMNS | {"rating": Kind.REAL}
_OF_REVIEWS = ("reviewer_role", "harmful")
#: What a row says of an answer.
_SAID = frozenset(rating_fields(Review()))
#: What stands in place of a role where labels of judges are written.
JUDGE = "judge"
#: A day with slashes, alone or with a time: Americans have the month first, others the day.
_SLASHED = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})(?:,?\s+(\d{1,2}:\d{2}(?::\d{2})?))?")
_MONTHS = 12
_ENCODED = Message("; if the file has another encoding, give its name with --encoding")


class PlainLayout(Layout):
    """The layout of such rows. `each_alone`: each row has its own names, as in JSONL, and what it lacks is its error.

    Ratings are from 1 to 5, unless the labels say that they are thumbs or of another scale.
    """

    advice = "if two people said so, add a reviewer column"

    def __init__(
        self,
        path: Path,
        *,
        columns: Mapping[str, str],
        each_alone: bool,
        labels: Labels,
        again: Callable[[], Iterable[Record]],
    ) -> None:
        super().__init__(labels)
        self._again = again
        self._day_first: dict[str, set[bool]] = {}
        check_wanted(columns)
        self._path = path
        self._columns = dict(columns)
        self._each_alone = each_alone
        self._matched: dict[tuple[str, ...], Columns] = {}

    @property
    def columns(self) -> Mapping[str, str]:
        return {
            field: names[place] for names, found in self._matched.items() for field, place in found.positions.items()
        }

    def match(self, names: Sequence[str]) -> tuple[str, ...]:
        found = match_columns(names, self._columns)
        if not self._each_alone:
            self._refuse_missing(names, found)
        self._matched[tuple(names)] = found
        # A spreadsheet may have columns without a name.
        return tuple(filter(str.strip, found.ignored))

    def rows(self, record: Record) -> Iterable[FileRow]:
        values = {name: record.cells[place] for name, place in self._matched[record.names].positions.items()}
        given = values.get("rating")
        label = None
        if self._labels.judged:
            label, values = self._judged(values)
        elif not is_missing(given) and (self._labels.reads_numbers or self._labels.knows(given)):
            values["rating"] = self._labels.rating("rating", given)
            self._has_words = True
        elif not self._has_other_numbers:
            self._note_number(given)
        for name, value in values.items():
            if kind_of(name) is Kind.TIME and isinstance(value, str) and (when := _SLASHED.fullmatch(value.strip())):
                values[name] = self._in_order(name, record, when)
        unsaid = frozenset(name for name in _OF_REVIEWS if is_missing(values.get(name)))
        try:
            return (FileRow(record.line, to_rating(values), unsaid=unsaid, label=label),)
        except ValueError as error:
            hint = _hint(given) if str(error).startswith("rating ") else _ENCODED if "not UTF-8" in str(error) else ""
            raise ValueError(Message.joined(str(error), hint, by="") if hint else str(error)) from None

    def _judged(self, values: Mapping[str, Any]) -> tuple[float | None, dict[str, Any]]:
        """Return a judge's label and the answer alone: remarks are not kept, and only a judge is named as one."""
        given = values.get("rating")
        judge = values.get("reviewer") if values.get("reviewer_role") == JUDGE else None
        answer = {name: value for name, value in values.items() if name not in _SAID}
        return None if is_missing(given) else self._labels.soft("rating", given), answer | {"reviewer": judge}

    def _in_order(self, name: str, record: Record, when: re.Match[str]) -> str:
        """Return a day with slashes, which are in one order in the whole column, as ISO 8601 has it."""
        if name not in self._day_first:
            self._day_first[name] = _orders(self._column(name))
        orders = self._day_first[name]
        if len(orders) != 1:
            why = "each may have either first" if orders else "some have the day first and others the month"
            raise ValueError(
                Message(
                    "{name} is {when!r}, and nothing tells the day from the month: {why}. Write days as 2026-01-31",
                    name=name,
                    when=when[0],
                    why=why,
                )
            )
        one, other, year, clock = when.groups()
        day, month = (one, other) if True in orders else (other, one)
        return f"{day}.{month}.{year} {clock or ''}".strip()

    def _column(self, field: str) -> Iterator[str]:
        """Read what all rows have for a field, each by its own names."""
        for record in self._again():
            if record.cells and record.names not in self._matched:
                self.match(record.names)
            if record.cells and field in (positions := self._matched[record.names].positions):
                yield str(record.cells[positions[field]]).strip()

    def _refuse_missing(self, names: Sequence[str], found: Columns) -> None:
        absent = [column for column in self._columns.values() if column not in names]
        if absent:
            raise ImportFileError(
                Message(
                    "The file {file!r} has no column {column!r}. Its columns are: {columns}.",
                    file=str(self._path),
                    column=absent[0],
                    columns=shown_columns(names),
                )
            )
        if found.missing:
            raise ImportFileError(
                Message(
                    "The file {file!r} has no column for {fields}. Its columns are: {columns}. {advice}",
                    file=str(self._path),
                    fields=tuple(found.missing),
                    columns=shown_columns(names),
                    advice=Message(
                        "Name the right ones: {options}; with others, such as rating, in the same way.",
                        options=" ".join(f"--column {field}=NAME" for field in found.missing),
                    ),
                )
            )


def _orders(cells: Iterable[str]) -> set[bool]:
    """Return whether the day can be first, and whether the month can, in all of these days at once."""
    orders = {True, False}
    for cell in cells:
        if when := _SLASHED.fullmatch(cell):
            found = {True} if int(when[2]) <= _MONTHS else set()
            found |= {False} if int(when[1]) <= _MONTHS else set()
            orders &= found or orders
    return orders


def _hint(rating: object) -> str:
    """Say what a number that is not a rating from 1 to 5 may be instead."""
    try:
        number = float(with_point(str(rating)))
    except ValueError:
        return Message("; words for good and bad are yes and no, good and bad, or thumbs up and down")
    if number == 0:
        return Message(
            "; if that is right, import it with --scale {scale}, or with --thumbs if 1 is a thumb up", scale="0,5"
        )
    for fits, scale in ((0 < number < 5, "0.5,5"), (5 < number <= 10, "1,10"), (10 < number <= 100, "0,100")):
        if fits:
            return Message("; if that is right, import it with --scale {scale}", scale=scale)
    return ""


def judge_cells(answer: Rating, label: float) -> Row:
    """Return a row of `JUDGE_COLUMNS`: an answer by whose `reviewer` it has that label."""
    said = {"rating": label, "reviewer_role": JUDGE, "harmful": None}
    return [said.get(name, getattr(answer, name)) for name in FIELDS]


def cells(rating: Rating) -> Row:
    """Return a row of `COLUMNS`. An answer without a review has no role."""
    reviewed = rating.rating is not None
    return [getattr(rating, name) if reviewed or name not in _OF_REVIEWS else None for name in FIELDS]
