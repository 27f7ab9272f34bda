"""Figures of the ratings: how many there are, how good they are, and how far the raters agree."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select

from rlhf_loop.domain import GOOD_RATING, ReviewerRole
from rlhf_loop.monitoring.figures.figure import Figure, Form, Series, Value, View
from rlhf_loop.monitoring.figures.weekly import Week, weeks
from rlhf_loop.reviewing import RaterReport, agreement, agreement_by_month
from rlhf_loop.reviewing.agreement import ENOUGH_SHARED
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction, Review
from rlhf_loop.utils.text import percent
from rlhf_loop.utils.translation import Message

#: Numbers of rated answers that are worth reaching: enough to train, and from there on about doubling.
_MILESTONES = (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
#: Krippendorff's own bounds: from the first on agreement is good, below the second it is too little.
_GOOD, _POOR = 0.8, 0.667
#: A rater who grades so much above or below the others should hear of it.
_LEANING = 0.5
#: Bars that can be told apart; there may be a thousand raters.
_MOST_RATERS = 30


def milestone(view: View) -> Figure:
    """Answers that experts have rated, on the way to the next number worth reaching."""
    with reading(view.engine) as connection:
        rated = connection.execute(
            select(func.count()).select_from(Interaction).where(Interaction.rating.is_not(None))
        ).scalar_one()
    most = _MILESTONES[-1]
    goal = next((each for each in _MILESTONES if each > rated), (rated // most + 1) * most)
    if not rated:
        summary = Message(
            "No answer is rated yet. With {goal} of them a first model can be trained. Experts rate at /review.",
            goal=goal,
        )
    else:
        summary = Message.joined(
            Message.counted("{n:,} answer is rated by experts.", "{n:,} answers are rated by experts.", rated),
            Message("{more:,} more, and a first model can be trained.", more=goal - rated)
            if goal == _MILESTONES[0]
            else Message("{more:,} more, and there are {goal:,}.", more=goal - rated, goal=goal),
        )
    return Figure(
        name="milestone",
        title=Message("Rated answers"),
        summary=summary,
        columns=("what", "rated", "milestone"),
        rows=((Message("rated answers"), rated, goal),),
        form=Form.PROGRESS,
        x="what",
        series=(Series(label=Message("rated answers"), y="rated"),),
        target=float(goal),
        target_label=Message("{n:,}", n=goal),
    )


def satisfaction(view: View) -> Figure:
    """The share of good ratings by week, experts and end users apart."""
    experts, users = (
        {
            each.start: each
            for each in weeks(
                view.engine,
                select(Review).where(Review.role == role, Review.reviewed_at >= view.since),
                at=Review.reviewed_at,
                value=Review.rating,
                condition=Review.rating >= GOOD_RATING,
            )
        }
        for role in (ReviewerRole.EXPERT, ReviewerRole.END_USER)
    )
    rows: list[tuple[Value, ...]] = []
    for week in sorted({*experts, *users}):
        values: list[Value] = [week]
        for of in (experts, users):
            each = of.get(week)
            values += [each.count, each.mean, each.share] if each else [0, None, None]
        rows.append(tuple(values))
    who = (Message("Experts"), Message("End users"))
    said = [_week(each, of[max(of)]) for each, of in zip(who, (experts, users), strict=True) if of]
    return Figure(
        name="satisfaction",
        title=Message("Satisfaction by week"),
        summary=Message.joined(*said)
        if said
        else Message(
            "Nobody has rated anything in {time}. Experts rate at /review, end users below an answer.", time=view.time
        ),
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
        series=(
            Series(label=Message("experts"), y="expert_good"),
            Series(label=Message("end users"), y="end_user_good"),
        ),
        percent=True,
        y_range=(0.0, 1.0),
        y_label=Message("share of ratings that are 4 or 5"),
    )


def alpha_by_month(view: View) -> Figure:
    """Krippendorff's alpha, month by month."""
    found = agreement_by_month(view.engine)
    known = [each for each in found if each.alpha is not None]
    if not known:
        summary = Message(
            "No month has {n} answers yet that two experts have rated, with more than one grade among "
            "them. Have two people rate the same answers now and then: /review offers them.",
            n=ENOUGH_SHARED,
        )
    else:
        last = known[-1]
        alpha = last.alpha.value if last.alpha else 0.0
        advice = (
            Message("That is good.")
            if alpha >= _GOOD
            else Message("That will do; good is 0.8.")
            if alpha >= _POOR
            else Message(
                "That is little: 0.67 is fair, 0.8 good. Talk about answers with different grades, and improve the "
                "guidelines."
            )
        )
        summary = Message.joined(
            Message.counted(
                "In {month:%B %Y} Krippendorff's alpha was {alpha:.2f}, by {n:,} answer that several experts rated; 1 "
                "is perfect, 0 is chance.",
                "In {month:%B %Y} Krippendorff's alpha was {alpha:.2f}, by {n:,} answers that several experts rated; 1 "
                "is perfect, 0 is chance.",
                last.answers,
                month=last.start,
                alpha=alpha,
            ),
            advice,
        )
    return Figure(
        name="agreement",
        title=Message("Do the raters agree?"),
        summary=summary,
        columns=("month", "answers", "alpha", "alpha_low", "alpha_high"),
        rows=tuple(
            (
                each.start,
                each.answers,
                *((each.alpha.value, each.alpha.low, each.alpha.high) if each.alpha else (None, None, None)),
            )
            for each in found
        ),
        form=Form.LINES,
        x="month",
        series=(Series(label=Message("alpha"), y="alpha", low="alpha_low", high="alpha_high"),),
        target=_GOOD,
        target_label=Message("good"),
        # From chance to agreement; lower where it is worse than chance.
        y_range=(min([0.0, *(each.alpha.low for each in known if each.alpha and each.alpha.low < 0)]), 1.0),
        y_label=Message("Krippendorff's alpha"),
    )


def raters(view: View) -> Figure:
    """Grades of each rater beside the others, those with the most reviews first, no more than can be drawn."""
    found = agreement(view.engine, drifts=False).raters
    most = sorted(found, key=lambda rater: -rater.reviews)[:_MOST_RATERS]
    summary = _leaning(found)
    if len(found) > len(most):
        summary = Message.joined(
            summary,
            Message.counted(
                "Here are the {shown} with the most reviews; {n:,} more is at /review/agreement.",
                "Here are the {shown} with the most reviews; {n:,} more are at /review/agreement.",
                len(found) - len(most),
                shown=len(most),
            ),
        )
    # Wide enough for small differences to look small.
    reach = max([1.0, *(1.1 * abs(each.bias) for each in most if each.bias is not None)])
    return Figure(
        name="raters",
        title=Message("How each rater grades beside the others"),
        summary=summary,
        columns=("rater", "reviews", "mean_rating", "shared", "bias"),
        rows=tuple((each.reviewer, each.reviews, each.mean_rating, each.shared, each.bias) for each in most),
        form=Form.INTERVALS,
        x="rater",
        series=(Series(label=Message("grades above or below the others"), y="bias"),),
        target=0.0,
        target_label=Message("as the others"),
        y_range=(-reach, reach),
    )


def _week(who: Message, of: Week) -> Message:
    return Message.counted(
        "{who} gave 4 or 5 to {share} of the answers that they rated in the week of {week} ({n:,} rating, {mean:.1f} "
        "on average).",
        "{who} gave 4 or 5 to {share} of the answers that they rated in the week of {week} ({n:,} ratings, {mean:.1f} "
        "on average).",
        of.count,
        who=who,
        share=percent(of.share),
        week=of.start,
        mean=of.mean,
    )


def _leaning(found: Sequence[RaterReport]) -> str:
    known = [each for each in found if each.bias is not None and each.shared >= ENOUGH_SHARED]
    if not known:
        return Message(
            "No rater shares {n} answers with others yet. Experts rate the same answers at /review.", n=ENOUGH_SHARED
        )
    named = sorted(
        ((each.reviewer, each.bias) for each in known if each.bias is not None and abs(each.bias) >= _LEANING),
        key=lambda one: -abs(one[1]),
    )
    if not named:
        return Message("Nobody grades far above or below the others on the same answers.")
    leaning = Message(
        "On the same answers, {leanings}. Talk about what a 3 and a 4 are, or improve the guidelines.",
        leanings=tuple(
            Message("{name} grades {by:.1f} above the others", name=name, by=bias)
            if bias > 0
            else Message("{name} grades {by:.1f} below the others", name=name, by=-bias)
            for name, bias in named[:3]
        ),
    )
    if len(named) > 3:
        return Message.joined(leaning, Message("So do {n} more in the data.", n=len(named) - 3))
    return leaning
