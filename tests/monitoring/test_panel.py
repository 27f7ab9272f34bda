"""A figure as it is shown: its chart and its data."""

from __future__ import annotations

from dataclasses import replace

import pytest
from figure_fakes import EMPTY, SATISFACTION

from rlhf_loop.monitoring.charts import draw
from rlhf_loop.monitoring.report import panel


def test_a_chart_and_data() -> None:
    """The chart stands in the page as it is drawn, the data are where the page says."""
    found = panel(SATISFACTION, data="data")
    assert (found.chart, found.data) == (draw(SATISFACTION), "data")
    assert hasattr(found.chart, "__html__")


@pytest.mark.parametrize("unknown", [None, float("nan")])
def test_counts_without_values(unknown: float | None) -> None:
    """There is nothing to draw, but something to read and to download."""
    rows = tuple((row[0], *[unknown] * 4) for row in SATISFACTION.rows)
    found = panel(replace(SATISFACTION, rows=rows), data="data")
    assert (found.chart, found.data, len(found.table.rows)) == ("", "data", len(SATISFACTION.rows))


def test_nothing() -> None:
    """Without rows there is only the sentence that says why."""
    found = panel(EMPTY, data="data")
    assert (found.chart, found.data, found.summary) == ("", "", EMPTY.summary)
