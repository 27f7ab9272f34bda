"""How far raters agree, in words: Krippendorff's alpha, and each rater's leaning and drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flask import Blueprint, Response

from rlhf_loop import reviewing
from rlhf_loop.domain import UserRole
from rlhf_loop.reviewing import Agreement, RaterReport
from rlhf_loop.web.audience import for_people
from rlhf_loop.web.pages.desk import Desk

#: From here on agreement is good, and from here on it allows careful conclusions (Krippendorff, Content Analysis,
#: chapter on reliability).
GOOD, FAIR = 0.8, 0.667
#: With fewer answers that several raters saw, alpha says next to nothing.
ENOUGH_ANSWERS = 20
_WIDTH, _HEIGHT, _EDGE = 160.0, 44.0, 5.0


@dataclass(frozen=True, slots=True)
class Dot:
    """A week in a rater's small chart."""

    x: float
    y: float


def add_agreement_routes(web: Blueprint, desk: Desk) -> None:
    """Give the blueprint the page on agreement."""

    @web.get("/review/agreement")
    @for_people
    def agreement() -> Response:
        user = desk.rater()
        found = reviewing.agreement(desk.engine())
        everybody = user.role is UserRole.ADMIN
        raters = [each for each in found.raters if everybody or each.reviewer == user.name]
        return desk.page(
            "agreement.html",
            agreement=found,
            meaning=meaning(found),
            raters=raters,
            everybody=everybody,
            dots=dots,
            weeks_in_words=weeks_in_words,
        )


def meaning(found: Agreement) -> str:
    """Say what alpha and its interval mean."""
    if found.alpha is None:
        return (
            f"No number yet. {found.reason} A share of the answers is given to several raters for this: go on "
            "reviewing, and it comes by itself."
        )
    if found.answers < ENOUGH_ANSWERS:
        return (
            f"Only {found.answers} answers were graded by two or more experts, so this number can still change a lot. "
            f"Wait for {ENOUGH_ANSWERS} before you conclude anything."
        )
    low = found.alpha if found.interval is None else found.interval.low
    if low >= GOOD:
        return "The raters agree well: their grades can be taken as one standard."
    if found.alpha >= GOOD:
        return "The raters seem to agree well, but the interval reaches lower: collect more shared answers to be sure."
    if found.alpha >= FAIR:
        return "The raters agree fairly: good enough for careful conclusions. Talk about the answers they differ on."
    return (
        "The raters do not agree enough to rely on single grades. Go through the guidelines together, with the answers "
        "they differ on as examples."
    )


def dots(rater: RaterReport) -> list[Dot]:
    """Return the places of a rater's weeks in their chart: its height is the grades from 1 to 5."""
    first = rater.weeks[0].start if rater.weeks else None
    last = rater.weeks[-1].start if rater.weeks else None
    span = max((last - first).days, 7) if first and last else 7
    return [
        Dot(
            round(_EDGE + (week.start - first).days / span * (_WIDTH - 2 * _EDGE), 1),
            round(_HEIGHT - _EDGE - (week.mean_rating - 1) / 4 * (_HEIGHT - 2 * _EDGE), 1),
        )
        for week in rater.weeks
        if first
    ]


def weeks_in_words(rater: RaterReport) -> str:
    """Say what the chart shows."""
    weeks: Sequence[str] = [
        f"{week.start.day} {week.start.strftime('%B')}: {week.mean_rating:.1f} ({week.reviews})" for week in rater.weeks
    ]
    return f"Mean grade by week, with the number of reviews: {', '.join(weeks)}" if weeks else "No weeks yet"
