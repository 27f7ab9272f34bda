from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from patience import PATIENCE_S
from sqlalchemy import Engine, select

from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, RankedCandidate, Ranking, Rating, Review
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import ModelFileError
from rlhf_loop.ranking import Ranker
from rlhf_loop.reviewing import Scoring, next_item, refresh_scores, submit
from rlhf_loop.reviewing.scoring import Ranks
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save
from rlhf_loop.store.engine import reading
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.store.tables import AnswerScore
from rlhf_loop.training.train import TrainingReport


@dataclass
class ByNumber:
    """Scores an answer by the number that it is, and remembers what it was asked."""

    model_version: str | None = "v1"
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    error: Exception | None = None

    def ranking(self, query: str, candidates: Sequence[Candidate]) -> Ranking:
        if self.error:
            raise self.error
        self.asked.append((query, tuple(each.text for each in candidates)))
        order = sorted(range(len(candidates)), key=lambda n: -float(candidates[n].text))
        ranked = [
            RankedCandidate(candidates[n], rank=rank, score=float(candidates[n].text), position=n)
            for rank, n in enumerate(order, start=1)
        ]
        return Ranking(tuple(ranked), self.model_version)


def offered(engine: Engine, question: str, *answers: str, group: str | None = "g") -> list[int]:
    return record(engine, [Rating(question, answer, candidate_group=group) for answer in answers])


def scores(engine: Engine) -> dict[int, tuple[float, float | None]]:
    with reading(engine) as connection:
        rows = connection.execute(select(AnswerScore.__table__)).all()
    return {row.interaction_id: (row.score, None if row.margin is None else round(row.margin, 6)) for row in rows}


def versions(engine: Engine) -> set[str]:
    with reading(engine) as connection:
        return set(connection.execute(select(AnswerScore.model_version)).scalars())


def test_each_answer_is_scored_among_its_question(engine: Engine) -> None:
    """Answers that wait get their score; the best two of a question also the distance between them."""
    a, b, c = offered(engine, "q", "0.3", "0.9", "0.7")
    (alone,) = offered(engine, "other", "0.6", group=None)
    ranker = ByNumber()
    assert refresh_scores(engine, ranker) == 4
    assert scores(engine) == {a: (0.3, None), b: (0.9, 0.2), c: (0.7, 0.2), alone: (0.6, None)}
    assert {(query, frozenset(texts)) for query, texts in ranker.asked} == {
        ("q", frozenset({"0.3", "0.9", "0.7"})),
        ("other", frozenset({"0.6"})),
    }


def test_only_what_is_new_is_scored(engine: Engine) -> None:
    """A second run asks for nothing; a new answer brings its question; another model brings all."""
    offered(engine, "q", "0.3", "0.9")
    ranker = ByNumber()
    assert refresh_scores(engine, ranker) == 2
    assert refresh_scores(engine, ranker) == 0
    assert len(ranker.asked) == 1
    offered(engine, "new", "0.4", group=None)
    assert refresh_scores(engine, ranker) == 1
    ranker.model_version = "v2"
    assert refresh_scores(engine, ranker) == 3
    assert versions(engine) == {"v2"}


def test_the_newest_are_scored_first(engine: Engine) -> None:
    """A limited run begins with the newest answers, and the next run goes on."""
    ids = [offered(engine, f"q{n}", f"0.{n + 1}", group=None)[0] for n in range(5)]
    for expected in (ids[3:], ids[1:], ids):
        refresh_scores(engine, ByNumber(), limit=2)
        assert sorted(scores(engine)) == expected


def test_rated_answers_are_not_scored(engine: Engine) -> None:
    """What is rated is context for the others of its question; a score goes when its answer is rated."""
    a, b = offered(engine, "q", "0.3", "0.9")
    rate(engine, b, reviewer="bob", rating=4)
    refresh_scores(engine, ByNumber())
    assert scores(engine) == {a: (0.3, 0.6)}
    rate(engine, a, reviewer="bob", rating=4)
    refresh_scores(engine, ByNumber())
    assert scores(engine) == {}


def test_a_submitted_answer_has_no_score_any_more(engine: Engine) -> None:
    """The list of what the model is unsure of holds only what waits."""
    offered(engine, "q", "0.5")
    refresh_scores(engine, ByNumber())
    given = next_item(engine, reviewer="ann", settings=Settings())
    assert given is not None
    submit(engine, given.interaction_key, reviewer="ann", review=Review(rating=3))
    assert scores(engine) == {}


def test_a_repeated_answer_is_scored_once(engine: Engine) -> None:
    """Only the first serving has a score, however often it is served, and no run is spent on the others."""
    (first,) = offered(engine, "q", "0.5", group="g0")
    for number in range(1, 80):
        offered(engine, "q", "0.5", group=f"g{number % 3}" if number % 2 else None)
    assert refresh_scores(engine, ByNumber()) == 1
    assert refresh_scores(engine, ByNumber()) == 0
    assert list(scores(engine)) == [first]


def test_a_question_with_very_many_answers_gets_all_its_scores(engine: Engine) -> None:
    """Without groups a question can have hundreds of answers; all are scored in the end."""
    ids = offered(engine, "q", *(f"{n / 200:.3f}" for n in range(120)), group=None)
    for _ in range(12):
        refresh_scores(engine, ByNumber(), limit=10)
    assert sorted(scores(engine)) == ids


def test_without_a_model_nothing_happens(engine: Engine) -> None:
    """No model, no scores."""
    offered(engine, "q", "0.5")
    assert refresh_scores(engine, ByNumber(model_version=None)) == 0
    assert scores(engine) == {}


def test_the_real_ranker_scores(
    sqlite_engine: Engine, tmp_path: Path, encoder: TextEncoder, trained: tuple[RewardModel, TrainingReport]
) -> None:
    """With a trained model each answer that waits gets the score that the service would give it."""
    model, _ = trained
    save(model, tmp_path / "model.joblib")
    ranker = Ranker(Settings(model_path=tmp_path / "model.joblib"), encoder=encoder)
    texts = ["Drink enough and rest.", "Antibiotics cure every virus."]
    ids = offered(sqlite_engine, "How do I treat a cold?", *texts)
    assert refresh_scores(sqlite_engine, ranker) == 2
    expected = {of.text: of.score for of in ranker.rank("How do I treat a cold?", [Candidate(text) for text in texts])}
    assert {id: score for id, (score, _) in scores(sqlite_engine).items()} == pytest.approx(
        {id: expected[text] for id, text in zip(ids, texts, strict=True)}
    )


# --- In the background -----------------------------------------------------------------------------------------------


def test_a_poke_scores_in_the_background(sqlite_engine: Engine) -> None:
    """A run scores what waits; the next poke comes too soon, unless the pause is over."""
    offered(sqlite_engine, "q", "0.5")
    made: list[Ranks] = []

    def make() -> Ranks:
        made.append(ByNumber())
        return made[-1]

    scoring = Scoring(Settings(), every_s=3600, ranker=make)
    run = scoring.poke(sqlite_engine)
    assert run is not None
    assert run.result(timeout=PATIENCE_S) == 1
    assert scoring.poke(sqlite_engine) is None
    eager = Scoring(Settings(), every_s=0, ranker=make)
    for expected in (0, 0):
        run = eager.poke(sqlite_engine)
        assert run is not None
        assert run.result(timeout=PATIENCE_S) == expected
    assert len(made) == 2


def test_one_run_at_a_time(sqlite_engine: Engine) -> None:
    """While a run is under way, pokes do nothing."""
    go, begun = threading.Event(), threading.Event()

    def make() -> Ranks:
        begun.set()
        assert go.wait(PATIENCE_S)
        return ByNumber()

    scoring = Scoring(Settings(), every_s=0, ranker=make)
    run = scoring.poke(sqlite_engine)
    assert begun.wait(PATIENCE_S)
    assert [scoring.poke(sqlite_engine) for _ in range(5)] == [None] * 5
    go.set()
    assert run is not None
    assert run.result(timeout=PATIENCE_S) == 0
    assert scoring.poke(sqlite_engine) is not None


def test_without_a_model_file_it_says_so_once(
    sqlite_engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No model: raters get the newest answers, the log says so once, and no encoder is loaded."""
    scoring = Scoring(Settings(model_path=tmp_path / "none.joblib", encoder_runtime="unknown"), every_s=0)
    for _ in range(3):
        run = scoring.poke(sqlite_engine)
        assert run is not None
        assert run.result(timeout=PATIENCE_S) == 0
    assert [record.message.split(":")[0] for record in caplog.records] == [
        f"No reward model at {tmp_path / 'none.joblib'} yet"
    ]


@pytest.mark.parametrize(("error", "times"), [(ModelFileError("damaged"), 1), (RuntimeError("unforeseen"), 3)])
def test_an_error_stops_one_run_only(
    sqlite_engine: Engine, caplog: pytest.LogCaptureFixture, error: Exception, times: int
) -> None:
    """What goes wrong is in the log, a known error once, and the next run tries again."""
    offered(sqlite_engine, "q", "0.5")
    ranker = ByNumber(error=error)
    scoring = Scoring(Settings(), every_s=0, ranker=lambda: ranker)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            run = scoring.poke(sqlite_engine)
            assert run is not None
            assert run.result(timeout=PATIENCE_S) == 0
    assert len(caplog.records) == times
    ranker.error = None
    run = scoring.poke(sqlite_engine)
    assert run is not None
    assert run.result(timeout=PATIENCE_S) == 1


def test_whose_field_a_question_is_of(ranker: Ranker) -> None:
    """Of somebody else's where it is like one of theirs, and more so than like any of one's own."""
    burn, game = "How do I treat a burn?", "Who won the handball match?"
    theirs, own = "How should a burn be treated?", "Who won the match of handball?"
    by_encoder = Scoring(Settings(), ranker=lambda: ranker)
    assert by_encoder.out_of_field([burn, game], [theirs], [own]) == [True, False]
    assert by_encoder.out_of_field([burn], [theirs], [burn]) == [False]
    assert by_encoder.out_of_field([burn], [own], []) == [False]
    assert by_encoder.out_of_field([burn], [], [own]) == [False]
    assert Scoring(Settings(), ranker=ByNumber).out_of_field([burn], [theirs], []) == [False]


def test_nobody_knows_whose_field_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """While the encoder cannot be had, questions are of nobody's field, and that is said once."""

    def fails() -> Ranks:
        raise ModelFileError("It is damaged.")

    scoring = Scoring(Settings(), ranker=fails)
    caplog.set_level(logging.INFO)
    assert [scoring.out_of_field(["Why?"], ["Why?"], []) for _ in range(2)] == [[False]] * 2
    assert caplog.text.count("whose field cannot be told") == 1
