"""The report: the dashboard as one HTML file that is complete, to send, to print, to keep."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from math import isfinite

from sqlalchemy import select
from sqlalchemy.engine import Engine

from rlhf_loop import registry
from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind, Progress, RunRecord
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.monitoring import figures
from rlhf_loop.monitoring.charts import draw
from rlhf_loop.monitoring.figures.figure import Figure, FigureTable, figure_csv, figure_table
from rlhf_loop.registry import Version
from rlhf_loop.registry.runs import runs
from rlhf_loop.store.alarms import Alarm, open_alarms
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.translation import IN_ENGLISH, Translator
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

    @property
    def off(self) -> Alarm | None:
        """The alarm by which the model is switched off, None while it is on."""
        return next((alarm for alarm in self.alarms if alarm.kind is AlarmKind.MODEL_OFF), None)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A figure with its chart as SVG and the address of its data; both empty where there is nothing to show."""

    name: str
    title: str
    summary: str
    chart: str
    table: FigureTable
    data: str


def panel(figure: Figure, *, data: str, speaks: Translator = IN_ENGLISH) -> Panel:
    """Return what the dashboard and the report show of a figure; `data` is where its CSV is."""
    from markupsafe import Markup

    figure = speaks(figure)
    values = (value for each in figure.series for value in figure.column(each.y))
    # Rows may hold counts alone.
    drawable = any(isinstance(value, (int, float)) and isfinite(value) for value in values)
    return Panel(
        name=figure.name,
        title=figure.title,
        summary=figure.summary,
        chart=Markup(draw(figure, speaks=speaks)) if drawable else "",
        table=figure_table(figure, speaks=speaks),
        data=data if figure.rows else "",
    )


_STYLES = ("page.css", "people.css", "chart.css", "dashboard.css")


def report(
    engine: Engine,
    settings: Settings,
    *,
    encoder: TextEncoder | None = None,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> str:
    """Return the report as HTML: what `/dashboard` shows, without network and without scripts."""
    require("jinja2", "serve")
    from jinja2 import Environment, PackageLoader, StrictUndefined

    now = now or datetime.now(UTC)
    panels = []
    for done, name in enumerate(figures.FIGURES):
        if progress:
            progress(done, len(figures.FIGURES))
        found = figures.figure(name, engine, settings, encoder=encoder, now=now)
        panels.append(panel(found, data=_inline("text/csv;charset=utf-8", figure_csv(found))))
    if progress:
        progress(len(figures.FIGURES), len(figures.FIGURES))
    panels.sort(key=lambda one: not one.chart)  # as on the dashboard
    pages = Environment(loader=PackageLoader("rlhf_loop.web"), autoescape=True, undefined=StrictUndefined)
    pages.globals.update(IN_ENGLISH.template())
    return pages.get_template("rlhf_loop/report.html").render(
        made_at=now, overview=overview(engine), panels=panels, styles=_styles(), version=__version__
    )


def _inline(kind: str, text: str) -> str:
    return f"data:{kind};base64,{b64encode(text.encode()).decode()}"


def _styles() -> object:
    from markupsafe import Markup

    folder = files("rlhf_loop.web") / "static"
    return Markup("\n".join((folder / name).read_text(encoding="utf-8") for name in _STYLES))
