"""The language of a screen: the one that a person has chosen, or the first of the browser's that there is.

What programs get stays English, but for what a script of a screen shows there. A language is a folder
`translations/CODE/LC_MESSAGES` with a `messages.po`, whose first line is the language's own name; it is read once, and
only where somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from flask import has_request_context, request

from rlhf_loop.utils.translation import CATALOGUE, ENGLISH, Translator

FOLDER = Path(__file__).parent / "translations"
COOKIE = "rlhf_language"
#: With a request of a screen's script, which shows what is said.
SCREEN = "X-Screen"


@cache
def languages() -> Mapping[str, str]:
    """Return the languages of the screens by their codes, each with its own name."""
    found = {ENGLISH: "English"}
    for path in sorted(FOLDER.glob(f"*/{CATALOGUE}")):
        with path.open(encoding="utf-8") as file:
            found[path.parents[1].name] = file.readline().strip("# \n")
    return found


def language() -> str:
    """Return the language of the current request; outside of one it is English."""
    if not has_request_context():
        return ENGLISH
    chosen = request.cookies.get(COOKIE, "")
    # In the reader's order: "en-US, de" prefers English, in whatever country.
    wanted = [chosen, *(tag.partition("-")[0].lower() for tag in request.accept_languages.values())]
    return next((tag for tag in wanted if tag in languages()), ENGLISH)


def translator() -> Translator:
    """Return the translator into the language of the current request."""
    return _translator(language())


def said_there(said: str) -> str:
    """Return what JSON says: in the reader's language to a script of a screen, else in English."""
    return translator()(said) if SCREEN in request.headers else said


@cache
def _translator(language: str) -> Translator:
    return Translator(language, FOLDER)
