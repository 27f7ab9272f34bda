"""Figures of the dashboard and the report, by name, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.monitoring.figures import model_figures, rating_figures, service_figures
from rlhf_loop.monitoring.figures.figure import Figure, View

#: By name, what matters most first.
FIGURES: Mapping[str, Callable[[View], Figure]] = {
    "milestone": rating_figures.milestone,
    "versions": model_figures.versions,
    "learning": model_figures.learning,
    "satisfaction": rating_figures.satisfaction,
    "quality": service_figures.quality,
    "calibration": model_figures.calibration,
    "certainty": model_figures.certainty,
    "experiment": service_figures.online,
    "drift": service_figures.drifting,
    "sources": service_figures.sources,
    "source-ratings": service_figures.source_ratings,
    "agreement": rating_figures.alpha_by_month,
    "raters": rating_figures.raters,
    "stages": service_figures.stages,
}


def figure(
    name: str,
    engine: Engine,
    settings: Settings,
    *,
    encoder: TextEncoder | None = None,
    now: datetime | None = None,
    weeks: int = 26,
) -> Figure:
    """Compute one part of the dashboard.

    Raises:
        KeyError: there is none of that name.
        DatabaseError: the database cannot be used.
    """
    return FIGURES[name](View(engine, settings, encoder, now or datetime.now(UTC), weeks))
