"""The dashboard as one file that is complete: to send, to print, to keep.

What stands above all figures: which model is live, what is amiss, the versions and the latest trainings.

A figure as the dashboard and the report show it: its words, its table, and where its pictures and data are.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from math import isfinite
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.engine import Engine

from rlhf_loop import registry
from rlhf_loop.config import Settings
from rlhf_loop.domain import RunRecord
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.monitoring import figures
from rlhf_loop.monitoring.charts import draw, size
from rlhf_loop.monitoring.figures.figure import Figure, FigureTable, figure_csv, figure_table
from rlhf_loop.registry import Version
from rlhf_loop.registry.runs import runs
from rlhf_loop.store.alarms import Alarm, open_alarms
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction
from rlhf_loop.version import __version__

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Overview:
    """`live` is None where no model is live; `versions` and `runs` are the newest, `more_versions` says of older ones.

    `empty` is a database that holds no answers.
    """

    empty: bool
    live: Version | None
    alarms: tuple[Alarm, ...]
    versions: tuple[Version, ...]
    more_versions: bool
    runs: tuple[RunRecord, ...]


def overview(engine: Engine) -> Overview:
    """Read it from the database."""
    versions = registry.versions(engine, limit=_SHOWN + 1)
    with reading(engine) as connection:
        empty = connection.execute(select(Interaction.id).limit(1)).first() is None
    return Overview(
        empty,
        registry.live(engine),
        tuple(open_alarms(engine)),
        tuple(versions[:_SHOWN]),
        len(versions) > _SHOWN,
        tuple(runs(engine, limit=_SHOWN)),
    )


@dataclass(frozen=True, slots=True)
class Picture:
    """One way to draw a figure; `address` is where it is, in pixels it is so large."""

    address: str
    dark: bool
    narrow: bool
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A figure with its pictures, the last of which is for everybody else; none where there is nothing to draw.

    `file` is what the download is called.
    """

    name: str
    title: str
    summary: str
    pictures: tuple[Picture, ...]
    table: FigureTable
    data: str
    file: str


def panel(figure: Figure, *, picture: Callable[[bool, bool], str], data: Callable[[], str]) -> Panel:
    """Return what to show; `picture` gives the address of the one that is dark, and narrow, `data` that of the CSV."""
    ways = ((True, True), (False, True), (True, False), (False, False)) if _drawable(figure) else ()
    pictures = (Picture(picture(dark, narrow), dark, narrow, *size(figure, narrow=narrow)) for dark, narrow in ways)
    return Panel(
        name=figure.name,
        title=figure.title,
        summary=figure.summary,
        pictures=tuple(pictures),
        table=figure_table(figure),
        data=data() if figure.rows else "",
        file=f"{figure.name}.csv",
    )


def _drawable(figure: Figure) -> bool:
    """Tell whether there is anything to draw: rows may hold counts alone."""
    values = (value for each in figure.series for value in figure.column(each.y))
    return any(isinstance(value, (int, float)) and isfinite(value) for value in values)


_STYLES = ("page.css", "people.css", "dashboard.css")


def report(
    engine: Engine,
    settings: Settings,
    *,
    encoder: TextEncoder | None = None,
    now: datetime | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Return the report as HTML: what `/dashboard` shows, without network and without scripts."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    panels = []
    for done, name in enumerate(figures.FIGURES):
        if progress:
            progress(done, len(figures.FIGURES))
        panels.append(_panel(figures.figure(name, engine, settings, encoder=encoder)))
    panels.sort(key=lambda one: not one.pictures)  # as on the dashboard
    pages = Environment(loader=PackageLoader("rlhf_loop.web"), autoescape=True, undefined=StrictUndefined)
    return pages.get_template("rlhf_loop/report.html").render(
        made_at=now or datetime.now(UTC),
        overview=overview(engine),
        panels=panels,
        styles=_styles(),
        version=__version__,
    )


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole, under its name, or not at all.

    Raises:
        OSError: the place cannot be written.
    """
    path = path.resolve()  # a link stays a link: its target is what gets replaced
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        with suppress(OSError):
            draft.unlink()


def _panel(figure: Figure) -> Panel:
    return panel(
        figure,
        picture=lambda dark, narrow: _inline("image/svg+xml", draw(figure, dark=dark, narrow=narrow)),
        data=lambda: _inline("text/csv;charset=utf-8", figure_csv(figure)),
    )


def _inline(kind: str, text: str) -> str:
    return f"data:{kind};base64,{b64encode(text.encode()).decode()}"


def _styles() -> object:
    from markupsafe import Markup

    folder = files("rlhf_loop.web") / "static"
    return Markup("\n".join((folder / name).read_text(encoding="utf-8") for name in _STYLES))
