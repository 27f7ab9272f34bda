"""A figure as it is shown: which pictures and data it has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from figure_fakes import EMPTY, SATISFACTION

from rlhf_loop.monitoring import Figure
from rlhf_loop.monitoring.charts import size
from rlhf_loop.monitoring.report import Panel, panel


def shown(figure: Figure) -> Panel:
    return panel(figure, picture=lambda dark, narrow: f"dark={dark} narrow={narrow}", data=lambda: "data")


def test_a_picture_for_each_screen() -> None:
    """The narrowest conditions come first, as a browser takes the first that fits; each says how large it is."""
    found = shown(SATISFACTION)
    assert [(each.dark, each.narrow) for each in found.pictures] == [
        (True, True),
        (False, True),
        (True, False),
        (False, False),
    ]
    assert found.pictures[0].address == "dark=True narrow=True"
    assert [(each.width, each.height) for each in found.pictures[1:3]] == [
        size(SATISFACTION, narrow=True),
        size(SATISFACTION),
    ]
    assert (found.data, found.file) == ("data", "satisfaction.csv")


@pytest.mark.parametrize("unknown", [None, float("nan")])
def test_counts_without_values(unknown: float | None) -> None:
    """There is nothing to draw, but something to read and to download."""
    found = shown(replace(SATISFACTION, rows=tuple((row[0], *[unknown] * 4) for row in SATISFACTION.rows)))
    assert (found.pictures, found.data, len(found.table.rows)) == ((), "data", len(SATISFACTION.rows))


def test_nothing() -> None:
    """Without rows there is only the sentence that says why."""
    found = shown(EMPTY)
    assert (found.pictures, found.data, found.summary) == ((), "", EMPTY.summary)
