"""The screen for two answers without a browser."""

from __future__ import annotations

import re

import pytest
from raters import Visitor, field, put_answers, put_people, text
from sqlalchemy import select
from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.store.tables import Interaction, Preference


@pytest.fixture
def anna(sqlite_engine: Engine) -> Visitor:
    put_people(sqlite_engine)
    return Visitor(Settings(database_url=str(sqlite_engine.url), rate_limit="0"), "anna")


def preferences(engine: Engine) -> list[tuple[str, str | None]]:
    """Which answer was preferred, by its text or as "tie", with the comment."""
    with engine.connect() as connection:
        found = connection.execute(select(Interaction.id, Interaction.ai_response))
        texts = {row.id: row.ai_response for row in found}
        found = connection.execute(select(Preference).order_by(Preference.preferred_at)).all()
    chosen = {"first": "first_id", "second": "second_id"}
    return [
        (texts[getattr(row, chosen[row.preferred])] if row.preferred in chosen else "tie", row.comment) for row in found
    ]


def sides(html: str) -> list[str]:
    """The two answers as they are shown, left and right."""
    return re.findall(r'class="text words response" dir="auto">([^<]*)<', html)


def pair(html: str) -> dict[str, object]:
    """The hidden fields of the pair that is shown."""
    return {name: field(html, name) for name in ("first_id", "second_id", "left_is_first")}


@pytest.mark.parametrize("better", ["left", "right"])
def test_the_better_one_is_stored_whatever_its_side(anna: Visitor, sqlite_engine: Engine, better: str) -> None:
    """What a rater saw on the side that they chose is preferred, by form and by script, on both sides in turn."""
    put_answers(sqlite_engine, 8, to_each=2)
    html, chosen, first_left = anna.page("/compare"), [], set()
    for number in range(8):
        shown, fields = sides(html), pair(html)
        chosen.append(shown[0 if better == "left" else 1])
        first_left.add(fields["left_is_first"])
        if number % 2:
            html = anna.send("/compare", do=better, comment="", **fields)
        else:
            address = f"/compare/pairs/{fields['first_id']}/{fields['second_id']}/choice"
            body = {"better": better, "left_is_first": fields["left_is_first"] == "true"}
            html = anna.call(address, body).json["html"]  # type: ignore[index]
    assert "Nothing is left to compare" in text(html)
    assert [chosen for chosen, _ in preferences(sqlite_engine)] == chosen
    assert first_left == {"true", "false"}


def test_tie_skip_undo(anna: Visitor, sqlite_engine: Engine) -> None:
    """A tie keeps its comment; a skipped pair does not come again; undo takes the newest back, one after the other."""
    put_answers(sqlite_engine, 2, to_each=2)
    html = anna.page("/compare")
    tied = pair(html)
    html = anna.send("/compare", do="tie", comment="The same.\r\n", **tied)
    assert "Both are as good." in text(html)
    html = anna.send("/compare", do="skip", **pair(html))
    assert "Nothing is left to compare" in text(html)
    assert preferences(sqlite_engine) == [("tie", "The same.")]
    assert anna.call("/compare/undo", {}).json["message"].startswith("Taken back.")  # type: ignore[index]
    again = anna.call("/compare/undo", {}).json
    assert again is not None
    assert pair(again["html"]) == tied
    assert preferences(sqlite_engine) == []
    assert "There is nothing to undo." in text(anna.send("/compare", do="undo"))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("1/2/choice", {"better": "best", "left_is_first": True}, 422),
        ("1/2/choice", {"better": "left"}, 422),
        ("1/2/choice", {"better": "left", "left_is_first": True, "comment": "a\x00b"}, 422),
        ("1/999/choice", {"better": "left", "left_is_first": True}, 404),
        (f"1/{2**63}/skip", {}, 404),
    ],
)
def test_what_is_refused(anna: Visitor, sqlite_engine: Engine, path: str, body: dict[str, object], status: int) -> None:
    """Bad values and pairs that were never given to the rater store nothing."""
    put_answers(sqlite_engine, 1, to_each=2)
    anna.page("/compare")
    response = anna.call(f"/compare/pairs/{path}", body)
    assert (response.status_code, response.mimetype) == (status, "application/problem+json")
    assert preferences(sqlite_engine) == []
