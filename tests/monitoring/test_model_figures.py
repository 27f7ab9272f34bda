"""Figures of the model: its versions, what more ratings would bring, whether its scores are true."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from figure_rows import NOW, add_version, said, shown
from sqlalchemy import Engine

from rlhf_loop.domain import Rating
from rlhf_loop.monitoring.charts import draw
from rlhf_loop.store.interactions import record

MEASURES = {name: {"value": 0.75, "low": 0.7, "high": 0.8} for name in ("accuracy", "auc")}


def test_versions(engine: Engine) -> None:
    """Measured versions in their order with intervals; one from before the registry is left out."""
    add_version(engine, "old", None, state="retired")
    add_version(engine, "new", {"overall": MEASURES}, state="live")
    found = shown("versions", engine)
    assert [(row[1], row[2], *row[4:]) for row in found.rows] == [("new", "live", 0.75, 0.7, 0.8, 0.75, 0.7, 0.8)]
    assert said("versions", engine) == (
        "The only version is right about 75 % of the answers that it was not fitted on, held out or cross-validated; "
        "the goal is 80 %. Live is version 2, new."
    )
    add_version(engine, "newer", {"overall": MEASURES})
    assert said("versions", engine).startswith("The newest of 2 versions is right about 75 %")


def trained(outlook: dict[str, Any] | None, *, answers: int = 250) -> dict[str, Any]:
    """What a training on so many answers writes down, four fifths of which it was fitted on."""
    points = [{"rated": n, "accuracy": {"value": 0.7, "low": 0.6, "high": 0.8}} for n in (50, 100, 160)]
    expected = [
        {"rated": n, "accuracy": 0.7 + n / 20_000, "low": 0.65, "high": 0.8} for n in (50, 100, 160, 300, 500, 2_000)
    ]
    full = outlook and {"goal": 0.8, "now": 200, "chance": 0.5, "expected": expected, **outlook}
    return {"overall": {**MEASURES, "answers": answers}, "growth": {"points": points, "outlook": full}}


def outlook(prospect: str, ratings: int | None, low: int | None, high: int | None) -> dict[str, Any]:
    return {"prospect": prospect, "ratings": ratings, "low": low, "high": high}


FAR = "more than 10 times the ratings that there are"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "Too few ratings to see where this leads."),
        (outlook("reached", 100, 50, 200), "The ratings that there are suffice for an accuracy of 80 %."),
        (
            outlook("reached", 180, 50, 280),
            "probably suffice for an accuracy of 80 %; perhaps it takes up to 100 more.",
        ),
        (outlook("reached", 180, 50, None), f"perhaps it takes {FAR}."),
        (
            outlook("ahead", 440, 280, 1_000),
            "About 300 more rated answers bring an accuracy of 80 %: between 100 and 1,000",
        ),
        (outlook("ahead", 440, 150, 1_000), "of 80 %: perhaps none, at most 1,000"),
        (outlook("ahead", 440, 280, None), f"of 80 %: at least 100 more, possibly {FAR}"),
        (outlook("unknown", None, 280, None), f"cannot be told yet: at least 100 more, possibly {FAR}. Go on rating"),
        (
            outlook("out of reach", None, None, None),
            "will hardly bring an accuracy of 80 %: the curve flattens near 80 %",
        ),
    ],
)
def test_the_forecast_in_words(sqlite_engine: Engine, found: dict[str, Any] | None, words: str) -> None:
    """How many more ratings it takes, how sure that is, and that nobody knows where nobody does.

    One rating in five is kept for judging, so it takes a quarter more than what the model has to learn from.
    """
    add_version(sqlite_engine, "one", trained(found))
    assert words in said("learning", sqlite_engine)
    assert "<svg" in draw(shown("learning", sqlite_engine))


def test_a_learning_curve(engine: Engine) -> None:
    """Measured and expected share their rows; what is expected goes on to twice the ratings; the newest one counts."""
    add_version(engine, "measured", trained(outlook("ahead", 380, 210, 900)))
    add_version(engine, "before there were curves", {"overall": MEASURES})
    found = shown("learning", engine)
    assert [row[0] for row in found.rows] == [50, 100, 160, 300]
    assert found.rows[0] == (50, 0.7, 0.6, 0.8, pytest.approx(0.7025), 0.65, 0.8)
    assert found.rows[3][1:4] == (None, None, None)


def scored(engine: Engine, count: int, score: float, *, good: int, **fields: Any) -> None:
    """Record answers with that score, so many of them rated 5 and the others 2."""
    later = {"created_at": NOW - timedelta(days=2), "rated_at": NOW, "reviewer": "anna", "score": score, **fields}
    record(
        engine,
        [
            Rating(f"{score} {number} {fields}?", "Answer.", rating=5 if number < good else 2, **later)
            for number in range(count)
        ],
    )


def test_scores_against_ratings(engine: Engine) -> None:
    """Answers that were rated after they had got a score, in ten bins with Wilson's interval."""
    scored(engine, 30, 0.2, good=3)
    scored(engine, 30, 0.95, good=27)
    scored(engine, 1, 1.0, good=1)
    scored(engine, 5, 0.5, good=0, created_at=NOW, rated_at=NOW - timedelta(days=1))
    scored(engine, 5, 0.5, good=0, created_at=NOW - timedelta(weeks=40))
    scored(engine, 5, 0.5, good=0, reviewer="visitor:1", reviewer_role="end_user")
    found = shown("calibration", engine)
    # Wilson's interval of 3 of 30: 0.0346 to 0.2562
    assert found.rows[0] == (
        pytest.approx(0.2),
        30,
        0.1,
        pytest.approx(0.0346, abs=1e-4),
        pytest.approx(0.2562, abs=1e-4),
    )
    assert [(row[0], row[1], row[2]) for row in found.rows[1:]] == [
        (pytest.approx(29.5 / 31), 31, pytest.approx(28 / 31))
    ]
    assert said("calibration", engine) == (
        "The scores are a little off, by 7 points of 100 on average. They promise too much. Judged by 61 answers of "
        "the last 26 weeks that experts rated after they had got a score."
    )


def test_too_few_ratings_of_scored_answers(engine: Engine) -> None:
    """Then it is what the newest training predicted of answers that it was not fitted on, and the figure says so."""
    assert "It takes a trained model, or 50 answers" in said("calibration", engine)
    scored(engine, 1, 0.2, good=0)
    bins = [{"answers": 40, "predicted": 0.21, "good": 8}, {"answers": 60, "predicted": 0.8, "good": 48}]
    add_version(engine, "one", {"calibration": bins})
    found = shown("calibration", engine)
    assert [row[:3] for row in found.rows] == [(0.21, 40, 0.2), (0.8, 60, 0.8)]
    assert said("calibration", engine) == (
        "The scores mean what they say: they are off by 0 points of 100 on average. Judged by 100 answers that the "
        "training of version 1 predicted without having learned from them, as only 1 answer with a score was rated "
        "later; it takes 50."
    )


def test_what_a_threshold_leaves(engine: Engine) -> None:
    """Questions that are answered, and how many of those well, by the newest training that tells."""
    assert "It takes a training" in said("certainty", engine)
    all_of_them = {"threshold": 0.0, "questions": 40, "answered": 40, "good": 24}
    add_version(
        engine, "one", {"coverage": [all_of_them, {**all_of_them, "threshold": 0.8, "answered": 10, "good": 9}]}
    )
    add_version(engine, "two", {})
    found = shown("certainty", engine)
    # Wilson's interval of 9 of 10: 0.5958 to 0.9821
    assert found.rows[1] == (0.8, 10, 0.25, 0.9, pytest.approx(0.5958, abs=1e-4), pytest.approx(0.9821, abs=1e-4))
    assert said("certainty", engine) == (
        "What a threshold leaves of 40 questions, by scores of models that had not seen them (training of version 1). "
        "None is set: RLHF_ANSWER_THRESHOLD."
    )


def test_scores_that_mislead(sqlite_engine: Engine) -> None:
    """Then it is said in which direction, and what to do."""
    scored(sqlite_engine, 60, 0.3, good=48)
    text = said("calibration", sqlite_engine)
    assert text.startswith("The scores mislead: they are off by 50 points of 100 on average. Train again")
    assert "They promise too little." in text
