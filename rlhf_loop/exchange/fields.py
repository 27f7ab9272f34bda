"""The fields of a ratings file: their columns, and how a cell becomes a value of `domain.Rating`."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, time
from typing import Any

from rlhf_loop.domain import Rating, ReviewerRole, raw_answer_name
from rlhf_loop.errors import ImportFileError
from rlhf_loop.store.validation import cleaned, problem
from rlhf_loop.utils.row_writers import Kind
from rlhf_loop.utils.rows import refuse_doubled
from rlhf_loop.utils.translation import Message

FIELDS = tuple(field.name for field in fields(Rating))
REQUIRED = ("user_prompt", "ai_response")
#: Other names a column may have, also in German, French, Spanish, Italian, Portuguese and Polish, without accents.
#: `score` is the model's score and never a rating; `id` is nobody's identity; a `note` is a remark to some and a grade
#: to others, and an `evaluation` mostly a model's verdict.
ALIASES: Mapping[str, tuple[str, ...]] = {
    name: tuple(spellings.split())
    for name, spellings in {
        "user_prompt": "prompt question query user_query instruction frage pregunta domanda pergunta pytanie",
        "ai_response": "response answer text completion output ai_answer antwort reponse respuesta risposta resposta "
        "odpowiedz",
        "rating": "stars user_rating human_rating expert_rating bewertung calificacion valoracion "
        "puntuacion valutazione voto avaliacao ocena",
        "feedback_comment": "comment feedback comments kommentar anmerkung commentaire remarque comentario observacion "
        "commento komentarz",
        "corrected_response": "correction corrected_answer corrected korrektur korrigierte_antwort correccion "
        "correzione correcao poprawka",
        "reviewer": "rater annotator rated_by reviewed_by bewerter gutachter prufer pruefer evaluateur "
        "evaluador revisor valutatore avaliador recenzent",
        "source": "origin quelle fuente fonte zrodlo",
        "candidate_group": "group group_id question_id query_id",
        "shown_rank": "system_rank rank",
        "score": "model_score",
        "model_version": "model",
        "external_id": "uuid",
        "created_at": "created served_at",
        "rated_at": "reviewed_at rating_date bewertet_am gepruft_am geprueft_am bewertungsdatum datum",
        "reviewer_role": "role",
        "harmful": "flagged",
        "title": "",
        "url": "link",
        "licence": "license",
        "retrieved_at": "",
        "drafted_by": "",
    }.items()
}

#: What labelling tools are told of an answer besides its texts, in their tasks' metadata, which comes back with labels.
ABOUT = ("source", "candidate_group", "shown_rank", "score", "model_version", "title", "url", "licence", "drafted_by")

#: Yes and no, as forms are answered in the same languages.
YES = frozenset(("yes", "ja", "oui", "sí", "si", "sì", "sim", "tak"))
NO = frozenset(("no", "nein", "non", "não", "nao", "nie"))
_SHOWN = 60
_GRADE, _WHOLE, _REAL = Message("a whole number from 1 to 5"), Message("a whole number"), Message("a number")
#: What may be a number elsewhere; no float beyond the second line is sure to be the number that it was.
_IDENTITIES = ("external_id", "candidate_group", "reviewer")
_EXACT = 2**53
#: Numbers of a second, and what it can be of our time: from 1980 to 2100, so that no number has two readings.
_UNITS = (1, 1000, 1_000_000, 1_000_000_000)
_FIRST, _LAST = 315_532_800, 4_102_444_800
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+,\d{1,2}|0,\d+)")
#: A day as it is written in much of Europe, alone or with a time behind it.
_DOTTED = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(?:,?\s+(\d{1,2}:\d{2}(?::\d{2})?))?")
#: Of any other scale or order, such as (1 = best), nobody knows here what a number means.
_SCALE = re.compile(r"\s*[(\[]\s*1\s*(?:-|–|\.\.+|…|to|bis|à|a)\s*5\s*[)\]]\s*$", re.IGNORECASE)
#: The length of a day in ISO 8601's short form.
_DAY = len("20260131")


@dataclass(frozen=True, slots=True)
class Columns:
    """The place of each field in a row, and the columns that no field takes."""

    positions: Mapping[str, int]
    ignored: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """The required fields that no column gives."""
        return tuple(name for name in REQUIRED if name not in self.positions)


def match_columns(names: Sequence[str], wanted: Mapping[str, str]) -> Columns:
    """Find the fields among a file's column names.

    `wanted` (field -> column) comes first, then the field's own name, then its aliases; case, blanks and hyphens do not
    count, nor does a scale behind the name, as in "Bewertung (1-5)".

    Raises:
        ImportFileError: two columns mean the same field, or one that is used is there twice.
    """
    plain, without_scale = [_plain(name) for name in names], [_plain(_SCALE.sub("", name)) for name in names]
    positions: dict[str, int] = {}
    for field, column in wanted.items():
        if column in names:
            positions[field] = list(names).index(column)
    chosen = set(positions.values())
    for field in FIELDS:
        if field in wanted:
            continue
        for of, spellings in itertools.product((plain, without_scale), ((field,), ALIASES[field])):
            found = [i for i, name in enumerate(of) if name in spellings and i not in chosen]
            if len({names[i] for i in found}) > 1:
                both = " and ".join(repr(names[i]) for i in found[:2])
                advice = Message("Choose one with --column {field}={column}.", field=field, column=names[found[0]])
                raise ImportFileError(
                    Message("The columns {both} both mean {field}. {advice}", both=both, field=field, advice=advice)
                )
            if found:
                positions[field] = found[0]
                break
    taken = set(positions.values())
    refuse_doubled(names, taken)
    return Columns(positions, tuple(name for i, name in enumerate(names) if i not in taken))


def check_wanted(wanted: Mapping[str, str]) -> None:
    """Refuse a mapping of columns that names a field there is not.

    Raises:
        ImportFileError: an unknown field.
    """
    for field in wanted:
        if field not in FIELDS:
            raise ImportFileError(
                Message("There is no field {field!r}. The fields are: {fields}.", field=field, fields=", ".join(FIELDS))
            )


def to_rating(values: Mapping[str, Any]) -> Rating:
    """Make a rating of one row's cells, given by field.

    Raises:
        ValueError: the row cannot be stored; the message says why, with the value.
    """
    for name in REQUIRED:
        if values.get(name) is None:
            raise ValueError(Message("{name} is missing", name=name))
    parsed: dict[str, Any] = {}
    for name, value in values.items():
        # An empty text that is needed is said to be empty, and a data frame's NaN, which is not itself, not to be one.
        if value is None or (name not in REQUIRED and (value == "" or value != value)):
            continue
        parse = _PARSERS.get(name)
        # Most cells are texts as they are.
        parsed[name] = value if parse is None and type(value) is str else (parse or _text)(name, value)
    rating = Rating(**parsed)
    if rating.external_id and rating.external_id == raw_answer_name(
        rating.candidate_group, rating.source, rating.user_prompt, rating.ai_response
    ):
        # The export of an earlier version: the answer had no other name than its texts.
        rating = replace(rating, external_id=None)
    return storable(rating)


def storable(rating: Rating) -> Rating:
    """Return the rating as it can be stored.

    Raises:
        ValueError: it cannot; the message says why, with the value.
    """
    rating = cleaned(rating)
    if reason := problem(rating):
        raise ValueError(reason)
    return rating


def _plain(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.strip().casefold().replace("ł", "l"))
    return (
        "".join(letter for letter in letters if not unicodedata.combining(letter)).replace(" ", "_").replace("-", "_")
    )


def _text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # groups and identities are often numbers
    if isinstance(value, float) and name in _IDENTITIES and value.is_integer() and abs(value) <= _EXACT:
        return str(int(value))  # as data frames keep whole numbers beside a gap
    raise ValueError(Message("{name} is {value}, not text", name=name, value=_shown(value)))


def _whole(name: str, value: Any) -> int | None:
    number = _number(name, value, kind=_GRADE if name == "rating" else _WHOLE)
    if number is None:
        return None
    if number != int(number):
        raise _not_one(name, value, kind=_GRADE if name == "rating" else _WHOLE)
    return int(number)


def _not_one(name: str, value: Any, *, kind: str) -> ValueError:
    return ValueError(Message("{name} is {value}, not {kind}", name=name, value=_shown(value), kind=kind))


def _real(name: str, value: Any) -> float | None:
    return _number(name, value, kind=_REAL)


def _number(name: str, value: Any, *, kind: str) -> float | None:
    """A finite number; None for a missing one, which data frames write as NaN."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    number = math.nan
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(with_point(value).replace("_", "?") if isinstance(value, str) else value)
    if not math.isfinite(number):
        raise _not_one(name, value, kind=kind)
    return number


def with_point(number: str) -> str:
    """Return a number with a decimal point where it has a comma that cannot part thousands: 4,5 and 0,125."""
    return number.replace(",", ".") if _DECIMAL_COMMA.fullmatch(number.strip()) else number


def to_time(name: str, value: Any) -> datetime | None:
    """Return a time by ISO 8601, UTC where no offset is given; None for a missing one.

    A number is time since 1970, in seconds or thousandths, millionths, billionths of them, as only one of these is in
    our time; eight digits in a text are a day.

    Raises:
        ValueError: it is not a time.
    """
    if is_missing(value):
        return None
    try:
        plain = _iso(value.strip()) if isinstance(value, str) else value
        if isinstance(plain, str) and plain.replace(".", "", 1).isdigit() and len(plain) != _DAY:
            plain = float(plain)
        if isinstance(plain, int | float) and not isinstance(plain, bool):
            return _since_1970(plain)
        if isinstance(plain, date) and not isinstance(plain, datetime):
            plain = datetime.combine(plain, time())
        moment = plain if isinstance(plain, datetime) else datetime.fromisoformat(str(plain))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            Message("{name} is {value}, not a time such as 2025-01-31T09:30:00+00:00", name=name, value=_shown(value))
        ) from None


def _iso(text: str) -> str:
    if found := _DOTTED.fullmatch(text):
        day, month, year, clock = found.groups()
        return f"{year}-{month:0>2}-{day:0>2} {(clock or '0:00'):0>{8 if clock and clock.count(':') == 2 else 5}}"
    return text


def _since_1970(number: float) -> datetime:
    for unit in _UNITS:
        if _FIRST <= number / unit < _LAST:
            return datetime.fromtimestamp(number / unit, UTC)
    raise ValueError


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def is_missing(value: Any) -> bool:
    """Tell whether a cell is empty; data frames write NaN there."""
    return value is None or (isinstance(value, str | float) and (value == "" or value != value))


def _yes_no(name: str, value: Any) -> bool:
    if is_missing(value):
        return False
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    word = str(value).strip().lower()
    found = True if word in YES | {"true", "1"} else False if word in NO | {"false", "0"} else None
    if found is None:
        raise ValueError(Message("{name} is {value}, neither true nor false", name=name, value=_shown(value)))
    return found


def _role(name: str, value: Any) -> str:
    if is_missing(value):
        return ReviewerRole.EXPERT
    return str(value).strip().lower().replace("-", "_").replace(" ", "_")


_PARSERS: Mapping[str, Callable[[str, Any], Any]] = {
    "rating": _whole,
    "shown_rank": _whole,
    "score": _real,
    "created_at": to_time,
    "rated_at": to_time,
    "retrieved_at": to_time,
    "harmful": _yes_no,
    "reviewer_role": _role,
}
_KINDS: Mapping[Callable[[str, Any], Any], Kind] = {
    _whole: Kind.WHOLE,
    _real: Kind.REAL,
    to_time: Kind.TIME,
    _yes_no: Kind.YES_NO,
}


def kind_of(name: str) -> Kind:
    """Return the kind of a field's column."""
    return _KINDS.get(_PARSERS.get(name, _text), Kind.TEXT)
