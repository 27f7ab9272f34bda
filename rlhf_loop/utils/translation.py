"""Texts for people, and their translation: a service says them in English, a screen in the reader's language.

A `Message` is an English text that remembers what it is made of. A `Translator` finds its words in a catalogue, a .po
file, which Babel reads as it is, and writes numbers and dates as the language does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import date, datetime
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from math import isfinite
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rlhf_loop.utils.extras import require

if TYPE_CHECKING:
    from markupsafe import Markup

#: The language of the sources.
ENGLISH = "en"
CATALOGUE = Path("LC_MESSAGES", "messages.po")
_Value = TypeVar("_Value")


class Message(str):
    """A text in English; `{name}` and `{count:,}` in it stand for the values, as in `str.format`."""

    words: tuple[str, ...]
    values: Mapping[str, object]

    def __new__(cls, text: str, /, **values: object) -> Message:
        return cls._made((text,), text, values)

    @classmethod
    def counted(cls, one: str, many: str, n: int, /, **values: object) -> Message:
        """Return the text for that number, which is the value `{n}`, too."""
        return cls._made((one, many), one if n == 1 else many, {"n": n, **values})

    @classmethod
    def _made(cls, words: tuple[str, ...], text: str, values: Mapping[str, object]) -> Message:
        made = super().__new__(cls, _FOR_PROGRAMS.filled(text, values))
        made.words, made.values = words, values
        return made

    def with_values(self, values: Mapping[str, object]) -> Message:
        """Return the same text with other values."""
        return self._chosen(self.words, values)

    @classmethod
    def _chosen(cls, words: tuple[str, ...], values: Mapping[str, object]) -> Message:
        return cls._made(words, words[len(words) > 1 and values["n"] != 1], values)

    @classmethod
    def joined(cls, *said: str, by: str = " ") -> Message:
        """Return texts one after the other, such as sentences."""
        values = {f"said{number}": each for number, each in enumerate(said)}
        return cls(by.join(f"{{{name}}}" for name in values), **values)

    def packed(self) -> dict[str, Any]:
        """Return what it is made of as JSON has it, for `unpacked`."""
        return {"words": list(self.words), "values": {name: _packed(value) for name, value in self.values.items()}}

    @classmethod
    def made_of(cls, packed: Mapping[str, Any]) -> Message:
        """Return the message that was packed."""
        values = {str(name): _unpacked(each) for name, each in packed["values"].items()}
        return cls._chosen(tuple(map(str, packed["words"])), values)

    def __str__(self) -> str:
        # So that an exception which is made of one gives it back.
        return self


def packed(said: str) -> dict[str, Any] | None:
    """Return what a text is made of as JSON has it, None for one that cannot be translated."""
    return said.packed() if isinstance(said, Message) else None


def unpacked(text: str, made: object) -> str:
    """Return the message that was packed, or the text itself where it is another one by now."""
    try:
        message = _unpacked(made)
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError):
        return text
    return message if isinstance(message, Message) and message == text else text


def _packed(value: object) -> object:
    if isinstance(value, Message):
        return value.packed()
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    if isinstance(value, date):
        return {"day": value.isoformat()}
    if hasattr(value, "item"):
        value = value.item()  # a number of NumPy's
    if isinstance(value, float) and not isfinite(value):
        return str(value)  # JSON has no such number: the text stays as it is
    return [_packed(each) for each in value] if isinstance(value, tuple) else value


def _unpacked(value: Any) -> object:
    if isinstance(value, list):
        return tuple(_unpacked(each) for each in value)
    if not isinstance(value, dict):
        return value
    if "words" in value:
        return Message.made_of(value)
    return datetime.fromisoformat(value["time"]) if "time" in value else date.fromisoformat(value["day"])


class Translator:
    """The words, numbers and dates of one language: English, or one that has a folder with a catalogue."""

    def __init__(self, language: str, folder: Path, *, minus: str = "\N{MINUS SIGN}") -> None:
        self.language = language
        self._minus = minus
        #: The texts of scripts by the English ones; none in English.
        self.script: dict[str, str] = {}
        self._words, self._signs = NullTranslations(), dict[int, str]()
        if language != ENGLISH:
            self._read(folder / language / CATALOGUE)

    def _read(self, path: Path) -> None:
        require("babel", "serve")
        from babel.messages.mofile import write_mo
        from babel.messages.pofile import read_po
        from babel.numbers import format_percent, get_decimal_symbol, get_group_symbol

        with path.open("rb") as file:
            catalogue = read_po(file, locale=self.language)
        compiled = BytesIO()
        write_mo(compiled, catalogue)
        compiled.seek(0)
        self._words = GNUTranslations(compiled)
        for entry in catalogue:
            if isinstance(entry.id, str) and any(place.endswith(".js") for place, _ in entry.locations):
                self.script[entry.id] = str(entry.string)
        self._signs = {ord("."): get_decimal_symbol(self.language), ord(","): get_group_symbol(self.language)}
        self._signs[ord("%")] = format_percent(0, locale=self.language).lstrip("0")

    def __call__(self, said: _Value) -> _Value:
        """Return what a service has said, a text or a dataclass with texts; what no catalogue has stays as it is."""
        return cast(_Value, self._said(said))

    def _said(self, said: object) -> object:
        found: object = said
        if isinstance(said, Message):
            found = self.filled(self._found(said), said.values)
        elif isinstance(said, str):
            found = self._words.gettext(said) if said else said
        elif type(said) is tuple:
            found = tuple(self._inside(each) for each in said)
        elif is_dataclass(said) and not isinstance(said, type):
            values: dict[str, Any] = {each.name: self._inside(getattr(said, each.name)) for each in fields(said)}
            found = replace(said, **values)
        return found

    def _inside(self, said: object) -> object:
        # A plain text in there may be anybody's, and mean another thing than a text of the catalogue that is the same.
        return said if isinstance(said, str) and not isinstance(said, Message) else self._said(said)

    def number(self, value: float, spec: str = ",") -> str:
        """Write a number as `format` does, with the signs of the language."""
        return format(value, spec).translate(self._signs).replace("-", self._minus)

    def day(self, when: date, *, month: str = "%B") -> str:
        """Write a date; with the month as "%b" a short one, as "%B %Y" the month alone, as "%b %Y" that in short."""
        alone = month.endswith("%Y")
        if self.language == ENGLISH:
            return f"{when:{month}}" if alone else f"{when.day} {when:{month} %Y}"
        from babel.dates import format_date, format_skeleton

        if alone:
            return format_skeleton("yMMMM" if month == "%B %Y" else "yMMM", when, locale=self.language)
        return format_date(when, "long" if month == "%B" else "medium", self.language)

    def ticks(self, when: date, *, month_alone: bool) -> str:
        """Write a date without its year."""
        if self.language == ENGLISH:
            return f"{when:%b}" if month_alone else f"{when.day} {when:%b}"
        from babel.dates import format_skeleton

        return format_skeleton("MMM" if month_alone else "MMMd", when, locale=self.language)

    def moment(self, when: datetime) -> str:
        """Write a date with its time."""
        return f"{self.day(when, month='%b')}, {when:%H:%M}"

    def template(self) -> dict[str, object]:
        """Return the names by which templates speak this language.

        `_` and `ngettext` have texts of the sources, with markup; `tr` has what a service has said, as plain text.
        """
        return {
            "_": self._markup,
            "ngettext": self._counted_markup,
            "tr": self,
            "number": self.number,
            "day": self.day,
            "moment": self.moment,
            "language": self.language,
        }

    def _found(self, said: Message) -> str:
        if len(said.words) == 1:
            return self._words.gettext(said.words[0])
        one, many = said.words
        count = said.values["n"]
        return self._words.ngettext(one, many, count if isinstance(count, int) else 0)

    def _markup(self, text: str, /, **values: object) -> Markup:
        return self._as_markup(self._words.gettext(text), values)

    def _counted_markup(self, one: str, many: str, n: int, /, **values: object) -> Markup:
        return self._as_markup(self._words.ngettext(one, many, n), {"n": n, **values})

    def _as_markup(self, text: str, values: Mapping[str, object]) -> Markup:
        from markupsafe import Markup

        return Markup(self.filled(text, values, markup=True))

    def listed(self, names: Sequence[str]) -> str:
        """Return "a", "a and b", "a, b and c"."""
        # A plain text is somebody's name, whatever it means in the catalogue.
        *before, last = (self(name) if isinstance(name, Message) else name for name in names)
        return self(Message("{others} and {last}", others=", ".join(before), last=last)) if before else last

    def filled(self, text: str, values: Mapping[str, object], *, markup: bool = False) -> str:
        """Return the text with its values; as markup they are escaped."""
        return _Fill(self, markup=markup).vformat(text, (), values) if values else text


class _Fill(Formatter):
    def __init__(self, translator: Translator, *, markup: bool) -> None:
        self._translator, self._markup = translator, markup

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._translator.number(value, format_spec)
        if isinstance(value, date):
            return self._translator.day(value, month=format_spec or "%B")
        if isinstance(value, tuple):
            value = self._translator.listed(value)
        value = self._translator(value) if isinstance(value, Message) else value
        if not self._markup:
            return format(value, format_spec)
        from markupsafe import escape

        return str(escape(value))


#: What a page says in English.
IN_ENGLISH = Translator(ENGLISH, Path())
#: What is stored, logged and printed: any program reads its numbers, and any terminal shows them.
_FOR_PROGRAMS = Translator(ENGLISH, Path(), minus="-")
