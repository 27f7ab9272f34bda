"""The dashboard as one file that is complete: to send, to print, to keep."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.monitoring import figures
from rlhf_loop.monitoring.charts import draw
from rlhf_loop.monitoring.figures.figure import Figure
from rlhf_loop.monitoring.figures.figure_table import figure_csv
from rlhf_loop.monitoring.overview import overview
from rlhf_loop.monitoring.panel import Panel, panel
from rlhf_loop.version import __version__

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
