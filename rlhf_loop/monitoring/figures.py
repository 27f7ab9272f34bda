"""The parts of the dashboard: each a figure, by name, in the order in which they are shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.engine import Engine

from rlhf_loop import registry
from rlhf_loop.config import Settings
from rlhf_loop.db import reading
from rlhf_loop.domain import Interval, ReviewerRole
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.learning_curve import TARGET
from rlhf_loop.monitoring.drift import drift
from rlhf_loop.monitoring.experiment import experiment
from rlhf_loop.monitoring.figure import Figure, Form, Series, Value
from rlhf_loop.monitoring.weekly import rated_weeks, scored_weeks
from rlhf_loop.reviewing import agreement
from rlhf_loop.tables import Interaction, ServedQuestion

#: Numbers of rated answers that are worth reaching: enough to train, and from there on doubling.
_MILESTONES = (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000)
_VERSIONS = 50
#: Questions whose stages are looked at, and for how long back.
_TIMED, _TIMED_DAYS = 10_000, 7


@dataclass(frozen=True, slots=True)
class _Asked:
    engine: Engine
    settings: Settings
    encoder: TextEncoder | None
    now: datetime
    weeks: int

    @property
    def since(self) -> datetime:
        return self.now - timedelta(weeks=self.weeks)


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
    return FIGURES[name](_Asked(engine, settings, encoder, now or datetime.now(UTC), weeks))


def _milestone(asked: _Asked) -> Figure:
    with reading(asked.engine) as connection:
        rated = connection.execute(
            select(func.count()).select_from(Interaction).where(Interaction.rating.is_not(None))
        ).scalar_one()
    goal = next((each for each in _MILESTONES if each > rated), _MILESTONES[-1])
    missing = goal - rated
    what = "a first model can be trained" if goal == _MILESTONES[0] else f"there are {goal:,}"
    return Figure(
        name="milestone",
        title="Rated answers",
        summary=f"{rated:,} answers are rated by experts. {missing:,} more, and {what}.",
        columns=("what", "rated", "milestone"),
        rows=(("rated answers", rated, goal),),
        form=Form.PROGRESS,
        x="what",
        series=(Series(label="rated answers", y="rated"),),
        target=float(goal),
        target_label=f"{goal:,}",
    )


def _versions(asked: _Asked) -> Figure:
    rows: list[tuple[Value, ...]] = []
    for each in reversed(registry.versions(asked.engine, limit=_VERSIONS)):
        overall = each.metrics.get("overall") or {}
        accuracy, auc = (overall.get(name) or {} for name in ("accuracy", "auc"))
        if accuracy.get("value") is not None:
            ends = [of.get(end) for of in (accuracy, auc) for end in ("value", "low", "high")]
            rows.append((each.id, each.version, str(each.state), each.made_at, *ends))
    live = registry.live(asked.engine)
    if not rows:
        summary = "No version has been measured yet. Train one: rlhf-loop train"
    else:
        last = rows[-1][4]
        summary = f"The newest of {len(rows)} versions has an accuracy of {last:.0%}, the goal is {TARGET:.0%}. " + (
            f"Live is version {live.id}, {live.version}." if live else "None is live."
        )
    measured = ("accuracy", "accuracy_low", "accuracy_high", "auc", "auc_low", "auc_high")
    return Figure(
        name="versions",
        title="Accuracy and AUC over versions",
        summary=summary,
        columns=("number", "version", "state", "made_at", *measured),
        rows=tuple(rows),
        form=Form.LINES,
        x="number",
        series=(
            Series(label="accuracy", y="accuracy", low="accuracy_low", high="accuracy_high"),
            Series(label="AUC", y="auc", low="auc_low", high="auc_high"),
        ),
        percent=True,
        target=TARGET,
        target_label="goal for accuracy",
        x_label="version",
    )


def _satisfaction(asked: _Asked) -> Figure:
    by_role = {
        role: {each.week: each for each in rated_weeks(asked.engine, role, since=asked.since)} for role in ReviewerRole
    }
    experts, users = by_role[ReviewerRole.EXPERT], by_role[ReviewerRole.END_USER]
    rows: list[tuple[Value, ...]] = []
    for week in sorted({*experts, *users}):
        values: list[Value] = [week]
        for of in (experts, users):
            each = of.get(week)
            values += [each.ratings, each.mean, each.good] if each else [0, None, None]
        rows.append(tuple(values))
    said = []
    for who, of in (("experts", experts), ("end users", users)):
        if of:
            each = of[max(of)]
            said.append(f"{who} {each.good:.0%} (mean {each.mean:.1f}, {each.ratings} ratings)")
    return Figure(
        name="satisfaction",
        title="Satisfaction by week",
        summary=f"Good ratings, 4 or 5, in the last week that had any: {'; '.join(said)}."
        if said
        else "Nobody has rated anything in this time. Experts rate at /review, end users below an answer.",
        columns=(
            "week",
            "expert_ratings",
            "expert_mean",
            "expert_good",
            "end_user_ratings",
            "end_user_mean",
            "end_user_good",
        ),
        rows=tuple(rows),
        form=Form.LINES,
        x="week",
        series=(Series(label="experts, 4 or 5", y="expert_good"), Series(label="end users, 4 or 5", y="end_user_good")),
        percent=True,
        y_range=(0.0, 1.0),
    )


def _quality(asked: _Asked) -> Figure:
    threshold = asked.settings.quality_threshold
    weeks = scored_weeks(asked.engine, threshold=threshold, since=asked.since)
    return Figure(
        name="quality",
        title="Scores of the first answers by week",
        summary=f"In the last week {weeks[-1].answers:,} answers came first with a mean score of {weeks[-1].mean:.2f}; "
        f"{weeks[-1].weak:.0%} were below {threshold:g}. A rising share means questions without a good answer."
        if weeks
        else "No answer has been served with a score in this time. They are, as soon as a model is live.",
        columns=("week", "answers", "mean_score", "share_below"),
        rows=tuple((each.week, each.answers, each.mean, each.weak) for each in weeks),
        form=Form.LINES,
        x="week",
        series=(
            Series(label="mean score", y="mean_score"),
            Series(label=f"share below {threshold:g}", y="share_below"),
        ),
        percent=True,
        y_range=(0.0, 1.0),
    )


def _sources(asked: _Asked) -> Figure:
    source = func.coalesce(Interaction.source, "unknown")
    offered = (
        select(source, func.count(), func.avg(Interaction.rating))
        .where(Interaction.created_at >= asked.since)
        .group_by(source)
    )
    won = (
        select(source, func.count())
        .join(ServedQuestion, ServedQuestion.first_id == Interaction.external_id)
        .where(ServedQuestion.served_at >= asked.since)
        .group_by(source)
    )
    with reading(asked.engine) as connection:
        wins = {name: count for name, count in connection.execute(won)}
        found = connection.execute(offered).all()
    total = sum(wins.values())
    rows = [
        (name, count, wins.get(name, 0), wins.get(name, 0) / total if total else None, _number(mean))
        for name, count, mean in found
    ]
    rows.sort(key=lambda row: (-row[2], -row[1], row[0]))
    best = rows[0] if rows and total else None
    return Figure(
        name="sources",
        title="Answers by source",
        summary=f"{best[0]} had the first answer most often: {best[3]:.0%} of {total:,} questions."
        if best
        else "No question has been answered by the service in this time.",
        columns=("source", "answers", "first", "share_first", "mean_rating"),
        rows=tuple(rows),
        form=Form.BARS,
        x="source",
        series=(Series(label="share of first places", y="share_first"),),
        percent=True,
    )


def _agreement(asked: _Asked) -> Figure:
    found = agreement(asked.engine)
    if found.alpha is None:
        summary = found.reason or "Agreement cannot be told yet."
    else:
        summary = f"Krippendorff's alpha is {found.alpha:.2f}{_ends(found.interval)} on {found.answers} answers. "
        summary += "From 0.8 on raters agree well, below 0.67 the guidelines need work."
    return Figure(
        name="agreement",
        title="How each rater grades beside the others",
        summary=summary,
        columns=("rater", "reviews", "mean_rating", "shared", "bias"),
        rows=tuple((each.reviewer, each.reviews, each.mean_rating, each.shared, each.bias) for each in found.raters),
        form=Form.INTERVALS,
        x="rater",
        series=(Series(label="grades above or below the others", y="bias"),),
        target=0.0,
        target_label="as the others",
    )


def _drift(asked: _Asked) -> Figure:
    found = drift(asked.engine, encoder=asked.encoder, now=asked.now, weeks=asked.weeks)
    if found.drifted_since:
        summary = f"Drift since the week of {found.drifted_since:%d %B %Y}: questions or scores are not what they were."
    else:
        summary = " ".join(filter(None, ("No drift is seen." if found.points else "", found.reason)))
    return Figure(
        name="drift",
        title="Drift of questions and scores by week",
        summary=summary,
        columns=("week", "questions", "question_psi", "question_p", "score_psi", "score_p"),
        rows=tuple(
            (each.week, each.questions, each.question_psi, each.question_p, each.score_psi, each.score_p)
            for each in found.points
        ),
        form=Form.LINES,
        x="week",
        series=(Series(label="questions", y="question_psi"), Series(label="scores", y="score_psi")),
        target=0.2,
        target_label="drift from here on",
        y_label="population stability index",
    )


def _experiment(asked: _Asked) -> Figure:
    found = experiment(asked.engine)
    rows = [
        (each.policy, each.questions, each.rated, *_three(each.good_share), *_three(each.mean_rating))
        for each in found.arms
    ]
    by = found.good_difference
    summary = found.reason
    if by is not None:
        summary = (
            f"The live order earns {100 * by.value:+.1f} points of good ratings against the other "
            f"(95 % {100 * by.low:+.1f} to {100 * by.high:+.1f}). {found.reason}"
        ).strip()
    if found.interleaving is not None:
        each = found.interleaving
        summary += f" Shown in turn: {each.wins} wins of the live order, {each.losses} losses, {each.ties} ties."
    return Figure(
        name="experiment",
        title="What the model is worth online",
        summary=summary.strip(),
        columns=(
            "order",
            "questions",
            "rated",
            "good",
            "good_low",
            "good_high",
            "mean_rating",
            "mean_rating_low",
            "mean_rating_high",
        ),
        rows=tuple(rows),
        form=Form.INTERVALS,
        x="order",
        series=(Series(label="share of good ratings", y="good", low="good_low", high="good_high"),),
        percent=True,
    )


def _stages(asked: _Asked) -> Figure:
    wanted = (
        select(ServedQuestion.timings)
        .where(ServedQuestion.served_at >= asked.now - timedelta(days=_TIMED_DAYS))
        .order_by(ServedQuestion.served_at.desc())
        .limit(_TIMED)
    )
    taken: dict[str, list[float]] = defaultdict(list)
    with reading(asked.engine) as connection:
        for (timings,) in connection.execute(wanted):
            for stage, value in (timings or {}).items():
                taken[stage].append(float(value))
    rows = sorted(
        ((name, len(values), _quantile(values, 0.5), _quantile(values, 0.95)) for name, values in taken.items()),
        key=lambda row: -row[3],
    )
    slowest = next((row for row in rows if row[0] != "total"), None)
    return Figure(
        name="stages",
        title="Slowest stages of an answer",
        summary=f"Of the last {_TIMED_DAYS} days the slowest stage is {slowest[0]}: {slowest[2]:.0f} ms in the median, "
        f"{slowest[3]:.0f} ms for one question in twenty."
        if slowest
        else f"No question has been answered in the last {_TIMED_DAYS} days.",
        columns=("stage", "questions", "median_ms", "p95_ms"),
        rows=tuple(rows),
        form=Form.BARS,
        x="stage",
        series=(Series(label="median", y="median_ms"), Series(label="19 of 20 within", y="p95_ms")),
        y_label="milliseconds",
    )


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _three(of: Interval | None) -> tuple[float | None, float | None, float | None]:
    return (of.value, of.low, of.high) if of else (None, None, None)


def _ends(of: Interval | None) -> str:
    return f" (95 % {of.low:.2f} to {of.high:.2f})" if of else ""


def _number(value: object) -> float | None:
    # PostgreSQL averages whole numbers to a Decimal.
    return None if value is None else float(str(value))


#: By name, in the order in which they are shown.
FIGURES: Mapping[str, Callable[[_Asked], Figure]] = {
    "milestone": _milestone,
    "versions": _versions,
    "satisfaction": _satisfaction,
    "quality": _quality,
    "sources": _sources,
    "agreement": _agreement,
    "drift": _drift,
    "experiment": _experiment,
    "stages": _stages,
}
