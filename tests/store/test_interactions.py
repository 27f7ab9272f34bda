from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from rlhf_loop.domain import Example, Rating, ReviewerRole, RunRecord
from rlhf_loop.registry.runs import begin_run, end_run, runs
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import rate, record, stats
from rlhf_loop.training.data import examples

NOW = datetime(2025, 5, 1, 12, tzinfo=UTC)


def test_recorded_answers_get_ids_in_order(engine: Engine) -> None:
    """Each recorded answer is an interaction of its own, and its rating a review."""
    ids = record(engine, [Rating("q", "a", 4), Rating("q", "b"), Rating("q", "a", 2)])
    assert ids == sorted(ids)
    assert len(set(ids)) == 3
    found = stats(engine)
    assert (found.interactions, found.rated, found.unrated, found.reviews) == (3, 2, 1, 2)


def test_recording_nothing_is_fine(engine: Engine) -> None:
    """An empty list stores nothing and gives no ids."""
    assert record(engine, []) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Rating(" ", "a"), "user_prompt is empty"),
        (Rating("q", ""), "ai_response is empty"),
        (Rating("q", "a", 6), "rating is 6"),
        (Rating("q", "a", True), "rating is True"),
        (Rating("q", "a\x00"), "NUL"),
        (Rating("q\ud800", "a"), "not UTF-8"),
        (Rating("q", "a", shown_rank=0), "shown_rank is 0"),
        (Rating("q", "a", score=2.0), "score is 2.0"),
        (Rating("q", "a", score=float("nan")), "score is nan"),
        (Rating("q", "a", 4, reviewer=" "), "reviewer is ' '"),
        (Rating("q", "a", rated_at=datetime(2025, 1, 1)), "without a time zone"),
    ],
)
def test_what_cannot_be_stored_is_refused_as_a_whole(engine: Engine, bad: Rating, message: str) -> None:
    """One unusable item is a ValueError that says why, and none of the items is stored."""
    with pytest.raises(ValueError, match=message):
        record(engine, [Rating("q", "fine"), bad])
    assert stats(engine).interactions == 0


def test_a_taken_identity_is_refused(engine: Engine) -> None:
    """An external_id names one answer only."""
    record(engine, [Rating("q", "a", external_id="x")])
    for again in ([Rating("q", "b", external_id="x")], [Rating("q", "b", external_id="y")] * 2):
        with pytest.raises(ValueError, match="is taken"):
            record(engine, again)


def test_a_second_review_replaces_the_reviewers_first(engine: Engine) -> None:
    """A reviewer has one review of an answer; rate returns the consensus of all."""
    (answer,) = record(engine, [Rating("q", "a")])
    assert rate(engine, answer, reviewer="ann", rating=5, comment="good") == 5
    assert rate(engine, answer, reviewer="bob", rating=1) == 1
    assert rate(engine, answer, reviewer="bob", rating=4) == 4
    assert rate(engine, answer, rating=4) == 4
    assert (stats(engine).reviews, stats(engine).reviewers) == (3, 3)


def test_an_unknown_interaction_cannot_be_rated(engine: Engine) -> None:
    """Rating what is not there is a LookupError that names the id."""
    with pytest.raises(LookupError, match="no interaction 17"):
        rate(engine, 17, rating=3)


def test_a_rating_out_of_range_is_refused(engine: Engine) -> None:
    """A rating outside 1-5 is a ValueError, and nothing is stored."""
    (answer,) = record(engine, [Rating("q", "a")])
    with pytest.raises(ValueError, match="rating is 0"):
        rate(engine, answer, rating=0)
    assert stats(engine).reviews == 0


def test_concurrent_reviews_of_one_answer_all_count(engine: Engine) -> None:
    """Reviewers who rate at the same moment all count, and the rating is the median of them all."""
    (answer,) = record(engine, [Rating("q", "a")])
    ratings = [1, 2, 2, 3, 4, 5, 5, 5, 5, 4, 3, 3]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda n: rate(engine, answer, reviewer=f"reviewer {n}", rating=ratings[n]), range(12)))
    assert stats(engine).reviews == 12
    assert [example.rating for example in examples(engine)] == [sorted(ratings)[5]]


def test_stats_count_questions_and_ratings(engine: Engine) -> None:
    """The counts follow the candidate groups, and the prompts where there is no group."""
    record(
        engine,
        [
            Rating("Why?", "a", 5, candidate_group="g", rated_at=NOW),
            Rating("Why?", "b", 4, candidate_group="g", rated_at=NOW + timedelta(days=1)),
            Rating("How  so?", "c", 1, rated_at=NOW),
            Rating("how so?", "d", 1, rated_at=NOW),
            Rating("When?", "e"),
        ],
    )
    found = stats(engine)
    assert (found.questions, found.comparable_questions) == (3, 2)
    assert found.distribution == {1: 2, 2: 0, 3: 0, 4: 1, 5: 1}
    assert found.positive_share == 0.5
    assert (found.first_rated_at, found.last_rated_at) == (NOW, NOW + timedelta(days=1))


def test_what_end_users_said_is_counted_apart(engine: Engine) -> None:
    """It moves no number that is about experts."""
    rated, _ = record(engine, [Rating("Why?", "a", 5, rated_at=NOW), Rating("Why?", "b")])
    before = stats(engine)
    for number in range(3):
        rate(engine, rated, reviewer=f"app:{number}", rating=1, role=ReviewerRole.END_USER)
    found = stats(engine)
    assert (before.end_user_reviews, before.end_user_rated) == (0, 0)
    assert (found.end_user_reviews, found.end_user_rated) == (3, 1)
    assert replace(found, end_user_reviews=0, end_user_rated=0) == before


def test_an_empty_database_has_no_shares_and_times(engine: Engine) -> None:
    """Without ratings there is no share and no time, and no examples."""
    found = stats(engine)
    assert (found.interactions, found.positive_share, found.first_rated_at) == (0, None, None)
    assert examples(engine) == []


def test_examples_are_the_rated_answers_and_their_siblings(engine: Engine) -> None:
    """Unrated answers are context where a sibling is rated; others stay out."""
    record(
        engine,
        [
            Rating("q", "a", 5, candidate_group="g", shown_rank=2),
            Rating("q", "b", candidate_group="g", shown_rank=1),
            Rating("q", "c", candidate_group="other"),
            Rating("Q ", "d"),
            Rating("q", "e", 1),
            Rating("r", "f"),
        ],
    )
    assert examples(engine) == [
        Example("q", "a", 5, "g", 2),
        Example("q", "b", None, "g", 1),
        Example("Q ", "d", None, "prompt:q"),
        Example("q", "e", 1, "prompt:q"),
    ]


def test_an_answer_served_twice_is_one_example(engine: Engine) -> None:
    """Two servings of the same answer count as one, rated by the lower median of all their reviews."""
    first, second, _ = record(engine, [Rating("q", "a"), Rating("q", "a", shown_rank=3), Rating("q", "b", 5)])
    for reviewer, rating in (("ann", 1), ("bob", 5)):
        rate(engine, first, reviewer=reviewer, rating=rating)
    for reviewer, rating in (("ann", 4), ("eve", 5)):
        rate(engine, second, reviewer=reviewer, rating=rating)
    assert examples(engine) == [Example("q", "a", 4, "prompt:q", 3), Example("q", "b", 5, "prompt:q")]


def test_a_run_is_logged_from_start_to_end(engine: Engine) -> None:
    """A run shows as running at once and with its measures in the end; what is not finite becomes None."""
    run_id = begin_run(engine, started_at=NOW, recipe="passages", encoder="mini", split_seed=7)
    assert runs(engine) == [
        RunRecord(status="running", run_id=run_id, started_at=NOW, recipe="passages", encoder="mini", split_seed=7)
    ]
    ended = RunRecord(
        status="succeeded",
        finished_at=NOW + timedelta(minutes=1),
        n_rated=173,
        auc=0.9,
        accuracy=float("nan"),
        metrics={"folds": [0.5, float("inf")]},
        library_versions={"numpy": "2"},
    )
    end_run(engine, run_id, ended)
    (found,) = runs(engine)
    assert (found.status, found.recipe, found.n_rated, found.auc, found.accuracy) == (
        "succeeded",
        "passages",
        173,
        0.9,
        None,
    )
    assert found.metrics == {"folds": [0.5, None]}
    assert found.library_versions == {"numpy": "2"}


def test_runs_are_read_newest_first(engine: Engine) -> None:
    """The latest runs come first, no more than asked for; a failed one with its error."""
    for day in range(3):
        run_id = begin_run(engine, started_at=NOW + timedelta(days=day), recipe=str(day), encoder="mini", split_seed=0)
        end_run(engine, run_id, RunRecord(status="failed", error="out of memory"))
    assert [(run.recipe, run.error) for run in runs(engine, 2)] == [("2", "out of memory"), ("1", "out of memory")]


def test_an_unknown_run_cannot_end(engine: Engine) -> None:
    """Ending a run that never began is a LookupError."""
    with pytest.raises(LookupError, match="no training run 'x'"):
        end_run(engine, "x", RunRecord(status="failed"))


def test_counting_the_rated_uses_the_index(sqlite_engine: Engine) -> None:
    """Counting the rated answers reads the partial index and not the table."""
    sql = "EXPLAIN QUERY PLAN SELECT count(*) FROM rlhf_interactions WHERE rating IS NOT NULL"
    with transaction(sqlite_engine) as connection:
        assert "ix_rlhf_interactions_rated" in str(connection.execute(text(sql)).all())
