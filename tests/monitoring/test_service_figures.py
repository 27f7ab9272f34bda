"""Figures of the service: scores, sources, drift, the experiment, stages."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from figure_rows import MONDAY, NOW, add, said, serve, shown
from sqlalchemy import Engine

from rlhf_loop.domain import Interval
from rlhf_loop.monitoring.drift import Drift, DriftPoint
from rlhf_loop.monitoring.experiment import ArmReport, ExperimentReport, InterleavingReport
from rlhf_loop.monitoring.figures import service_figures


def test_quality_and_sources(engine: Engine) -> None:
    """Scores of what came first by week with the share of weak ones; by source how often it came first."""
    for number, (score, source) in enumerate([(0.9, "index"), (0.3, "index"), (0.6, "arxiv"), (0.1, "arxiv")]):
        served = {"external_id": str(number), "candidate_group": f"g{number}"}
        add(engine, number, score=score, source=source, created_at=NOW, rating=number + 1, **served)
    for number, first in enumerate(("0", "1", "2", None)):
        serve(engine, first, group=f"g{number}")
    found = shown("quality", engine)
    ((week, answers, mean, weak),) = found.rows
    assert (week, answers, mean, weak) == (MONDAY, 3, pytest.approx(0.6), pytest.approx(1 / 3))
    assert "3 answers came first, with a score of 0.60 on average; 33 % scored" in said("quality", engine)
    sources = shown("sources", engine)
    assert sources.rows == (("index", 2, 2, pytest.approx(2 / 3)), ("arxiv", 2, 1, pytest.approx(1 / 3)))
    assert said("sources", engine) == "index had the first answer most often, to 67 % of 3 questions."


def test_a_source_that_never_helps(engine: Engine) -> None:
    """A source with answers to all questions that never comes first is named; imported answers are of no source."""
    for name, group in (("index", "g"), ("noise", "g"), ("imported", "i"), ("imported too", None)):
        add(engine, name, source=name, external_id=name, created_at=NOW, score=0.5, candidate_group=group)
    serve(engine, "index", group="g")
    assert said("sources", engine) == (
        "index had the first answer most often, to 100 % of 1 question. Never first: noise; a source that never helps "
        "only costs time."
    )
    assert "1 answer came first" in said("quality", engine)


def test_ratings_by_source(engine: Engine) -> None:
    """The mean of the experts' ratings with its interval, the best source first; of one rating there is none."""
    for number in range(10):
        add(engine, f"a{number}", source="index", created_at=NOW, rating=4 + number % 2)
        add(engine, f"b{number}", source="arxiv", created_at=NOW, rating=1 + number % 2)
    add(engine, "c", created_at=NOW, rating=3)
    add(engine, "d", source="index", created_at=NOW)
    add(engine, "e", source="index", created_at=NOW - timedelta(weeks=30), rating=1)
    found = shown("source-ratings", engine)
    # Student's t for ten values with a deviation of 0.527: 2.262 x 0.527 / sqrt(10)
    assert found.rows == (
        ("index", 10, 4.5, pytest.approx(4.123, abs=0.001), pytest.approx(4.877, abs=0.001)),
        ("unknown", 1, 3.0, None, None),
        ("arxiv", 10, 1.5, pytest.approx(1.123, abs=0.001), pytest.approx(1.877, abs=0.001)),
    )
    assert found.summary == (
        "Experts like the answers of index best (4.5 on average, 10 ratings), those of arxiv least (1.5, 10 ratings). "
        "That is more than chance: look at what arxiv gives, or leave it out."
    )


def test_sources_that_cannot_be_compared_yet(engine: Engine) -> None:
    """Few ratings say nothing of a source, and near ones may be chance."""
    add(engine, "a", source="index", created_at=NOW, rating=4)
    assert "It takes two sources with 10 rated answers each" in said("source-ratings", engine)
    for number in range(10):
        add(engine, f"a{number}", source="index", created_at=NOW, rating=4 + number % 2)
        add(engine, f"b{number}", source="arxiv", created_at=NOW, rating=3 + number % 3)
    assert said("source-ratings", engine).endswith("That may be chance.")


@pytest.mark.parametrize(
    ("moved", "compared", "reason", "words"),
    [
        (("questions",), ("questions",), "", "The questions have drifted since the week of 18 May 2026"),
        (("questions", "scores"), ("questions", "scores"), "", "The questions and scores have drifted"),
        ((), ("questions", "scores"), "", "No drift of the questions and scores is seen."),
        ((), ("scores",), "Only the scores are compared: why.", "No drift of the scores is seen. Only the scores"),
        ((), (), "Drift cannot be seen yet: why.", "Drift cannot be seen yet: why."),
    ],
)
def test_drift_in_words(
    sqlite_engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    moved: tuple[str, ...],
    compared: tuple[str, ...],
    reason: str,
    words: str,
) -> None:
    """What has drifted since when, or what has not; never that nothing is seen where nothing could be."""
    point = DriftPoint(week=MONDAY, questions=60, question_psi=0.1)
    since = MONDAY if moved else None
    found = Drift(
        reference_from=MONDAY,
        reference_until=MONDAY,
        points=(point,),
        drifted_since=since,
        reason=reason,
        moved=moved,
        compared=compared,
    )
    monkeypatch.setattr(service_figures, "drift", lambda *_, **__: found)
    assert said("drift", sqlite_engine).startswith(words)
    assert ("No drift" in said("drift", sqlite_engine)) == (not moved and bool(compared))
    assert shown("drift", sqlite_engine).rows == ((date(2026, 5, 18), 60, 0.1, None, None, None),)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.05, "The model is worth it: the share of good ratings differs by +3.0 points (95 %: +1.0 to +5.0)"),
        (-0.02, 0.08, "No difference is certain yet: the share of good ratings differs by +3.0 points (95 %: -2.0"),
        (-0.9, -0.1, "The model does harm; go back by rlhf-loop models rollback"),
    ],
)
def test_the_experiment_in_words(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch, low: float, high: float, words: str
) -> None:
    """How far the orders differ, whether that is certain, and what to do."""
    arms = (ArmReport("live", 50, 20, None, Interval(0.6, 0.5, 0.7)), ArmReport("incoming", 50, 20, None, None))
    turns = InterleavingReport(questions=4, wins=1, losses=1, ties=2, preference=None)
    found = ExperimentReport(arms, None, Interval(0.03, low, high), turns)
    monkeypatch.setattr(service_figures, "experiment", lambda *_: found)
    text = said("experiment", sqlite_engine)
    assert text.startswith(words)
    assert text.endswith("Both orders in one list: 1 win, 1 loss and 2 ties for the live order.")
    assert shown("experiment", sqlite_engine).rows[0] == ("live", 50, 20, 0.6, 0.5, 0.7, None, None, None)


def test_stages(engine: Engine) -> None:
    """The slowest stage of the last week comes first and is named; older questions do not count."""
    for number in range(20):
        serve(engine, None, at=NOW - timedelta(minutes=number), total=20.0 + number, sources=10.0 + number, rank=1.0)
    serve(engine, None, at=NOW - timedelta(days=8), total=9_000, sources=9_000)
    found = shown("stages", engine)
    assert [row[0] for row in found.rows] == ["total", "sources", "rank"]
    assert found.rows[1] == ("sources", 20, 20.0, 29.0)
    assert "the slowest stage was sources: 20 ms for half of 20 questions, up to 29 ms for 19 of 20" in found.summary
