from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from rlhf_loop.reviewing import DEFAULT_GUIDELINES, guidelines, save_guidelines
from rlhf_loop.store import audit
from rlhf_loop.web.pages.answers import MEANINGS

GRADES = ("one", "two", "three", "four", "five")


def test_there_are_guidelines_from_the_start(engine: Engine) -> None:
    """Without any of their own, raters get ours, and nobody has edited them."""
    found = guidelines(engine)
    assert found == DEFAULT_GUIDELINES
    assert (found.edited_by, found.edited_at) == (None, None)


def test_our_grades_begin_as_the_buttons_name_them() -> None:
    """The description of each grade begins with its short meaning on the screens."""
    for grade, meaning in MEANINGS.items():
        assert DEFAULT_GUIDELINES.grades[grade - 1].lower().startswith(meaning)


def test_the_newest_guidelines_are_in_force(engine: Engine) -> None:
    """What an admin saves is what raters get from then on, and the audit log names the admin."""
    now = datetime(2025, 5, 1, tzinfo=UTC)
    save_guidelines(engine, introduction="old", grades=GRADES, edited_by="ada")
    save_guidelines(engine, introduction=" new\r\nlines ", grades=GRADES, edited_by="bob", now=now)
    found = guidelines(engine)
    assert (found.introduction, found.grades, found.edited_by, found.edited_at) == ("new\nlines", GRADES, "bob", now)
    assert [(entry.actor, entry.action) for entry in audit.entries(engine)] == [
        ("bob", "guidelines.changed"),
        ("ada", "guidelines.changed"),
    ]


@pytest.mark.parametrize(
    ("introduction", "grades", "message"),
    [
        ("", GRADES, "introduction is empty"),
        ("fine", ("one", "two", " ", "four", "five"), "grade 3 is empty"),
        ("fine", GRADES[:4], "There are 4 grades"),
        ("i" * 4001, GRADES, "introduction has 4,001 characters"),
        ("fine", ("g" * 2001, *GRADES[1:]), "grade 1 has 2,001 characters"),
        ("fine", (*GRADES[:4], "\x00"), "grade 5 holds a NUL"),
    ],
)
def test_bad_guidelines_are_refused(engine: Engine, introduction: str, grades: tuple[str, ...], message: str) -> None:
    """A part that is missing, empty or too long is named, and the guidelines stay."""
    with pytest.raises(ValueError, match=message):
        save_guidelines(engine, introduction=introduction, grades=grades, edited_by="ada")
    assert guidelines(engine) == DEFAULT_GUIDELINES
