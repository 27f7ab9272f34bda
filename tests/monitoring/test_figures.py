"""All figures of the dashboard: each is there, and has words for where nothing is."""

from __future__ import annotations

import re

import pytest
from figure_rows import shown
from sqlalchemy import Engine

from rlhf_loop.config import Settings
from rlhf_loop.monitoring.charts import draw
from rlhf_loop.monitoring.figures import FIGURES, figure


@pytest.mark.parametrize("name", FIGURES)
def test_an_empty_database_says_what_is_missing(engine: Engine, name: str) -> None:
    """Each figure has its name, words for what brings it, and can be drawn all the same."""
    found = shown(name, engine)
    assert found.name == name
    assert re.search(r"/review|/data-html|rlhf-loop|RLHF_|training|model is live|are what later ones", found.summary)
    assert found.summary.endswith((".", "train"))
    assert "\n" not in found.summary
    assert {found.x, *(each.y for each in found.series)} <= set(found.columns)
    assert "<svg" in draw(found)


def test_there_is_no_such_figure(sqlite_engine: Engine) -> None:
    """An unknown name is an error."""
    with pytest.raises(KeyError):
        figure("nothing", sqlite_engine, Settings())
