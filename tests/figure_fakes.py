"""Figures of every form, with names that somebody may give, for tests of how they are shown."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from rlhf_loop.monitoring.figures.figure import Figure, Form, Series

HOSTILE = "</text><script>alert(1)</script>&amp;$x_1^2$ -- ]]>"
LONG = "W" * 300
ARABIC, CHINESE = "مصدر الأسئلة", "医学の情報源"
_WEEKS = [date(2025, 11, 3) + timedelta(weeks=number) for number in range(20)]

MILESTONE = Figure(
    name="milestone",
    title="Progress to the next milestone",
    summary="153 of 200 answers are rated.",
    columns=("what", "done"),
    rows=(("Rated answers", 153), ("Questions with two or more rated answers", 48)),
    form=Form.PROGRESS,
    x="what",
    series=(Series(label="Done", y="done"),),
    target=200,
)
SATISFACTION = Figure(
    name="satisfaction",
    title="Satisfaction by week",
    summary="Last week, 79 % of the rated answers had 4 or 5.",
    columns=("week", "good", "good_low", "good_high", "mean"),
    rows=tuple(
        (week, None if number == 7 else 0.6 + number / 100, 0.5 + number / 100, 0.7 + number / 100, 0.4)
        for number, week in enumerate(_WEEKS)
    ),
    form=Form.LINES,
    x="week",
    series=(
        Series(label="Rated 4 or 5", y="good", low="good_low", high="good_high"),
        Series(label="Below the threshold", y="mean"),
    ),
    percent=True,
    target=0.8,
    y_label="of all rated answers",
)
VERSIONS = Figure(
    name="versions",
    title="Quality of the versions",
    summary="The live version reaches 78 % accuracy.",
    columns=("version", "made", "auc"),
    rows=tuple(
        (f"passages-1a2b3c4d5e{number:02}", datetime(2026, 1, 1, 12, tzinfo=UTC), 0.7 + number / 100)
        for number in range(9)
    ),
    form=Form.LINES,
    x="version",
    series=(Series(label="AUC", y="auc"),),
    x_label="version",
)
RATINGS = Figure(
    name="ratings",
    title="Ratings by week",
    summary="Experts gave 12 last week.",
    columns=("week", "experts", "end_users"),
    rows=tuple((week, number % 7, 3 * number) for number, week in enumerate(_WEEKS)),
    form=Form.BARS,
    x="week",
    series=(Series(label="Experts", y="experts"), Series(label="End users", y="end_users")),
)
SOURCES = Figure(
    name="sources",
    title="By source",
    summary="wikipedia wins most often.",
    columns=("source", "wins"),
    rows=(
        ("wikipedia", 0.41),
        ("_hidden", 0.2),
        (HOSTILE, 0.1),
        (LONG, 0.0),
        (ARABIC, None),
        (CHINESE, 0.05),
        ("=1+1\ufffe\u202e\n", 0.0),
    ),
    form=Form.BARS,
    x="source",
    series=(Series(label="Share of wins", y="wins"),),
    percent=True,
)
RATERS = Figure(
    name="raters",
    title="Leaning of each rater",
    summary="cleo grades higher than the others.",
    columns=("rater", "leaning", "low", "high"),
    rows=(("anna", -0.25, -0.5, 0.125), ("cleo", 0.5, 0.25, 0.75), (LONG, None, None, None)),
    form=Form.INTERVALS,
    x="rater",
    series=(Series(label="Leaning", y="leaning", low="low", high="high"),),
    target=0,
    target_label="As the others",
)
CALIBRATION = Figure(
    name="calibration",
    title="Predicted against given ratings",
    summary="What the model expects is what experts give.",
    columns=("predicted", "given", "low", "high"),
    rows=((0.1, 0.15, 0.05, 0.3), (0.5, 0.55, 0.4, 0.7), (0.9, 0.93, 0.8, 0.99)),
    form=Form.DIAGONAL,
    x="predicted",
    series=(Series(label="Rated 4 or 5", y="given", low="low", high="high"),),
    percent=True,
    y_range=(0, 1),
    x_label="predicted probability",
)
CURVE = Figure(
    name="learning-curve",
    title="What more ratings would bring",
    summary="About 240 more ratings to reach 80 %, perhaps 100 or 700.",
    columns=("rated", "accuracy", "low", "high"),
    rows=((50, 0.66, 0.6, 0.72), (100, 0.71, 0.66, 0.76), (200, 0.75, 0.72, 0.78)),
    form=Form.INTERVALS,
    x="rated",
    series=(Series(label="Accuracy", y="accuracy", low="low", high="high"),),
    percent=True,
    target=0.8,
)
EMPTY = Figure(
    name="experiment",
    title="Online proof",
    summary="No share of the traffic is served by another order. Set RLHF_EXPERIMENT_SHARE to begin.",
    columns=("arm", "mean"),
    rows=(),
    form=Form.INTERVALS,
    x="arm",
    series=(Series(label="Mean rating", y="mean"),),
)
ALL = (MILESTONE, SATISFACTION, VERSIONS, RATINGS, SOURCES, RATERS, CALIBRATION, CURVE, EMPTY)
