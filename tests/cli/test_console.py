from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rlhf_loop.cli.output import print_training
from rlhf_loop.domain import Interval, ModelState, ReviewerRole
from rlhf_loop.registry import Version
from rlhf_loop.registry.gate import Judgement
from rlhf_loop.registry.training_run import TrainingOutcome
from rlhf_loop.reward import RewardModel
from rlhf_loop.training.metrics import Coverage
from rlhf_loop.training.reliability import RaterReliability
from rlhf_loop.training.train import DocumentReport, PairReport, TrainingReport

Trained = tuple[RewardModel, TrainingReport]


def printed(report: TrainingReport, capsys: pytest.CaptureFixture[str], state: ModelState = ModelState.LIVE) -> str:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    version = Version(
        id=1,
        version="passages-0123456789ab",
        sha256="0" * 64,
        state=state,
        reason="Better.",
        recipe="passages",
        encoder="e",
        run_id="run",
        frozen_share=0.1,
        judgement={},
        metrics={},
        made_at=now,
        changed_at=now,
        live_from=now,
        live_until=None,
    )
    judgement = Judgement(
        state=state, reasons=("The gate says so.",), incoming=None, live=None, precision_at_1=None, auc=None
    )
    print_training(TrainingOutcome("run", report, version, judgement, Path("model.joblib")))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    return " ".join(" ".join(lines).split())


def test_experts_alone_need_no_word(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """Without pairs and end users nothing is said of them."""
    text = printed(trained[1], capsys)
    assert "200 rated answers" in text
    assert not any(word in text for word in ("Besides", "No experts", "end user"))


def test_what_else_entered_is_said(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """Pairs by kind, what was held out and judged of them, and end users' answers with their weight are named."""
    pairs = PairReport(corrections=1, preferences=40, held_out=4, judged=30, accuracy=Interval(0.7, 0.5, 0.9))
    text = printed(replace(trained[1], pairs=pairs, end_users=12, end_user_weight=0.25), capsys)
    assert "12 answers that only end users rated: a hint that weighs 0.25 of an expert's rating each" in text
    assert "1 correction and 40 preferences; 4 of them, to held-out questions, were not fitted on." in text
    assert "Of 30 by experts, a model that had not seen the question puts 0.700 (0.50 to 0.90) in the right" in text
    few = replace(pairs, held_out=0, judged=3, accuracy=None)
    text = printed(replace(trained[1], pairs=few), capsys)
    assert "1 correction and 40 preferences." in text
    assert "in the right order" not in text


def test_no_experts_is_said_first(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """Where end users' ratings are judged by, it is said right after the verdict."""
    text = printed(replace(trained[1], judged_by=ReviewerRole.END_USER, experts=3), capsys)
    assert text.index("No experts stand behind these numbers") < text.index("200 rated answers (")
    assert "experts rated only 3 of the 200 answers" in text


def test_what_waits_says_why(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that the gate holds back, or refuses, is said to be so, with what can be done."""
    text = printed(trained[1], capsys, ModelState.CANDIDATE)
    assert "NOT LIVE: this model waits" in text
    assert "The gate says so." in text
    assert "models promote passages-0123456789ab --force --reason" in text
    assert "worse than doing nothing" in printed(trained[1], capsys, ModelState.REJECTED)


def test_raters_who_count_less_are_named(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """Raters who are at odds with the others are named with their weight, and what that leaves out is counted."""
    eve = RaterReliability(reviewer="eve[1]", overlapping=40, accuracy=0.15, at_most=0.3, weight=0.0)
    text = printed(replace(trained[1], raters=(eve,)), capsys)
    assert "1 rater counts less, being at odds with the others: eve[1] (0, by 40 shared answers)." in text
    assert "left out" not in text
    bob = replace(eve, reviewer="bob", weight=0.5)
    text = printed(replace(trained[1], raters=(bob, eve), disregarded=7), capsys)
    assert "2 raters count less, being at odds with the others: bob (0.5, by 40 shared answers), eve[1]" in text
    assert "7 answers that nobody else rated left out." in text


def test_numbers_that_tell_little_are_said_to(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a class with hardly any answers, and where good and bad are told apart without any effort."""
    plain = printed(trained[1], capsys)
    assert not any(words in plain for words in ("of the rated answers is", "of the rated answers are", "too easy"))
    assert "Only 1 of the rated answers is good" in printed(replace(trained[1], positive=1), capsys)
    assert "Only 4 of the rated answers are not good" in printed(replace(trained[1], positive=196), capsys)
    overall = replace(trained[1].overall, auc=Interval(0.995, 0.99, 1.0))
    assert "These ratings look too easy" in printed(replace(trained[1], overall=overall), capsys)


def test_all_tables_fit_a_narrow_terminal(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """Three measures with their intervals stand beside each other in 80 columns."""
    overall = replace(trained[1].overall, incoming_questions=47)
    documents = DocumentReport(recurring=3, linked=4, unseen=overall)
    text = printed(replace(trained[1], overall=overall, documents=documents), capsys)
    assert "held out cross-validated on unseen" in text
    assert "incoming (47)" in text
    assert re.search(r"this model( \d\.\d{3} \(\d\.\d\d to \d\.\d\d\)){3}", text)


def test_what_a_threshold_would_leave(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """The report has the table to choose RLHF_ANSWER_THRESHOLD by."""
    coverage = tuple(
        Coverage(threshold=threshold, questions=40, answered=answered, good=good)
        for threshold, answered, good in ((0.0, 40, 24), (0.8, 10, 9))
    )
    text = printed(replace(trained[1], coverage=coverage), capsys)
    assert "none 100% 60% (45% to 74%) 0.8 25% 90% (60% to 98%)" in text
    assert "RLHF_ANSWER_THRESHOLD" not in printed(replace(trained[1], coverage=coverage[:1]), capsys)
