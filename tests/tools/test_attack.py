"""The words of `make attack`, and what counts as held; the attacks themselves take minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.attack import clock, models, names
from tools.attack.__main__ import summary, table
from tools.attack.bombs import _finding
from tools.attack.document import write
from tools.attack.product import Finding, Ran

HONEST = Ran(0, "1 row", "", 1.0, 110.0)
REFUSED = Ran(2, "", "Error: The line 1 is too long. Split it.\n", 0.5, 120.0)


@pytest.mark.parametrize(
    ("ran", "stored", "holds"),
    [
        (REFUSED, 0, True),
        (REFUSED, 1, False),
        (Ran(0, "1 row", "", 0.5, 120.0), 0, False),
        (Ran(1, "", "Traceback (most recent call last)", 0.5, 120.0), 0, False),
        (Ran(2, "", "Error: Too long.", 0.5, 900.0), 0, False),
        (Ran(2, "", "Error: Too long.", 60.0, 120.0, 50.0), 0, False),
        (Ran(2, "", "Error: Too long.", 60.0, 120.0, 5.0), 0, True),  # it waited for others
        (Ran(-9, "", "", 0.5, 120.0), 0, False),
    ],
)
def test_a_bomb_is_held_if_it_is_refused_in_words_soon_and_in_little_memory(ran: Ran, stored: int, holds: bool) -> None:
    """A refusal by exit code 2 within seconds and 300 MB, with nothing stored, and nothing else."""
    assert _finding("a bomb", ran, stored, HONEST).holds is holds


def test_the_table_says_what_failed_and_what_was_left_out() -> None:
    """A line for each attack, its verdict first; the summary counts them."""
    found = [
        Finding("sockets", "a", "1 s", True),
        Finding("kills", "bb", "2 s", False),
        Finding("clock", "c", "x", None),
    ]
    assert list(table(found)) == ["holds    sockets  a   1 s", "FAILS    kills    bb  2 s", "skipped  clock    c   x"]
    assert summary(found) == "1 of 3 attacks held, 1 did not, 1 were skipped."


def test_without_libfaketime_the_clock_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library is not there, it says how to get it."""
    monkeypatch.setattr(clock, "_PLACES", (str(tmp_path),))
    assert clock.library(None) is None
    assert clock.library(tmp_path) == tmp_path


def test_a_hostile_model_differs_from_the_good_one_in_what_it_says() -> None:
    """A function of the old value, a value of its own, or next to nothing."""
    import pickle

    good = {"format": "f", "coef": [0.5, 0.25], "recipe": "joint"}
    assert pickle.loads(models.changed(good, {"coef": lambda old: old[1:]})) == {**good, "coef": [0.25]}
    assert pickle.loads(models.changed(good, {"recipe": "../../x"})) == {**good, "recipe": "../../x"}
    assert pickle.loads(models.changed(good, {})) == {"format": "f"}


def test_the_document_has_a_table_for_each_part_that_was_tried(tmp_path: Path) -> None:
    """Without the folder of the run, and with what is a sign of Markdown as it is; a part that is tried anew is new."""
    document = tmp_path / "ATTACK.md"
    found = [Finding("bombs", "a|b", "Error: '/x/rlhf-attack-1/bombs/zeros.csv' <b>", True)]
    write([*found, Finding("clock", "c", "no library", None)], document)
    before = document.read_text("utf-8")
    assert "| a\\|b | Error: 'zeros.csv' \\<b\\> | held |" in before
    assert "| c | no library | skipped |" in before
    assert "0 of 1 attacks held, 0 did not, 1 were skipped. 2" in before
    assert "## Foreign" not in before
    write([Finding("clock", "c", "it runs on", True), Finding("hosts", "h", "400", True)], document)
    written = document.read_text("utf-8")
    assert "skipped" not in written
    assert [line for line in written.splitlines() if line.startswith("#")] == [
        "# Under attack",
        *("## Foreign hosts and sites", "## Bombs", "## A clock that jumps back"),
    ]
    assert before.partition("## Bombs")[2].partition("## ")[0] == written.partition("## Bombs")[2].partition("## ")[0]


def test_a_name_stands_for_each_text_of_an_operation() -> None:
    """In the path, in the query and in the body, one at a time."""
    document = {
        "paths": {
            "/a/{id}": {
                "post": {
                    "parameters": [{"name": "id", "in": "path"}, {"name": "q", "in": "query"}],
                    "requestBody": {
                        "content": {"application/json": {"examples": {"one": {"value": {"x": "y", "z": ["w", 1]}}}}}
                    },
                },
                "summary": {},
            }
        }
    }
    assert list(names.requests(document, "../\ud800")) == [
        ("POST", "/a/..%2F%ED%A0%80", b'{"x": "y", "z": ["w", 1]}'),
        ("POST", "/a/known-1?q=..%2F%ED%A0%80", b'{"x": "y", "z": ["w", 1]}'),
        ("POST", "/a/known-1", b'{"x": "../\\ud800", "z": ["w", 1]}'),
        ("POST", "/a/known-1", b'{"x": "y", "z": ["../\\ud800", 1]}'),
    ]
