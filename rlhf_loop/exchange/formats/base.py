"""The common part of all formats: rows, layouts that read them, and labels that become ratings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rlhf_loop.domain import GOOD_RATING, THUMBS, Rating, ReviewerRole
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.fields import NO, YES, with_point
from rlhf_loop.utils.rows import Record
from rlhf_loop.utils.translation import Message

_RATINGS = range(1, 6)
_GOOD = YES | {"true", "up", "thumbs up", "thumbs_up", "thumbs-up", "👍", "good", "positive", "like", "correct"}
_GOOD |= {"helpful", "daumen hoch", "gut", "richtig", "hilfreich"}
_BAD = NO | {"false", "down", "thumbs down", "thumbs_down", "thumbs-down", "👎", "bad", "negative", "dislike"}
_BAD |= {"incorrect", "unhelpful", "not helpful", "daumen runter", "schlecht", "falsch", "nicht hilfreich"}
_THUMBS = (1, 0, -1)

#: What Langfuse calls the score that holds the rating, and Phoenix the annotation, unless somebody says otherwise.
SCORE_NAME = "rating"


@dataclass(frozen=True, slots=True)
class FileRow:
    """One row of a file: what it says, or the reason why it cannot be stored. `line` is where it starts, from 1.

    In a Parquet file or a JSON array, which need no lines, it is the row's number.

    `unsaid` names those of `reviewer_role` and `harmful` that the row does not tell. `worse` is an answer to the same
    question that the reviewer finds worse. With `texts_elsewhere` the answer is the one that the `external_id` names,
    in another row or in the database. `stand_in` names a rater without a name by the id of what they said. With
    `taken_back` the reviewer had said something of the answer, and does no longer. `label` is a judge's soft rating,
    which is nobody's review: then `rating` has none.
    """

    line: int
    rating: Rating | None
    reason: str = ""
    unsaid: frozenset[str] = frozenset()
    worse: Rating | None = None
    texts_elsewhere: bool = False
    stand_in: str | None = None
    taken_back: bool = False
    label: float | None = None


#: What is said of records that are of no known kind; a file that has nothing else is refused.
UNKNOWN = "records of another kind"


class LeftOutError(ValueError):
    """A record is about nothing that could be read, as failed and unfinished calls are: `what` names the kind.

    In a tool's file such records are passed over, as the tool writes them every day; alone one is an error.
    """

    def __init__(self, message: str, *, what: str = UNKNOWN) -> None:
        super().__init__(message)
        self.what = what


class Layout:
    """The base of the readers of one format's rows; one object reads one file.

    `role` is that of reviewers where neither the file nor whoever imports it says so. `advice` is what to do about two
    words of one reviewer that contradict each other. With `knows_no_scale` numbers come without one, and a 1 may as
    well be a thumb as a rating. With `parted` the tool has answers and what was said of them in files of their own.
    """

    role = ReviewerRole.EXPERT
    knows_no_scale = parted = False
    advice = "take out the one that does not count"

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._unused: dict[str, None] = {}
        self._passed_over = Counter[str]()
        self._thumbs = set[float]()
        self._has_other_numbers = self._has_words = False

    def match(self, names: Sequence[str]) -> tuple[str, ...]:
        """Take note of a row's column names; return those that it has no use for.

        Raises:
            ImportFileError: a column that each row must have is not there, or two mean the same.
        """
        return ()

    def rows(self, record: Record) -> Iterable[FileRow]:
        """Return what a row with those names says: several things, if several people speak in it.

        Of a record that holds others each is read by itself, and is known by its number.

        Raises:
            LeftOutError: it is about nothing that could be read.
            ValueError: it cannot be stored; the message says why, with the value.
        """
        values = dict(zip(record.names, record.cells, strict=True))
        if len(values) < len(record.names):
            name = next(name for name in values if record.names.count(name) > 1)
            raise ValueError(
                Message(
                    "two columns have the name {name!r}; rename the one that is not meant, or take it out", name=name
                )
            )
        inside = self._inside(values)
        return self._read(record.line, values) if inside is None else self._each(inside)

    @property
    def columns(self) -> Mapping[str, str]:
        """The columns that fields take so far, by field, where a format leaves their names open."""
        return {}

    def finish(self) -> Iterable[FileRow]:
        """Return what only the whole file says.

        Raises:
            ImportFileError: it cannot be told what the file says.
        """
        return ()

    def check(self) -> None:
        """Look whether the numbers of a whole file are thumbs, which as ratings from 1 to 5 would be turned round.

        Raises:
            ImportFileError: they may be.
        """
        if self._labels.reads_numbers or self._has_other_numbers or 1 not in self._thumbs:
            return
        if len(self._thumbs) > 1 or self.knows_no_scale or self._has_words:
            found = " or ".join(f"{number:g}" for number in sorted(self._thumbs))
            raise ImportFileError(
                Message(
                    "All ratings that are numbers are {found}: these may be thumbs, or 1 is the worst of 1 to 5. "
                    "{advice}",
                    found=found,
                    advice=Message("Say which it is: --thumbs or --scale 1,5."),
                )
            )

    def _note_number(self, value: object) -> None:
        """Take note of a rating of which only a number says how good it is."""
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return
        with suppress(ValueError):
            if (number := float(with_point(value) if isinstance(value, str) else value)) in _THUMBS:
                self._thumbs.add(number)
            else:
                self._has_other_numbers = True

    def pass_over(self, what: str) -> None:
        """Count something that could not be read, or is nobody's word."""
        self._passed_over[what] += 1

    @property
    def unused(self) -> tuple[str, ...]:
        """The names of scores, annotations and controls that were not used so far, and what was passed over."""
        return (*self._unused, *self.passed_over)

    @property
    def rated_elsewhere(self) -> bool:
        """True if what was said of its answers may stand in another file, as nothing in this one could be it."""
        return self.parted and not self._unused

    @property
    def passed_over(self) -> tuple[str, ...]:
        """The kinds of things that were passed over so far, each with its count."""
        return tuple(f"{what} ({count:,})" for what, count in self._passed_over.items())

    @property
    def passed_over_count(self) -> int:
        """The number of things that were passed over so far."""
        return self._passed_over.total()

    def _inside(self, values: Mapping[str, Any]) -> Sequence[Any] | None:
        """Return the records that one record holds, None if it is one itself."""
        return None

    def _read(self, line: int, values: Mapping[str, Any]) -> Iterable[FileRow]:
        """Return what one record says; raises as `rows`."""
        raise NotImplementedError

    def _each(self, records: Sequence[Any]) -> Iterator[FileRow]:
        for number, each in enumerate(records, 1):
            try:
                yield from self._read(number, each if isinstance(each, Mapping) else {})
            except LeftOutError as error:
                self.pass_over(error.what)
            except ValueError as error:
                yield FileRow(number, None, str(error))


@dataclass(frozen=True, slots=True)
class NumberScale:
    """Numbers from `lowest` to `highest` that stand for ratings from 1 to 5, in equal steps.

    Raises:
        ImportFileError: there is nothing between the two.
    """

    lowest: float
    highest: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lowest) and math.isfinite(self.highest) and self.lowest < self.highest):
            raise ImportFileError(
                Message(
                    "A scale from {lowest:g} to {highest:g} has no steps. Give the lowest number first, for "
                    "instance 1,10.",
                    lowest=self.lowest,
                    highest=self.highest,
                )
            )

    def rating(self, name: str, value: float) -> int:
        """Return the rating nearest to a number, the better one where it lies between two.

        Raises:
            ValueError: it is not on the scale.
        """
        return math.floor(self.soft(name, value) + 0.5)

    def soft(self, name: str, value: float) -> float:
        """Return the number from 1 to 5 that a number stands for.

        Raises:
            ValueError: it is not on the scale.
        """
        if not self.lowest <= value <= self.highest:
            raise ValueError(
                Message(
                    "{name} is {value!r}, not on the scale from {lowest:g} to {highest:g}",
                    name=name,
                    value=value,
                    lowest=self.lowest,
                    highest=self.highest,
                )
            )
        return 1 + 4 * (value - self.lowest) / (self.highest - self.lowest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The meaning of values that are not ratings from 1 to 5: a label, a thumb, a word, a number of another scale.

    With `thumbs` numbers are thumbs as well: 1 is up, 0 and -1 are down; with a `scale` they are of that one.
    `score_name` is what Langfuse calls the score that holds the rating, and Phoenix the annotation. `judged` says that
    ratings are the labels of a judge, which have decimals.

    Raises:
        ImportFileError: `good` and `bad` are not ratings, or the wrong way round, or thumbs have a scale.
    """

    good: int = THUMBS["up"]
    bad: int = THUMBS["down"]
    thumbs: bool = False
    score_name: str = SCORE_NAME
    scale: NumberScale | None = None
    judged: bool = False

    def __post_init__(self) -> None:
        if self.thumbs and self.scale is not None:
            raise ImportFileError(Message("Numbers are either thumbs or of a scale. Leave out --thumbs or --scale."))
        if self.bad not in _RATINGS or self.good not in _RATINGS or not self.bad < GOOD_RATING <= self.good:
            raise ImportFileError(
                Message(
                    "A good label would become the rating {good} and a bad one {bad}. Good are {good_rating} "
                    "and 5, bad are the ratings below {good_rating}.",
                    good=self.good,
                    bad=self.bad,
                    good_rating=GOOD_RATING,
                )
            )

    def rating(self, name: str, value: object) -> int:
        """Return the rating that a value stands for.

        Raises:
            ValueError: it does not stand for a rating.
        """
        if isinstance(value, str):
            value = _number_or_label(name, value)
        if isinstance(value, bool):
            return self.label(value)
        if isinstance(value, int | float):
            if self.thumbs:
                if value in _THUMBS:
                    return self.label(value == 1)
                raise ValueError(Message("{name} is {value!r}, and thumbs are 1, 0 or -1", name=name, value=value))
            if self.scale is not None:
                return self.scale.rating(name, value)
            if value in _RATINGS:
                return int(value)
            raise ValueError(
                Message(
                    "{name} is {value!r}, not a whole number from 1 to 5; if 1 and 0 are thumbs, say so, or "
                    "give its scale",
                    name=name,
                    value=value,
                )
            )
        raise ValueError(Message("{name} is {value!r}, neither a number nor a label", name=name, value=str(value)[:60]))

    def soft(self, name: str, value: object) -> float:
        """Return the number from 1 to 5 that a judge's label stands for, decimals and all.

        Raises:
            ValueError: it does not stand for one.
        """
        if isinstance(value, str):
            value = _number_or_label(name, value)
        if isinstance(value, bool) or self.thumbs or not isinstance(value, int | float):
            return self.rating(name, value)
        scale = self.scale or NumberScale(_RATINGS[0], _RATINGS[-1])
        try:
            return scale.soft(name, value)
        except ValueError as error:
            raise ValueError(Message("{error}; of probabilities say --scale 0,1", error=str(error))) from None

    @property
    def reads_numbers(self) -> bool:
        """True if the importer said what numbers mean."""
        return self.thumbs or self.scale is not None

    def knows(self, word: object) -> bool:
        """Tell whether a word says good or bad by itself."""
        return isinstance(word, str) and word.strip().lower() in _GOOD | _BAD

    def label(self, good: bool) -> int:
        """Return the rating that a label stands for."""
        return self.good if good else self.bad


def tell_apart(reviewers: Sequence[str | None], names: Sequence[str]) -> list[str | None]:
    """Give names to those of one answer's reviewers who have none, if there are several: they are several people."""
    if sum(reviewer is None for reviewer in reviewers) < 2:
        return list(reviewers)
    return [reviewer or name for reviewer, name in zip(reviewers, names, strict=True)]


def refuse_columns(columns: object, *, format: str) -> None:
    """Refuse a mapping of columns where the format fixes their names.

    Raises:
        ImportFileError: there is one.
    """
    if columns:
        raise ImportFileError(
            Message(
                "The format {format} fixes its names, so that --column has no meaning. Leave it out.", format=format
            )
        )


def refuse_names(names: object, *, format: str) -> None:
    """Refuse a mapping of tags where there are none.

    Raises:
        ImportFileError: there is one.
    """
    if names:
        raise ImportFileError(
            Message("The format {format} has no tags that --map could name. Leave it out.", format=format)
        )


def _number_or_label(name: str, word: str) -> bool | float:
    plain = word.strip().lower()
    if plain in _GOOD | _BAD:
        return plain in _GOOD
    try:
        return float(with_point(plain))
    except ValueError:
        raise ValueError(
            Message("{name} is {word!r}, neither a rating nor a word for good or bad", name=name, word=word[:60])
        ) from None
