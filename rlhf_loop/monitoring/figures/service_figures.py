"""Figures of the service: scores, sources, drift, the experiment, and the stages of an answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from sqlalchemy import Float, cast, func, select

from rlhf_loop.domain import Interval
from rlhf_loop.monitoring.drift import MOVED, drift
from rlhf_loop.monitoring.experiment import InterleavingReport, experiment
from rlhf_loop.monitoring.figures.figure import Figure, Form, Series, View, three
from rlhf_loop.monitoring.figures.weekly import Week
from rlhf_loop.monitoring.served_days import ServedSums, served_sums
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction, ServedQuestion
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.text import percent
from rlhf_loop.utils.translation import Message

#: Questions whose stages are looked at, and for how long back.
_TIMED, _TIMED_DAYS = 10_000, 7
#: Ratings of a source from which on it is compared with others in words.
_COMPARED = 10
_DRIFTING = {"questions": Message("questions"), "scores": Message("scores")}
_SOURCE = func.coalesce(Interaction.source, "unknown")


def quality(view: View) -> Figure:
    """The scores of the answers that came first, by week."""
    threshold = view.settings.quality_threshold
    found = _weeks_of_scores(view)
    if found:
        last = found[-1]
        summary = Message.counted(
            "In the week of {week}, {n:,} answer came first, with a score of {mean:.2f} on average; {share} scored "
            "below {threshold:g}. If that share rises, people ask what no source answers well: add documents, or a "
            "source.",
            "In the week of {week}, {n:,} answers came first, with a score of {mean:.2f} on average; {share} scored "
            "below {threshold:g}. If that share rises, people ask what no source answers well: add documents, or a "
            "source.",
            last.count,
            week=last.start,
            mean=last.mean,
            share=percent(last.share),
            threshold=threshold,
        )
    else:
        summary = Message(
            "No answer has been served with a score in {time}. They are, as soon as a model is live.", time=view.time
        )
    return Figure(
        name="quality",
        title=Message("Scores of the first answers by week"),
        summary=summary,
        columns=("week", "answers", "mean_score", "share_below"),
        rows=tuple((each.start, each.count, each.mean, each.share) for each in found),
        form=Form.LINES,
        x="week",
        series=(
            Series(label=Message("mean score"), y="mean_score"),
            Series(label=Message("share below {threshold:g}", threshold=threshold), y="share_below"),
        ),
        percent=True,
        y_range=(0.0, 1.0),
    )


def _sums(view: View) -> Mapping[date, ServedSums]:
    return served_sums(view.engine, since=view.since, threshold=view.settings.quality_threshold)


def _weeks_of_scores(view: View) -> list[Week]:
    sums: dict[date, ServedSums] = defaultdict(ServedSums)
    for day, of in _sums(view).items():
        week = sums[day - timedelta(days=day.weekday())]
        week.answers, week.score_sum, week.below = (
            week.answers + of.answers,
            week.score_sum + of.score_sum,
            week.below + of.below,
        )
    return [
        Week(start, of.answers, of.score_sum / of.answers, of.below / of.answers)
        for start, of in sums.items()
        if of.answers
    ]


def sources(view: View) -> Figure:
    """Return how often each source had the first answer."""
    offered, wins = Counter[str](), Counter[str]()
    for day in _sums(view).values():
        offered.update({name: of.offered for name, of in day.sources.items()})
        wins.update({name: of.first for name, of in day.sources.items()})
    total = wins.total()
    rows = [(name, count, wins[name], wins[name] / total if total else None) for name, count in offered.items()]
    rows.sort(key=lambda row: (-row[2], -row[1], row[0]))
    if rows and total:
        summary = Message.counted(
            "{source} had the first answer most often, to {share} of {n:,} question.",
            "{source} had the first answer most often, to {share} of {n:,} questions.",
            total,
            source=rows[0][0],
            share=percent(rows[0][2] / total),
        )
        never = tuple(row[0] for row in rows if not row[2] and row[1] >= total)
        if never:
            costs = Message("Never first: {sources}; a source that never helps only costs time.", sources=never)
            summary = Message.joined(summary, costs)
    else:
        summary = Message("The service has answered no question in {time}. Ask one at /data-html.", time=view.time)
    return Figure(
        name="sources",
        title=Message("Which source has the first answer?"),
        summary=summary,
        columns=("source", "answers", "first", "share_first"),
        rows=tuple(rows),
        form=Form.BARS,
        x="source",
        series=(Series(label=Message("share of first places"), y="share_first"),),
        percent=True,
    )


def source_ratings(view: View) -> Figure:
    """Return how experts rate the answers of each source."""
    rating = cast(Interaction.rating, Float)
    wanted = (
        select(_SOURCE, func.count(), func.sum(rating), func.sum(rating * rating))
        .where(Interaction.rating.is_not(None), Interaction.created_at >= view.since)
        .group_by(_SOURCE)
    )
    with reading(view.engine) as connection:
        found = [(name, count, _mean(count, *sums)) for name, count, *sums in connection.execute(wanted)]
    found.sort(key=lambda row: (-row[2].value, row[0]))
    known = [row for row in found if row[1] >= _COMPARED]
    if len(known) > 1:
        summary = _best_and_worst(known[0], known[-1])
    elif found:
        summary = Message(
            "It takes two sources with {n} rated answers each to compare them. Experts rate at /review.", n=_COMPARED
        )
    else:
        summary = Message(
            "No answer of {time} has been rated by an expert yet. Experts rate at /review.", time=view.time
        )
    return Figure(
        name="source-ratings",
        title=Message("How experts rate each source"),
        summary=summary,
        columns=("source", "ratings", "mean_rating", "mean_rating_low", "mean_rating_high"),
        rows=tuple((name, count, *_ends(count, mean)) for name, count, mean in found),
        form=Form.INTERVALS,
        x="source",
        series=(Series(label=Message("mean rating"), y="mean_rating", low="mean_rating_low", high="mean_rating_high"),),
        y_range=(1.0, 5.0),
        x_label=Message("mean rating, from 1 to 5"),
    )


def drifting(view: View) -> Figure:
    """Return how far questions and scores have moved from what they were."""
    found = drift(view.engine, encoder=view.encoder, now=view.now, weeks=view.weeks)
    summary = found.reason
    if found.drifted_since:
        summary = Message(
            "The {moved} have drifted since the week of {week}: they are no longer what the model was judged by. Rate "
            "newer answers at /review, and train again: rlhf-loop retrain",
            moved=tuple(_DRIFTING[each] for each in found.moved),
            week=found.drifted_since,
        )
    elif found.compared:
        seen = Message(
            "No drift of the {compared} is seen.", compared=tuple(_DRIFTING[each] for each in found.compared)
        )
        summary = Message.joined(seen, found.reason) if found.reason else seen
    return Figure(
        name="drift",
        title=Message("Do people ask other questions than before?"),
        summary=summary,
        columns=("week", "questions", "question_psi", "question_p", "score_psi", "score_p"),
        rows=tuple(
            (each.week, each.questions, each.question_psi, each.question_p, each.score_psi, each.score_p)
            for each in found.points
        ),
        form=Form.LINES,
        x="week",
        series=(Series(label=Message("questions"), y="question_psi"), Series(label=Message("scores"), y="score_psi")),
        target=MOVED,
        target_label=Message("drift from here on"),
        y_label=Message("population stability index"),
    )


def online(view: View) -> Figure:
    """Return what the live order earns against the other one of the experiment."""
    found = experiment(view.engine)
    rows = [
        (each.policy, each.questions, each.rated, *three(each.good_share), *three(each.mean_rating))
        for each in found.arms
    ]
    said = [_difference(found.good_difference)] if found.good_difference else []
    if found.reason:
        said.append(found.reason)
    if found.interleaving:
        said.append(_in_turn(found.interleaving))
    return Figure(
        name="experiment",
        title=Message("What the model is worth to those who ask"),
        summary=Message.joined(*said),
        columns=(
            "order",
            "questions",
            "rated",
            *("good", "good_low", "good_high"),
            *("mean_rating", "mean_rating_low", "mean_rating_high"),
        ),
        rows=tuple(rows),
        form=Form.INTERVALS,
        x="order",
        series=(Series(label=Message("share of good ratings"), y="good", low="good_low", high="good_high"),),
        percent=True,
        x_label=Message("first answers rated 4 or 5"),
    )


def stages(view: View) -> Figure:
    """Return how long each stage of an answer takes."""
    wanted = (
        select(ServedQuestion.timings)
        .where(ServedQuestion.served_at >= view.now - timedelta(days=_TIMED_DAYS), ServedQuestion.door.is_(None))
        .order_by(ServedQuestion.served_at.desc())
        .limit(_TIMED)
    )
    taken: dict[str, list[float]] = defaultdict(list)
    with reading(view.engine) as connection:
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
        title=Message("Where does the time go?"),
        summary=Message.counted(
            "In the last {days} days the slowest stage was {stage}: {half:,.0f} ms for half of {n:,} question, up to "
            "{most:,.0f} ms for 19 of 20.",
            "In the last {days} days the slowest stage was {stage}: {half:,.0f} ms for half of {n:,} questions, up to "
            "{most:,.0f} ms for 19 of 20.",
            slowest[1],
            days=_TIMED_DAYS,
            stage=slowest[0],
            half=slowest[2],
            most=slowest[3],
        )
        if slowest
        else Message("No question has been answered in the last {days} days. Ask one at /data-html.", days=_TIMED_DAYS),
        columns=("stage", "questions", "median_ms", "p95_ms"),
        rows=tuple(rows),
        form=Form.BARS,
        x="stage",
        series=(
            Series(label=Message("half within"), y="median_ms"),
            Series(label=Message("19 of 20 within"), y="p95_ms"),
        ),
        y_label=Message("milliseconds"),
    )


def _best_and_worst(best: tuple[str, int, Interval], worst: tuple[str, int, Interval]) -> str:
    said = Message(
        "Experts like the answers of {best} best ({best_mean:.1f} on average, {best_ratings}), those of {worst} least "
        "({worst_mean:.1f}, {worst_ratings}).",
        best=best[0],
        best_mean=best[2].value,
        best_ratings=Message.counted("{n:,} rating", "{n:,} ratings", best[1]),
        worst=worst[0],
        worst_mean=worst[2].value,
        worst_ratings=Message.counted("{n:,} rating", "{n:,} ratings", worst[1]),
    )
    if best[2].low > worst[2].high:
        surely = Message("That is more than chance: look at what {worst} gives, or leave it out.", worst=worst[0])
        return Message.joined(said, surely)
    return Message.joined(said, Message("That may be chance."))


def _mean(count: int, total: float, squares: float) -> Interval:
    """Return the mean of so many ratings with its 95 % interval by Student's t, within the scale."""
    t = require("scipy.stats", "serve").t
    mean = float(total) / count
    if count < 2:
        return Interval(mean, 1.0, 5.0)
    # Rounding may leave less than nothing where all are the same.
    variance = max(0.0, (float(squares) - count * mean**2) / (count - 1))
    reach = float(t.ppf(0.975, count - 1)) * (variance / count) ** 0.5
    return Interval(mean, max(1.0, mean - reach), min(5.0, mean + reach))


def _ends(count: int, mean: Interval) -> tuple[float | None, ...]:
    # Of one rating, or of equal ones, no interval says anything.
    return three(mean) if count > 1 and mean.low < mean.high else (mean.value, None, None)


def _difference(of: Interval) -> str:
    if of.low > 0:
        said = Message("The model is worth it")
    elif of.high < 0:
        said = Message("The model does harm; go back by rlhf-loop models rollback")
    else:
        said = Message("No difference is certain yet")
    return Message(
        "{said}: the share of good ratings differs by {points:+.1f} points (95 %: {low:+.1f} to {high:+.1f}) from that "
        "of the other order.",
        said=said,
        points=100 * of.value,
        low=100 * of.low,
        high=100 * of.high,
    )


def _in_turn(found: InterleavingReport) -> str:
    return Message(
        "Both orders in one list: {outcomes} for the live order.",
        outcomes=(
            Message.counted("{n:,} win", "{n:,} wins", found.wins),
            Message.counted("{n:,} loss", "{n:,} losses", found.losses),
            Message.counted("{n:,} tie", "{n:,} ties", found.ties),
        ),
    )


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
