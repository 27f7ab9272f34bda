from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlhf_loop.domain import ModelState
from rlhf_loop.encoders import TextEncoder
from tools.simulate import summary
from tools.simulate.__main__ import main
from tools.simulate.loop import Run, Week
from tools.simulate.measuring import Scores, Yardstick
from tools.simulate.raters import CARELESS, HOSTILE, OVERLAP_RATERS, Arm, calendar, reviews
from tools.simulate.world import Asked, plan, read_world


@pytest.fixture(scope="module")
def world(encoder: TextEncoder) -> list[Asked]:
    return read_world("sample", encoder)


def test_what_measures_is_never_asked(world: list[Asked]) -> None:
    """Each question is either asked in one week or measured by, and the new topic waits for its week."""
    of = plan(world, weeks=9, drift=4, seed=3)
    asked = [each.group for week in of.weeks for each in week]
    measured = [each.group for each in of.yardstick]
    assert sorted(asked + measured) == sorted(each.group for each in world)
    assert len(of.weeks) == 9
    assert min(map(len, of.weeks)) >= 3
    assert not any(each.new_topic for week in of.weeks[:4] for each in week)
    assert sum(each.new_topic for week in of.weeks[4:] for each in week) > 5
    assert plan(world, weeks=9, drift=4, seed=4).yardstick != of.yardstick


def test_arms_differ_by_the_bad_raters_alone(world: list[Asked]) -> None:
    """The same answers go to the same raters in each arm; what ordinary experts say of them is the same, too."""
    of = plan(world, weeks=9, drift=4, seed=0)
    honest, bad = (
        [review for week in reviews(of, arm, seed=0) for each in week for review in each.reviews]
        for arm in (Arm.HONEST, Arm.WEIGHTED)
    )
    assert list(reviews(of, Arm.WEIGHTED, seed=0)) == list(reviews(of, Arm.UNWEIGHTED, seed=0))
    assert [name.removeprefix("honest ") for name, _ in honest] == [name for name, _ in bad]
    for (_, theirs), (name, grade) in zip(honest, bad, strict=True):
        assert name == CARELESS or grade == (6 - theirs if name == HOSTILE else theirs)
    assert {name for name, _ in bad} > {CARELESS, HOSTILE}


def test_bad_raters_come_when_the_calendar_says(world: list[Asked]) -> None:
    """Nobody rates before they have joined, and some answers are rated by several."""
    when = calendar(26)
    assert (when.careless, when.hostile, when.busy) == (4, 9, (17, 21))
    of = plan(world, weeks=26, drift=13, seed=1)
    seen: dict[str, int] = {}
    counts = set()
    for number, week in enumerate(reviews(of, Arm.WEIGHTED, seed=1)):
        for each in week:
            counts.add(len({name for name, _ in each.reviews}))
            for name, _ in each.reviews:
                seen.setdefault(name, number)
    assert seen[CARELESS] >= when.careless
    assert seen[HOSTILE] >= when.hostile
    assert counts == {1, OVERLAP_RATERS}


def test_the_yardstick_knows_the_incoming_order(world: list[Asked], encoder: TextEncoder) -> None:
    """P@1 of the incoming order is the share of questions whose first answer is good; it has no accuracy."""
    found = Yardstick(world, encoder).of_incoming()
    first = [min(asked.answers, key=lambda answer: answer.rank or 0) for asked in world]
    assert found.precision_at_1 == pytest.approx(np.mean([answer.label for answer in first]))
    assert np.isnan(found.accuracy)


def scores(precision_at_1: float, auc: float = 0.5) -> Scores:
    return Scores(0.7, auc, precision_at_1, 0.7, precision_at_1)


def week(new: Scores | None, before: Scores, state: ModelState | None, *, first: bool = False) -> Week:
    live = new if new and state == ModelState.LIVE else before
    return Week(100, live, new, before, first, state, (), None, {}, 0, ())


def test_decisions_are_counted_by_the_yardstick() -> None:
    """A promotion is right if the new model is no worse, a refusal if it is; the first model has no rival."""
    weeks = (
        week(None, scores(0.4), None),
        week(scores(0.5), scores(0.4), ModelState.LIVE, first=True),
        week(scores(0.6), scores(0.5), ModelState.LIVE),
        week(scores(0.5), scores(0.6), ModelState.LIVE),
        week(scores(0.5, 0.9), scores(0.5, 0.8), ModelState.LIVE),
        week(scores(0.7), scores(0.5), ModelState.CANDIDATE),
        week(scores(0.1), scores(0.5), ModelState.REJECTED),
    )
    runs = [Run(Arm.HONEST, 0, scores(0.4), 1.0, weeks)]
    promoted, waiting = summary.decided(runs, promoted=True), summary.decided(runs, promoted=False)
    assert (promoted.better, promoted.worse, waiting.better, waiting.worse) == (2, 1, 1, 1)
    assert summary.before_the_first(runs) == []
    assert promoted.precision_at_1 == pytest.approx(0.0)
    assert waiting.precision_at_1 == pytest.approx(-0.1)
    mean, _ = summary.curve(runs, summary.newest("precision_at_1"))
    assert mean.tolist() == [0.4, 0.5, 0.6, 0.5, 0.5, 0.7, 0.1]


def test_what_waited_before_the_first_is_told_apart() -> None:
    """A model that waits while none is live is measured against the incoming order, and is no decision between two."""
    weeks = (
        week(scores(0.6), scores(0.4), ModelState.CANDIDATE, first=True),
        week(scores(0.6), scores(0.4), ModelState.LIVE, first=True),
    )
    runs = [Run(Arm.HONEST, 0, scores(0.4), 1.0, weeks)]
    assert summary.before_the_first(runs) == [pytest.approx(0.2)]
    assert summary.decided(runs, promoted=False).count == 0


def test_a_difference_needs_seeds_that_bear_it_out() -> None:
    """One seed proves nothing, and neither do seeds that contradict each other."""
    assert not summary.difference([0.9], [0.1]).borne_out
    assert not summary.difference([0.5, 0.7, 0.4], [0.6, 0.5, 0.4]).borne_out
    found = summary.difference([0.5, 0.6, 0.7], [0.4, 0.51, 0.59])
    assert found.borne_out
    assert found.mean == pytest.approx(0.1)


@pytest.mark.slow
def test_a_small_simulation_writes_its_document(quick: TextEncoder, tmp_path: Path) -> None:
    """Some weeks of the sample run through the real loop and end in a document with its three pictures."""
    path = main(["--small", "--months", "1", "--out", str(tmp_path)], encoder=quick)
    text = path.read_text(encoding="utf-8")
    assert path.parent == tmp_path
    assert all(title in text for title in ("# Simulation", "## What bad raters cost", "## Was the gate right?"))
    assert "nan" not in text
    for name in ("quality", "gate", "raters"):
        assert f"images/simulation-{name}.png" in text
        assert (tmp_path / "images" / f"simulation-{name}.png").stat().st_size > 10_000
