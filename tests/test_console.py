from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_loop.console import print_training
from rlhf_loop.domain import Interval, ReviewerRole
from rlhf_loop.reward import RewardModel
from rlhf_loop.training import PairReport, TrainingReport
from rlhf_loop.training_run import TrainingOutcome

Trained = tuple[RewardModel, TrainingReport]


def printed(report: TrainingReport, capsys: pytest.CaptureFixture[str]) -> str:
    print_training(TrainingOutcome("run", report, Path("model.joblib"), "0" * 64, live=True))
    return " ".join(capsys.readouterr().out.split())


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
