"""What a notebook shows of the values that its users get."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rlhf_loop.domain import Candidate, Interval, ModelState, RankedCandidate, Ranking, ReviewerRole
from rlhf_loop.registry import Version
from rlhf_loop.registry.contest import Contest
from rlhf_loop.registry.gate import Judgement
from rlhf_loop.registry.training_run import TrainingOutcome
from rlhf_loop.reward import RewardModel
from rlhf_loop.training.comparison import Comparison, Comparisons
from rlhf_loop.training.train import TrainingReport
from rlhf_loop.utils.text import html_table

EVIL = "<script>alert('x')</script> & co"


@pytest.fixture
def report(trained: tuple[RewardModel, TrainingReport]) -> TrainingReport:
    return trained[1]


def version(number: int = 3, **other: object) -> Version:
    made = Version(
        id=number,
        version=f"passages-{number}",
        sha256="ab" * 32,
        state=ModelState.LIVE,
        reason="It is better than the incoming order.",
        recipe="passages",
        encoder="all-MiniLM-L6-v2",
        run_id=None,
        frozen_share=0.1,
        judgement={},
        metrics={},
        made_at=datetime(2026, 11, 24, 8, 30, tzinfo=UTC),
        changed_at=datetime(2026, 11, 24, 8, 30, tzinfo=UTC),
        live_from=None,
        live_until=None,
    )
    return replace(made, **other)  # type: ignore[arg-type]


def outcome(report: TrainingReport, reason: str = "It is better.") -> TrainingOutcome:
    judged = Judgement(
        state=ModelState.LIVE, reasons=(reason,), incoming=None, live=None, precision_at_1=None, auc=None
    )
    return TrainingOutcome("run 1", report, version(), judged, Path("reward_model.joblib"))


def cells(html: str) -> list[list[str]]:
    """The rows of the table in well-formed HTML, its header first."""
    root = ElementTree.fromstring(f"<div>{html}</div>")
    return [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]


def test_a_table() -> None:
    """Texts are escaped, paragraphs stand above, and no colour or script is brought along."""
    html = html_table(("a", EVIL), [(1, EVIL), (None, 2.5)], above=[EVIL])
    assert cells(html) == [["a", EVIL], ["1", EVIL], ["None", "2.5"]]
    assert "<script" not in html
    assert "style" not in html


def test_ranked_candidates() -> None:
    """Place now and before, score, and the beginning of the text; and which model it was."""
    ranked = (RankedCandidate(Candidate(f"{EVIL} " * 40), 1, 0.912, 4), RankedCandidate(Candidate("short"), 2, 0.1, 0))
    html = Ranking(ranked, "passages-1")._repr_html_()
    header, first, second = cells(html)
    assert (header, first[:3], second) == (
        ["now", "before", "score", "answer"],
        ["1", "5", "0.91"],
        ["2", "1", "0.10", "short"],
    )
    assert len(first[3]) <= 220
    assert "By passages-1." in html
    plain = Ranking((RankedCandidate(Candidate("short"), 1, None, 0),), None)._repr_html_()
    assert cells(plain)[1] == ["1", "1", "-", "short"]
    assert "there is no model yet" in plain
    assert cells(Ranking((), None)._repr_html_()) == [["now", "before", "score", "answer"]]


def test_an_interval_in_words() -> None:
    """The value with its limits, the value alone where they say no more, a dash where there is none."""
    assert str(Interval(0.5437, 0.4, 0.68)) == "0.544 (0.40 to 0.68)"
    assert str(Interval(0.5, 0.5, 0.5)) == "0.500"
    assert str(Interval(float("nan"), 0, 1)) == "-"


def test_a_training_report(report: TrainingReport) -> None:
    """The measures beside those of the incoming order; one line in a terminal; a warning where no expert judged."""
    html = report._repr_html_()
    rows = {row[0]: row[1:] for row in cells(html)[1:]}
    assert rows["AUC"] == [str(report.overall.auc), "-"]
    assert rows["P@1"][1] == str(report.overall.orders["incoming"].precision_at_1)
    assert "No experts" not in html
    assert "No experts stand behind" in replace(report, judged_by=ReviewerRole.END_USER)._repr_html_()
    assert repr(report).startswith(
        f"TrainingReport({report.recipe}, 200 rated answers to 50 questions, judged by the expert"
    )
    assert len(repr(report)) < 200


def test_a_report_without_a_known_order(report: TrainingReport) -> None:
    """Where nobody knows the incoming order, there are dashes."""
    orders = {name: order for name, order in report.overall.orders.items() if name != "incoming"}
    html = replace(report, overall=replace(report.overall, orders=orders, gain=None))._repr_html_()
    assert {row[2] for row in cells(html)[1:]} == {"-"}


def test_a_training_outcome(report: TrainingReport) -> None:
    """First what became of the model and why, then the report."""
    html = outcome(report, EVIL)._repr_html_()
    assert cells(html) == cells(report._repr_html_())
    assert html.startswith("<p><strong>passages-3: live.</strong> &lt;script&gt;")
    assert repr(outcome(report)) == "TrainingOutcome(passages-3, live: It is better.)"


def test_a_version() -> None:
    """Its state with the reason, its measures as far as they are known; a list of them stays readable."""
    auc = {"value": 0.9, "low": 0.8, "high": 0.95}
    measured = version(metrics={"overall": {"auc": auc, "accuracy": {"value": None, "low": None, "high": None}}})
    rows = dict(tuple(row) for row in cells(measured._repr_html_()))
    assert rows["state"] == "live. It is better than the incoming order."
    assert rows["AUC"] == "0.900 (0.80 to 0.95)"
    assert "accuracy" not in rows
    assert "AUC" not in version()._repr_html_()
    assert (
        repr(measured) == "Version(3, passages-3, live, made 2026-11-24 08:30: It is better than the incoming order.)"
    )


def test_a_comparison() -> None:
    """Both versions and their difference, what cannot be told as a dash, and who may have seen the questions."""
    auc = Comparison(
        measure="auc",
        questions=9,
        answers=20,
        ours=0.9,
        theirs=0.8,
        difference=Interval(0.1, -0.05, 0.2),
        certainty=0.9,
    )
    found = Contest(
        version(3), version(4), 9, 20, Comparisons(accuracy=None, auc=auc, precision_at_1=None), ("passages-4",)
    )
    html = found._repr_html_()
    assert cells(html)[0] == ["", "passages-3", "passages-4", "difference (95 %)"]
    assert cells(html)[1:3] == [["Accuracy", "-", "-", "-"], ["AUC", "0.900", "0.800", "+0.100 (-0.050 to +0.200)"]]
    assert "It is not known what passages-4 was fitted on" in html
    assert repr(found) == (
        "Contest(passages-3 against passages-4 on 20 answers to 9 questions: auc +0.100 (-0.050 to +0.200))"
    )
    nothing = replace(found, found=Comparisons(accuracy=None, auc=None, precision_at_1=None))
    assert "nothing can be told" in repr(nothing)
