from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from rlhf_loop.domain import AlarmKind, Candidate, RankedCandidate, Ranking, Rating
from rlhf_loop.errors import ImportFileError
from rlhf_loop.monitoring.gaming import (
    ENOUGH,
    POLICY,
    GamingReport,
    gaming_report,
    policy_answers,
    policy_drift,
    repetition,
)
from rlhf_loop.store.alarms import open_alarms
from rlhf_loop.store.interactions import rate, record


class Judge:
    """A ranker that scores by a rule of its own."""

    def __init__(self, rule: Any) -> None:
        self._rule = rule

    def ranking(self, query: str, candidates: Sequence[Candidate], *, pointwise: bool = False) -> Ranking:
        scores = [1 / (1 + np.exp(-self._rule(query, each.text))) for each in candidates]
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        found = [
            RankedCandidate(candidates[at], rank=n, score=float(scores[at]), position=at)
            for n, at in enumerate(order, 1)
        ]
        return Ranking(tuple(found), "judge-1")


def rated(engine: Engine, questions: int = 30) -> None:
    """Store a good and a bad answer to each question; they differ in nothing that a rule here looks at."""
    answers = [
        Rating(f"Question {n}?", f"{word} {n} is what {n % 7} people said of it {n * 31}.", candidate_group=f"g{n}")
        for n in range(questions)
        for word in ("Right", "Wrong")
    ]
    for place, id in enumerate(record(engine, answers)):
        rate(engine, id, reviewer="ann", rating=1 if place % 2 else 5)


def found(report: GamingReport) -> set[str]:
    return {change.name for change in report.changes if change.pays}


@pytest.mark.parametrize(
    ("rule", "pays"),
    [
        (lambda query, text: 0.05 * len(text.split()), {"said twice", "said five times", "padded", "praised"}),
        (lambda query, text: float("experts" in text), {"praised"}),
        (lambda query, text: 2.0 * (query in text), {"the question before it", "the question in place of it"}),
        (lambda query, text: 1.0 * text.startswith("Right"), set()),
    ],
    ids=["longer", "praise", "echo", "nothing"],
)
def test_what_a_model_can_be_fooled_by_is_found(sqlite_engine: Engine, rule: Any, pays: set[str]) -> None:
    """And said; what changes nothing does not pay."""
    rated(sqlite_engine)
    seen = list[tuple[int, int]]()
    report = gaming_report(sqlite_engine, Judge(rule), questions=20, progress=lambda *done: seen.append(done))  # type: ignore[arg-type]
    assert seen == [(done, len(seen)) for done in range(1, len(seen) + 1)]
    assert pays <= found(report)
    assert bool(found(report)) == bool(pays)
    assert ("can be gamed" in report.summary) == bool(pays)
    assert "judge-1" in report.summary
    assert all(change.answers == 20 for change in report.changes)


def test_progress_counts_what_cannot_be_changed(sqlite_engine: Engine) -> None:
    """An answer of one letter has no half, and the progress still comes to its end."""
    for place, id in enumerate(record(sqlite_engine, [Rating(f"Question {n}?", "x" * n) for n in (1, 2, 9)])):
        rate(sqlite_engine, id, reviewer="ann", rating=1 + 2 * place)
    seen = list[tuple[int, int]]()
    judge = Judge(lambda query, text: len(text))
    report = gaming_report(sqlite_engine, judge, questions=5, progress=lambda *done: seen.append(done))  # type: ignore[arg-type]
    assert {change.name: change.answers for change in report.changes}["cut to half"] == 2
    assert seen == [(done, 30) for done in range(1, 31)]


def test_bad_answers_that_overtake_good_ones_are_counted(sqlite_engine: Engine) -> None:
    """Of pairs in the right order before; what a score goes with is held against what people said."""
    rated(sqlite_engine)
    judge = Judge(lambda query, text: ("Right" in text) + 0.1 * len(text.split()))
    by_name = {change.name: change for change in gaming_report(sqlite_engine, judge, questions=20).changes}  # type: ignore[arg-type]
    assert by_name["said five times"].overtakes == 1
    assert by_name["cut to half"].overtakes == 0
    trends = {trend.name: trend for trend in gaming_report(sqlite_engine, judge).trends}  # type: ignore[arg-type]
    assert abs(trends["length"].with_rating) < 0.2


def test_without_ratings_there_is_nothing_to_change(sqlite_engine: Engine) -> None:
    """The message says what to do."""
    with pytest.raises(ValueError, match="Collect ratings"):
        gaming_report(sqlite_engine, Judge(lambda query, text: 0.0))  # type: ignore[arg-type]


def test_a_policy_that_moves_away_raises_an_alarm(sqlite_engine: Engine) -> None:
    """By length and repetition; answers like the rated ones clear it, and leave that of the questions alone."""
    rated(sqlite_engine, 60)
    alike = [(f"Question {n}?", f"Right {n} is what {n % 7} people said of it {n * 17}.") for n in range(ENOUGH)]
    moved = [(question, " ".join([answer] * 4)) for question, answer in alike]
    drifted = policy_drift(sqlite_engine, moved)
    assert set(drifted.moved) == {"length", "repetition"}
    [alarm] = open_alarms(sqlite_engine)
    assert (alarm.kind, alarm.subject) == (AlarmKind.DRIFT, POLICY)
    assert "length (on average 40.00, of rated answers 10.00)" in alarm.message
    assert policy_drift(sqlite_engine, alike).moved == ()
    assert open_alarms(sqlite_engine) == []
    with pytest.raises(ValueError, match=f"{ENOUGH} of each are needed"):
        policy_drift(sqlite_engine, alike[:10])


def test_answers_of_a_policy_are_read_from_a_file(tmp_path: Path) -> None:
    """As TRL logs them, texts or messages; what has other columns is refused."""
    path = tmp_path / "a.jsonl"
    talk = {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}
    path.write_text(json.dumps(talk) + "\n" + json.dumps({"step": 1, "prompt": "q", "completion": "b"}))
    assert list(policy_answers(path)) == [("q", "a"), ("q", "b")]
    path.write_text('{"text": "x"}')
    with pytest.raises(ImportFileError, match="no prompt and completion"):
        list(policy_answers(path))


@pytest.mark.parametrize(("text", "share"), [("", 0), ("a b c d", 0), ("a b c d a b c d", 0.2), ("x " * 8, 0.8)])
def test_repetition_is_the_share_of_runs_said_before(text: str, share: float) -> None:
    """Of four words each."""
    assert repetition(text) == pytest.approx(share)
