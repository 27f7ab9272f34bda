"""Figures of the model: how good its versions are, what more ratings would bring, and whether its scores are true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

from sqlalchemy import case, func, select

from rlhf_loop import registry
from rlhf_loop.domain import GOOD_RATING
from rlhf_loop.monitoring.figures.figure import Figure, Form, Series, Value, View
from rlhf_loop.registry import Version
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction
from rlhf_loop.training.learning_curve import HORIZON, TARGET, Prospect
from rlhf_loop.training.metrics import BINS, Bin, Coverage, expected_error, lean
from rlhf_loop.utils.text import percent
from rlhf_loop.utils.translation import Message

_VERSIONS = 50
#: Rated answers with a score from which on the scores are held against them, and not against those of a training.
ENOUGH_SCORED = 50
#: Scores that are off by so much on average still mean what they say; off by more than the second, they mislead.
_TRUE, _MISLEADING = 0.05, 0.10
#: Rated answers from which on a learning curve has three points.
_FOR_A_CURVE = 120
_FAR = Message("more than {n} times the ratings that there are", n=HORIZON)


def versions(view: View) -> Figure:
    """Accuracy and AUC of each measured version, the oldest first."""
    rows: list[tuple[Value, ...]] = []
    for each in reversed(registry.versions(view.engine, limit=_VERSIONS)):
        overall = each.metrics.get("overall") or {}
        accuracy, auc = (overall.get(name) or {} for name in ("accuracy", "auc"))
        if accuracy.get("value") is not None:
            ends = [of.get(end) for of in (accuracy, auc) for end in ("value", "low", "high")]
            rows.append((each.id, each.version, Message(each.state), each.made_at, *ends))
    live = registry.live(view.engine)
    if not rows:
        summary = Message(
            "No version has been measured yet. Train one as soon as 50 answers are rated: rlhf-loop train"
        )
    else:
        of = Message.counted("The only version", "The newest of {n:,} versions", len(rows))
        right = percent(rows[-1][4])  # type: ignore[arg-type]
        summary = Message.joined(
            Message(
                "{version} is right about {right} of the answers that it was not fitted on, held out or "
                "cross-validated; the goal is {goal}.",
                version=of,
                right=right,
                goal=percent(TARGET),
            ),
            Message("Live is version {id}, {version}.", id=live.id, version=live.version)
            if live
            else Message("None is live."),
        )
    measured = ("accuracy", "accuracy_low", "accuracy_high", "auc", "auc_low", "auc_high")
    return Figure(
        name="versions",
        title=Message("Accuracy and AUC of the versions"),
        summary=summary,
        columns=("number", "version", "state", "made_at", *measured),
        rows=tuple(rows),
        form=Form.LINES,
        x="number",
        series=(
            Series(label=Message("accuracy"), y="accuracy", low="accuracy_low", high="accuracy_high"),
            Series(label=Message("AUC"), y="auc", low="auc_low", high="auc_high"),
        ),
        percent=True,
        target=TARGET,
        target_label=Message("goal for accuracy"),
        x_label=Message("version"),
    )


def learning(view: View) -> Figure:
    """The accuracy for rising numbers of ratings, and the newest training's forecast of it."""
    found = next((each for each in registry.versions(view.engine, limit=_VERSIONS) if _points(each)), None)
    points = _points(found) if found else []
    outlook = _growth(found).get("outlook") if found else None
    measured: dict[int, tuple[Value, ...]] = {
        each["rated"]: tuple(each["accuracy"][end] for end in ("value", "low", "high")) for each in points
    }
    expected: dict[int, tuple[Value, ...]] = {
        each["rated"]: (each["accuracy"], each["low"], each["high"]) for each in _shown(outlook)
    }
    nothing: tuple[Value, ...] = (None, None, None)
    return Figure(
        name="learning",
        title=Message("What more ratings would bring"),
        summary=_forecast(found, outlook),
        columns=(
            "ratings",
            *("accuracy", "accuracy_low", "accuracy_high"),
            *("expected", "expected_low", "expected_high"),
        ),
        rows=tuple(
            (size, *measured.get(size, nothing), *expected.get(size, nothing))
            for size in sorted({*measured, *expected})
        ),
        form=Form.LINES,
        x="ratings",
        series=(
            Series(label=Message("measured"), y="accuracy", low="accuracy_low", high="accuracy_high"),
            Series(label=Message("expected"), y="expected", low="expected_low", high="expected_high"),
        ),
        percent=True,
        doubling=True,
        target=TARGET,
        target_label=Message("goal"),
        x_label=Message("ratings to learn from"),
    )


def calibration(view: View) -> Figure:
    """Return what the scores promised, against what experts then gave."""
    found, advice = _rated_bins(view), Message("Train again on the newest ratings.")
    answers = sum(each.answers for each in found)
    judged = Message(
        "Judged by {answers:,} answers of {time} that experts rated after they had got a score.",
        answers=answers,
        time=view.time,
    )
    if answers < ENOUGH_SCORED:
        scored = answers
        found, version = _trained_bins(view)
        answers = sum(each.answers for each in found)
        advice = Message("A training on more ratings mends that.")
        judged = Message.counted(
            "Judged by {answers:,} answers that the training of version {version} predicted without having learned "
            "from them, as only {n:,} answer with a score was rated later; it takes {enough}.",
            "Judged by {answers:,} answers that the training of version {version} predicted without having learned "
            "from them, as only {n:,} answers with a score were rated later; it takes {enough}.",
            scored,
            answers=answers,
            version=version,
            enough=ENOUGH_SCORED,
        )
    rows = []
    for each in found:
        share = each.share
        rows.append((each.predicted, each.answers, share.value, share.low, share.high))
    return Figure(
        name="calibration",
        title=Message("Do the scores mean what they say?"),
        summary=Message.joined(*_calibrated(found, advice), judged)
        if found
        else Message(
            "Nothing can be said yet. It takes a trained model, or {enough} answers that got a score and were "
            "then rated by experts at /review.",
            enough=ENOUGH_SCORED,
        ),
        columns=("score", "answers", "rated_good", "rated_good_low", "rated_good_high"),
        rows=tuple(rows),
        form=Form.DIAGONAL,
        x="score",
        series=(Series(label=Message("rated 4 or 5"), y="rated_good", low="rated_good_low", high="rated_good_high"),),
        percent=True,
        target_label=Message("as the score says"),
        y_range=(0.0, 1.0),
        x_label=Message("score"),
        y_label=Message("share of answers rated 4 or 5"),
    )


def certainty(view: View) -> Figure:
    """Return how many questions a threshold of the score leaves, and how many of those have a good answer first."""
    found, version = _of_newest(view, "coverage")
    least = view.settings.answer_threshold
    rows = []
    for each in (Coverage(**one) for one in found):
        good = each.precision
        rows.append((each.threshold, each.answered, each.answered / each.questions, good.value, good.low, good.high))
    set_to = (
        Message("It is set to {least:g}.", least=least) if least else Message("None is set: RLHF_ANSWER_THRESHOLD.")
    )
    return Figure(
        name="certainty",
        title=Message("Which answers are certain enough?"),
        summary=Message(
            "What a threshold leaves of {questions:,} questions, by scores of models that had not seen them (training "
            "of version {version}). {set}",
            questions=found[0]["questions"],
            version=version,
            set=set_to,
        )
        if found
        else Message("Nothing can be said yet. It takes a training with two or more rated answers to a question."),
        columns=("threshold", "questions", "answered", "good_first", "good_first_low", "good_first_high"),
        rows=tuple(rows),
        form=Form.LINES,
        x="threshold",
        series=(
            Series(label=Message("a good answer first"), y="good_first", low="good_first_low", high="good_first_high"),
            Series(label=Message("questions answered"), y="answered"),
        ),
        percent=True,
        y_range=(0.0, 1.0),
        x_label=Message("least score of the first answer"),
    )


def _growth(version: Version) -> Mapping[str, Any]:
    return version.metrics.get("growth") or {}


def _points(version: Version) -> Sequence[Mapping[str, Any]]:
    return _growth(version).get("points") or []


def _shown(outlook: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Give what is expected of twice the ratings, or of somewhat more than it takes to reach the goal."""
    if outlook is not None:
        end = max(2 * outlook["now"], 1.3 * (outlook["ratings"] or 0))
        yield from (each for each in outlook["expected"] if each["rated"] <= end)


def _forecast(version: Version | None, outlook: Mapping[str, Any] | None) -> str:
    goal = percent(TARGET)
    if version is None:
        return Message(
            "There is no learning curve yet. A training draws it, with {n} rated answers or more.", n=_FOR_A_CURVE
        )
    if outlook is None:
        return Message(
            "Too few ratings to see where this leads. With about {n} rated answers, a training can tell "
            "how many more it takes.",
            n=_FOR_A_CURVE,
        )
    now, prospect = int(outlook["now"]), Prospect(outlook["prospect"])
    # Some of the ratings are kept for judging, and so will be some of those that come.
    rated = (version.metrics.get("overall") or {}).get("answers") or now
    more, least, most = (
        None if outlook[name] is None else max(0, ceil((outlook[name] - now) * max(1.0, rated / now)))
        for name in ("ratings", "low", "high")
    )
    if prospect is Prospect.REACHED and most == 0:
        return Message(
            "The ratings that there are suffice for an accuracy of {goal}. More of them make it surer, and higher.",
            goal=goal,
        )
    if prospect is Prospect.REACHED:
        doubt = _FAR if most is None else Message("up to {n:,} more", n=_rounded(most))
        return Message(
            "The ratings that there are probably suffice for an accuracy of {goal}; perhaps it takes {doubt}.",
            goal=goal,
            doubt=doubt,
        )
    if prospect is Prospect.OUT_OF_REACH:
        return Message(
            "More ratings alone will hardly bring an accuracy of {goal}: the curve flattens near {end}. Look at what "
            "raters disagree on, and at the sources.",
            goal=goal,
            end=percent(outlook["expected"][-1]["accuracy"]),
        )
    if prospect is Prospect.UNKNOWN or more is None:
        return Message(
            "Whether more ratings will bring an accuracy of {goal} cannot be told yet: {between}. Go on "
            "rating; each training looks again.",
            goal=goal,
            between=_between(least, most),
        )
    return Message(
        "About {more:,} more rated answers bring an accuracy of {goal}: {between}, if this is one of the four "
        "forecasts in five that hold.",
        more=_rounded(more),
        goal=goal,
        between=_between(least, most),
    )


def _rounded(number: float) -> int:
    """Return a number with two digits that count: 47, 480, 12000. More would promise what nobody knows."""
    whole = round(number)
    return round(whole, 2 - len(str(abs(whole))))


def _between(least: int | None, most: int | None) -> Message:
    """Say how many more ratings it takes; `least` is 0 where it may take none."""
    if least and most is not None:
        return Message("between {least:,} and {most:,}", least=_rounded(least), most=_rounded(most))
    if most is not None:
        return Message("perhaps none, at most {most:,}", most=_rounded(most))
    if least:
        return Message("at least {least:,} more, possibly {far}", least=_rounded(least), far=_FAR)
    return Message("perhaps none, possibly {far}", far=_FAR)


def _rated_bins(view: View) -> tuple[Bin, ...]:
    """Return the scores that answers got when they were served, beside the ratings that came later."""
    score = Interaction.score
    # Neither database has a rounding down that the other has, too.
    place = case(*((score < (number + 1) / BINS, number) for number in range(BINS - 1)), else_=BINS - 1)
    wanted = (
        select(place, func.count(), func.sum(score), func.sum(case((Interaction.rating >= GOOD_RATING, 1), else_=0)))
        .where(
            Interaction.rating.is_not(None),
            score.is_not(None),
            Interaction.created_at >= view.since,
            # A score that came with the rating is no prediction.
            Interaction.rated_at > Interaction.created_at,
        )
        .group_by(place)
        .order_by(place)
    )
    with reading(view.engine) as connection:
        found = connection.execute(wanted).all()
    return tuple(Bin(answers=count, predicted=total / count, good=int(good)) for _, count, total, good in found)


def _trained_bins(view: View) -> tuple[tuple[Bin, ...], int]:
    """Return what the newest version's training predicted of answers that it was not fitted on, and its number."""
    found, version = _of_newest(view, "calibration")
    return tuple(Bin(**one) for one in found), version


def _of_newest(view: View, name: str) -> tuple[Sequence[Mapping[str, Any]], int]:
    """Return that list of numbers of the newest version that has it, and the version's number."""
    for each in registry.versions(view.engine, limit=_VERSIONS):
        if found := each.metrics.get(name):
            return found, each.id
    return (), 0


def _calibrated(found: Sequence[Bin], advice: Message) -> Iterator[Message]:
    off, above = expected_error(found), lean(found)
    points = Message.counted("{n} point of 100", "{n} points of 100", round(100 * off))
    if off < _TRUE:
        yield Message("The scores mean what they say: they are off by {points} on average.", points=points)
    elif off < _MISLEADING:
        yield Message("The scores are a little off, by {points} on average.", points=points)
    else:
        yield Message("The scores mislead: they are off by {points} on average.", points=points)
        yield advice
    if off >= _TRUE and abs(above) > off / 2:
        yield Message("They promise too much.") if above > 0 else Message("They promise too little.")
