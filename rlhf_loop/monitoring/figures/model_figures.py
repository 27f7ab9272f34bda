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
from rlhf_loop.utils.text import counted, percent, rounded, verb
from rlhf_loop.utils.translation import Message

_VERSIONS = 50
#: Rated answers with a score from which on the scores are held against them, and not against those of a training.
ENOUGH_SCORED = 50
#: Scores that are off by so much on average still mean what they say; off by more than the second, they mislead.
_TRUE, _MISLEADING = 0.05, 0.10
#: Rated answers from which on a learning curve has three points.
_FOR_A_CURVE = 120
_FAR = f"more than {HORIZON} times the ratings that there are"


def versions(view: View) -> Figure:
    """Accuracy and AUC of each measured version, the oldest first."""
    rows: list[tuple[Value, ...]] = []
    for each in reversed(registry.versions(view.engine, limit=_VERSIONS)):
        overall = each.metrics.get("overall") or {}
        accuracy, auc = (overall.get(name) or {} for name in ("accuracy", "auc"))
        if accuracy.get("value") is not None:
            ends = [of.get(end) for of in (accuracy, auc) for end in ("value", "low", "high")]
            rows.append((each.id, each.version, str(each.state), each.made_at, *ends))
    live = registry.live(view.engine)
    if not rows:
        summary = "No version has been measured yet. Train one as soon as 50 answers are rated: rlhf-loop train"
    else:
        newest, of = (
            rows[-1],
            "The only version" if len(rows) == 1 else f"The newest of {counted(len(rows), 'version')}",
        )
        right = percent(newest[4])  # type: ignore[arg-type]
        summary = (
            f"{of} is right about {right} of the answers that it was not fitted on, held out or cross-validated; the "
            f"goal is {percent(TARGET)}. {f'Live is version {live.id}, {live.version}.' if live else 'None is live.'}"
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
            Series(label="accuracy", y="accuracy", low="accuracy_low", high="accuracy_high"),
            Series(label="AUC", y="auc", low="auc_low", high="auc_high"),
        ),
        percent=True,
        target=TARGET,
        target_label="goal for accuracy",
        x_label="version",
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
            Series(label="measured", y="accuracy", low="accuracy_low", high="accuracy_high"),
            Series(label="expected", y="expected", low="expected_low", high="expected_high"),
        ),
        percent=True,
        doubling=True,
        target=TARGET,
        target_label="goal",
        x_label="ratings to learn from",
    )


def calibration(view: View) -> Figure:
    """Return what the scores promised, against what experts then gave."""
    found, whose = _rated_bins(view), f"answers of {view.time} that experts rated after they had got a score"
    advice = "Train again on the newest ratings."
    answers = sum(each.answers for each in found)
    if answers < ENOUGH_SCORED:
        scored = answers
        found, version = _trained_bins(view)
        answers = sum(each.answers for each in found)
        advice = "A training on more ratings mends that."
        whose = (
            f"answers that the training of version {version} predicted without having learned from them, as only "
            f"{counted(scored, 'answer')} with a score {verb(scored, 'was', 'were')} rated later; "
            f"it takes {ENOUGH_SCORED}"
        )
    rows = []
    for each in found:
        share = each.share
        rows.append((each.predicted, each.answers, share.value, share.low, share.high))
    return Figure(
        name="calibration",
        title=Message("Do the scores mean what they say?"),
        summary=f"{_calibrated(found, advice)} Judged by {answers:,} {whose}."
        if found
        else f"Nothing can be said yet. It takes a trained model, or {ENOUGH_SCORED} answers that got a score and were "
        "then rated by experts at /review.",
        columns=("score", "answers", "rated_good", "rated_good_low", "rated_good_high"),
        rows=tuple(rows),
        form=Form.DIAGONAL,
        x="score",
        series=(Series(label="rated 4 or 5", y="rated_good", low="rated_good_low", high="rated_good_high"),),
        percent=True,
        target_label="as the score says",
        y_range=(0.0, 1.0),
        x_label="score",
        y_label="share of answers rated 4 or 5",
    )


def certainty(view: View) -> Figure:
    """Return how many questions a threshold of the score leaves, and how many of those have a good answer first."""
    found, version = _of_newest(view, "coverage")
    least = view.settings.answer_threshold
    rows = []
    for each in (Coverage(**one) for one in found):
        good = each.precision
        rows.append((each.threshold, each.answered, each.answered / each.questions, good.value, good.low, good.high))
    set_to = f"It is set to {least:g}." if least else "None is set: RLHF_ANSWER_THRESHOLD."
    return Figure(
        name="certainty",
        title=Message("Which answers are certain enough?"),
        summary=f"What a threshold leaves of {found[0]['questions']:,} questions, by scores of models that had not "
        f"seen them (training of version {version}). {set_to}"
        if found
        else "Nothing can be said yet. It takes a training with two or more rated answers to a question.",
        columns=("threshold", "questions", "answered", "good_first", "good_first_low", "good_first_high"),
        rows=tuple(rows),
        form=Form.LINES,
        x="threshold",
        series=(
            Series(label="a good answer first", y="good_first", low="good_first_low", high="good_first_high"),
            Series(label="questions answered", y="answered"),
        ),
        percent=True,
        y_range=(0.0, 1.0),
        x_label="least score of the first answer",
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
        return f"There is no learning curve yet. A training draws it, with {_FOR_A_CURVE} rated answers or more."
    if outlook is None:
        return (
            f"Too few ratings to see where this leads. With about {_FOR_A_CURVE} rated answers, a training can tell "
            "how many more it takes."
        )
    now, prospect = int(outlook["now"]), Prospect(outlook["prospect"])
    # Some of the ratings are kept for judging, and so will be some of those that come.
    rated = (version.metrics.get("overall") or {}).get("answers") or now
    more, least, most = (
        None if outlook[name] is None else max(0, ceil((outlook[name] - now) * max(1.0, rated / now)))
        for name in ("ratings", "low", "high")
    )
    if prospect is Prospect.REACHED and most == 0:
        return f"The ratings that there are suffice for an accuracy of {goal}. More of them make it surer, and higher."
    if prospect is Prospect.REACHED:
        doubt = _FAR if most is None else f"up to {rounded(most)} more"
        return f"The ratings that there are probably suffice for an accuracy of {goal}; perhaps it takes {doubt}."
    if prospect is Prospect.OUT_OF_REACH:
        return (
            f"More ratings alone will hardly bring an accuracy of {goal}: the curve flattens near "
            f"{percent(outlook['expected'][-1]['accuracy'])}. Look at what raters disagree on, and at the sources."
        )
    if prospect is Prospect.UNKNOWN or more is None:
        return (
            f"Whether more ratings will bring an accuracy of {goal} cannot be told yet: {_between(least, most)}. Go on "
            "rating; each training looks again."
        )
    return (
        f"About {rounded(more)} more rated answers bring an accuracy of {goal}: {_between(least, most)}, if this is "
        "one of the four forecasts in five that hold."
    )


def _between(least: int | None, most: int | None) -> str:
    """Say how many more ratings it takes; `least` is 0 where it may take none."""
    begin = f"at least {rounded(least)} more" if least else "perhaps none"
    if most is None:
        return f"{begin}, possibly {_FAR}"
    return f"between {rounded(least)} and {rounded(most)}" if least else f"{begin}, at most {rounded(most)}"


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


def _calibrated(found: Sequence[Bin], advice: str) -> str:
    off, above = expected_error(found), lean(found)
    points = counted(round(100 * off), "point")
    if off < _TRUE:
        said = f"The scores mean what they say: they are off by {points} of 100 on average."
    elif off < _MISLEADING:
        said = f"The scores are a little off, by {points} of 100 on average."
    else:
        said = f"The scores mislead: they are off by {points} of 100 on average. {advice}"
    if off >= _TRUE and abs(above) > off / 2:
        said += f" They promise too {'much' if above > 0 else 'little'}."
    return said
