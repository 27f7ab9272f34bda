"""The dashboard for admins: the live model, open alarms, and each figure with its chart and its data.

Each process keeps the figures that it has computed lately, so that nobody waits for the slow ones.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from threading import Condition, Thread
from time import monotonic

from flask import Blueprint, Response, request, url_for
from werkzeug.exceptions import InternalServerError, NotFound, ServiceUnavailable

from rlhf_loop.config import Settings
from rlhf_loop.domain import UserRole
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.monitoring import figures
from rlhf_loop.monitoring.charts import picture
from rlhf_loop.monitoring.figures.figure import Figure, figure_csv
from rlhf_loop.monitoring.report import Panel, overview, panel
from rlhf_loop.utils.translation import Message
from rlhf_loop.version import __version__
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.localization import translator
from rlhf_loop.web.pages.people import page
from rlhf_loop.web.problems import html_errors
from rlhf_loop.web.process import Database

logger = logging.getLogger(__name__)

#: Names of states and alarms, here for the catalogues.
NAMES = (
    *(Message("live"), Message("candidate"), Message("retired"), Message("rejected")),
    *(Message("running"), Message("succeeded"), Message("failed")),
    *(Message("Accuracy"), Message("Drift"), Message("Source"), Message("Queue"), Message("Model file")),
    *(Message("Training"), Message("Model off"), Message("Backup")),
)

_MAX_AGE_S = 60.0
#: A figure stays for so many times as long as it takes to compute: a slow one is not to keep a core busy.
_TIMES_ITS_WORK = 20
_THREADS = 2


@dataclass(frozen=True, slots=True)
class FigurePanel:
    """A figure, or None: it `failed`, or is still being computed."""

    figure: Figure | None
    failed: bool = False


@dataclass(slots=True)
class _Entry:
    shown: FigurePanel = FigurePanel(None)
    fresh_until: float = 0.0
    wanted: bool = False


class Board:
    """Computes figures by name in threads of its own, each once however many ask; they end when nothing is left."""

    def __init__(
        self, compute: Callable[[str], Figure], *, max_age_s: float = _MAX_AGE_S, clock: Callable[[], float] = monotonic
    ) -> None:
        self._compute, self._max_age_s, self._clock = compute, max_age_s, clock
        self._changed = Condition()
        self._entries: dict[str, _Entry] = {}
        self._waiting: deque[str] = deque()
        self._threads = 0

    def get(self, names: Iterable[str], *, wait_s: float) -> dict[str, FigurePanel]:
        """Return the figures, after at most `wait_s` seconds: those that are not ready as they were before, if ever."""
        names = list(names)
        with self._changed:
            for name in names:
                self._ask(name)
            self._changed.wait_for(lambda: not any(self._entries[name].wanted for name in names), timeout=wait_s)
            return {name: self._entries[name].shown for name in names}

    def _ask(self, name: str) -> None:
        entry = self._entries.setdefault(name, _Entry())
        if entry.wanted or self._clock() < entry.fresh_until:
            return
        entry.wanted = True
        self._waiting.append(name)
        if self._threads < _THREADS:
            self._threads += 1
            Thread(target=self._work, name="dashboard", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._threads -= 1
                    return
                name = self._waiting.popleft()
            began = self._clock()
            shown = self._computed(name)
            now = self._clock()
            with self._changed:
                entry = self._entries[name]
                entry.shown, entry.wanted = shown, False
                entry.fresh_until = now + max(self._max_age_s, _TIMES_ITS_WORK * (now - began))
                self._changed.notify_all()

    def _computed(self, name: str) -> FigurePanel:
        try:
            return FigurePanel(self._compute(name))
        except Exception:
            # One figure that cannot be computed does not take the others with it; the page says that it failed.
            logger.exception("The figure %s of the dashboard cannot be computed.", name)
            return FigurePanel(None, failed=True)


#: Seconds that the page waits for figures, and a picture for its own.
_PATIENCE_S, _PATIENCE_FOR_ONE_S = 1.5, 20.0
_RETRY_AFTER_S = 30
#: A picture needs its own colours, and nothing else; opened by itself it is as harmless as in a page.
_PICTURE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"


@dataclass(frozen=True, slots=True)
class _Part:
    """A place on the page; without its panel, that could not be computed."""

    name: str
    title: str
    panel: Panel | None


def add_routes(
    web: Blueprint, settings: Settings, database: Database, guard: Guard, encoder: Callable[[], TextEncoder | None]
) -> None:
    """Give the blueprint the dashboard with its pictures and its data; `encoder` reads questions to compare them."""
    board = Board(lambda name: figures.figure(name, database.engine(), settings, encoder=encoder()))

    @web.get("/dashboard")
    @html_errors
    def dashboard() -> Response:
        guard.signed_in(UserRole.ADMIN)
        found = overview(database.engine())
        shown = board.get(figures.FIGURES, wait_s=_PATIENCE_S)
        parts = [_part(name, each) for name, each in shown.items() if each.figure is not None or each.failed]
        # What has no picture yet comes last: beside a picture it would leave a hole.
        parts.sort(key=lambda part: part.panel is not None and not part.panel.chart)
        pending = len(shown) - len(parts)
        return page("dashboard.html", guard, overview=found, parts=parts, pending=pending, here=url_for(".dashboard"))

    @web.get("/dashboard/<name>.svg")
    @html_errors
    def dashboard_picture(name: str) -> Response:
        guard.signed_in(UserRole.ADMIN)
        figure = _figure(board, name)
        response = Response(content_type="image/svg+xml; charset=utf-8")
        response.headers["Content-Security-Policy"] = _PICTURE_POLICY
        speaks = translator()
        response.set_etag(_tag(figure, speaks.language))
        if response.make_conditional(request).status_code != 304:
            response.set_data(picture(speaks(figure), speaks=speaks))
        return response

    @web.get("/dashboard/<name>.csv")
    @html_errors
    def dashboard_data(name: str) -> Response:
        guard.signed_in(UserRole.ADMIN)
        figure = _figure(board, name)
        response = Response(figure_csv(figure), content_type="text/csv; charset=utf-8; header=present")
        response.headers["Content-Disposition"] = f'attachment; filename="{figure.name}.csv"'
        response.headers["Cache-Control"] = "no-store"
        return response


def _part(name: str, shown: FigurePanel) -> _Part:
    if shown.figure is None:
        return _Part(name, name.replace("-", " ").capitalize(), None)
    found = panel(shown.figure, data=url_for(".dashboard_data", name=name), speaks=translator())
    return _Part(name, found.title, found)


def _figure(board: Board, name: str) -> Figure:
    """Return a figure, computed lately.

    Raises:
        HTTPException: there is none of that name, or it cannot be had now.
    """
    if name not in figures.FIGURES:
        raise NotFound(f"There is no figure {name[:80]!r}. All of them are at {url_for('.dashboard')}")
    shown = board.get([name], wait_s=_PATIENCE_FOR_ONE_S)[name]
    if shown.figure is not None:
        return shown.figure
    if shown.failed:
        raise InternalServerError("This figure could not be computed. The service's log says why; try again later.")
    raise ServiceUnavailable("This figure is still being computed. Try again in a moment.", retry_after=_RETRY_AFTER_S)


def _tag(figure: Figure, language: str) -> str:
    # The version, too: another one may draw it in another way.
    return blake2b(repr((__version__, language, figure)).encode(), digest_size=16).hexdigest()
