"""The numbers of a figure as a table for people and as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from figure_fakes import CALIBRATION, SATISFACTION, SOURCES, VERSIONS

from rlhf_loop.monitoring.figures.figure import Value, figure_csv, figure_table


def test_csv_is_rfc_4180() -> None:
    """Lines end with CR LF, and whatever a cell holds comes back."""
    text = figure_csv(replace(SOURCES, rows=(('a "quoted", name\nof two lines', 0.123456789), ("Ωμέγα", None))))
    assert text.startswith("source,wins\r\n")
    assert text.endswith("Ωμέγα,\r\n")
    assert list(csv.reader(io.StringIO(text, newline=""))) == [
        ["source", "wins"],
        ['a "quoted", name\nof two lines', "0.123456789"],
        ["Ωμέγα", ""],
    ]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+49", "'+49"),
        ("-x", "'-x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("＝1+1", "'＝1+1"),
        ("a=b", "a=b"),
        (-0.5, "-0.5"),
        (-3, "-3"),
        (float("nan"), ""),
        (float("inf"), ""),
        (date(2026, 11, 24), "2026-11-24"),
        (datetime(2026, 11, 24, 12, 30, tzinfo=UTC), "2026-11-24T12:30:00+00:00"),
    ],
)
def test_no_cell_is_a_formula(value: Value, written: str) -> None:
    """A text that a spreadsheet would compute gets an apostrophe; numbers and dates are as they are."""
    text = figure_csv(replace(SOURCES, rows=((value, 1),)))
    assert list(csv.reader(io.StringIO(text, newline="")))[1] == [written, "1"]


def test_the_table_is_for_people() -> None:
    """Shares are percentages, dates are written out, what is unknown is a dash, numbers are to the right."""
    table = figure_table(SATISFACTION)
    assert [cell.text for cell in table.headings] == ["Week", "Good", "Good low", "Good high", "Mean"]
    assert [cell.number for cell in table.headings] == [False, True, True, True, True]
    assert [cell.text for cell in table.rows[0]] == ["3 Nov 2025", "60.0\xa0%", "50.0\xa0%", "70.0\xa0%", "40.0\xa0%"]
    assert table.rows[7][1].text == "–"
    assert figure_table(CALIBRATION).rows[0][0].text == "10.0\xa0%"
    assert [cell.text for cell in figure_table(VERSIONS).rows[0][1:]] == ["1 Jan 2026, 12:00", "0.70"]


@pytest.mark.parametrize(
    ("value", "said"), [(1234, "1,234"), (1234.5, "1,234.5"), (0.000123, "0.000123"), (-0.5, "−0.50"), (3.0, "3")]
)
def test_numbers_for_people(value: float, said: str) -> None:
    """With as many digits as can be of interest."""
    assert figure_table(replace(VERSIONS, rows=(("a", None, value),))).rows[0][2].text == said
