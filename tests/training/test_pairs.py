from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, insert, select, text, update

from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.store.tables import CorrectionDecision, Interaction, Preference, Review
from rlhf_loop.training.pairs import PairSet, pair_set, training_pairs
from rlhf_loop.training.reliability import RaterReliability


def prefer(
    engine: Engine, one: int, other: int, reviewer: str, *, role: ReviewerRole = ReviewerRole.EXPERT, tie: bool = False
) -> None:
    """Let a reviewer prefer the first id given, or neither."""
    first, second = sorted((one, other))
    preferred = "tie" if tie else "first" if one == first else "second"
    values = {"first_id": first, "second_id": second, "reviewer": reviewer, "role": role, "preferred": preferred}
    with transaction(engine) as connection:
        connection.execute(insert(Preference).values(values))


def decide(engine: Engine, interaction: int, correction: str, *, approved: bool) -> None:
    with transaction(engine) as connection:
        review = connection.execute(select(Review.id).where(Review.interaction_key == interaction)).scalar_one()
        values = {"review_id": review, "correction": correction, "approved": approved, "decided_by": "ada"}
        connection.execute(insert(CorrectionDecision).values(**values, decided_at=datetime.now(UTC)))


def read(pairs: PairSet) -> list[tuple[str, str, str, float]]:
    """Return prompt, better answer, other answer and weight of each pair."""
    return [
        (question.prompt, *question.responses, float(pairs.numbers["weight"][row]))  # type: ignore[misc]
        for chunk in pairs.chunks()
        for question, row in zip(chunk.questions, chunk.row, strict=True)
    ]


@pytest.fixture
def answers(engine: Engine) -> list[int]:
    """Three answers to one question, and the first of them served again; one answer to another question."""
    return record(
        engine,
        [
            Rating("Why?", "Because.", candidate_group="g"),
            Rating("Why?", "Nobody knows.", candidate_group="g"),
            Rating("Why?", "Who asks?", candidate_group="g"),
            Rating(" why?", "Because.", candidate_group="h"),
            Rating("How so?", "Because.", candidate_group="i"),
        ],
    )


def test_without_judgements_there_are_no_pairs(engine: Engine, answers: list[int]) -> None:
    """Ratings and comments alone make no pairs."""
    rate(engine, answers[0], reviewer="ann", rating=5, comment="Good.")
    pairs = training_pairs(engine, end_user_weight=1.0)
    assert (len(pairs), read(pairs)) == (0, [])
    assert pairs.fingerprint("of ratings") == "of ratings"


def test_an_experts_correction_is_better_at_once(engine: Engine, answers: list[int]) -> None:
    """A correction by an expert makes a pair without any approval; one by an end user makes none."""
    rate(engine, answers[0], reviewer="ann", rating=2, correction="Because of the tide.")
    rate(engine, answers[1], reviewer="visitor:1", rating=2, correction="I know.", role=ReviewerRole.END_USER)
    pairs = training_pairs(engine, end_user_weight=1.0)
    assert read(pairs) == [("Why?", "Because of the tide.", "Because.", 1.0)]
    assert pairs.numbers["correction"].tolist() == pairs.numbers["expert"].tolist() == [True]


@pytest.mark.parametrize("correction", ["Because.", " Because. \n", "  ", "\n"])
def test_a_correction_that_corrects_nothing_is_no_pair(engine: Engine, answers: list[int], correction: str) -> None:
    """A correction with the words of the answer, or without any, is left out."""
    rate(engine, answers[0], reviewer="ann", rating=5, correction=correction)
    assert len(training_pairs(engine)) == 0


@pytest.mark.parametrize(
    ("approved", "decided", "pairs"), [(True, "Better.", 1), (False, "Better.", 0), (False, "An earlier one.", 1)]
)
def test_a_refused_correction_is_no_pair(
    engine: Engine, answers: list[int], approved: bool, decided: str, pairs: int
) -> None:
    """What an admin has refused is left out; the decision holds for the wording that it was about."""
    rate(engine, answers[0], reviewer="ann", rating=2, correction="Better.")
    decide(engine, answers[0], decided, approved=approved)
    assert len(training_pairs(engine)) == pairs


def test_corrections_of_several_experts(engine: Engine, answers: list[int]) -> None:
    """Each expert's correction of an answer is a pair; the same one of the same answer served again is not another."""
    rate(engine, answers[0], reviewer="ann", rating=2, correction="Better.")
    rate(engine, answers[0], reviewer="bob", rating=2, correction="Best.")
    rate(engine, answers[3], reviewer="eve", rating=2, correction="Better.")
    assert read(training_pairs(engine)) == [("Why?", "Better.", "Because.", 1.0), ("Why?", "Best.", "Because.", 1.0)]


def test_a_preference_is_a_pair(engine: Engine, answers: list[int]) -> None:
    """The preferred answer is the better one, whichever of the two was served first; a tie is no pair."""
    prefer(engine, answers[1], answers[0], "ann")
    prefer(engine, answers[0], answers[2], "ann")
    prefer(engine, answers[1], answers[2], "ann", tie=True)
    assert read(training_pairs(engine)) == [
        ("Why?", "Nobody knows.", "Because.", 1.0),
        ("Why?", "Because.", "Who asks?", 1.0),
    ]


@pytest.mark.parametrize(
    ("votes", "expected"),
    [("++-", ("Because.", 1 / 3)), ("+-", None), ("+=", ("Because.", 0.5)), ("---+", ("Nobody knows.", 0.5))],
)
def test_several_raters_make_one_pair(
    engine: Engine, answers: list[int], votes: str, expected: tuple[str, float] | None
) -> None:
    """The majority decides, its lead among all who compared is the weight, and without a lead there is no pair."""
    for number, vote in enumerate(votes):
        # Every second rater saw the answer when it was served again.
        one, other = answers[0 if number % 2 else 3], answers[1]
        prefer(engine, *((one, other) if vote != "-" else (other, one)), f"rater {number}", tie=vote == "=")
    found = [(better, weight) for _, better, _, weight in read(training_pairs(engine))]
    assert found == ([] if expected is None else [(expected[0], pytest.approx(expected[1]))])


def test_experts_come_before_end_users(engine: Engine, answers: list[int]) -> None:
    """End users' preferences count with their weight, and not at all where that is 0 or an expert has compared."""
    prefer(engine, answers[0], answers[1], "visitor:1", role=ReviewerRole.END_USER)
    prefer(engine, answers[0], answers[1], "visitor:2", role=ReviewerRole.END_USER)
    assert len(training_pairs(engine)) == 0
    hinted = training_pairs(engine, end_user_weight=0.25)
    assert read(hinted) == [("Why?", "Because.", "Nobody knows.", 0.25)]
    assert hinted.numbers["expert"].tolist() == [False]
    prefer(engine, answers[1], answers[0], "ann")
    found = training_pairs(engine, end_user_weight=0.25)
    assert read(found) == [("Why?", "Nobody knows.", "Because.", 1.0)]
    assert found.numbers["expert"].tolist() == [True]


def test_answers_to_different_questions_are_no_pair(engine: Engine, answers: list[int]) -> None:
    """Two answers of which it cannot be said that one is better, by their question or their words, are left out."""
    prefer(engine, answers[1], answers[4], "ann")
    prefer(engine, answers[0], answers[3], "ann")
    assert len(training_pairs(engine)) == 0


def test_what_was_deleted_or_changed_is_left_out(engine: Engine, answers: list[int]) -> None:
    """A pair whose texts are no longer what was judged is missing when the texts are read."""
    prefer(engine, answers[0], answers[1], "ann")
    prefer(engine, answers[1], answers[2], "ann")
    rate(engine, answers[1], reviewer="ann", rating=2, correction="Better.")
    rate(engine, answers[3], reviewer="ann", rating=2, correction="Better.")
    pairs = training_pairs(engine)
    assert len(pairs) == 4
    with transaction(engine) as connection:
        connection.execute(text("DELETE FROM rlhf_interactions WHERE id = :id"), {"id": answers[2]})
        connection.execute(update(Interaction).where(Interaction.id == answers[0]).values(ai_response="Other."))
        connection.execute(update(Review).where(Review.interaction_key == answers[1]).values(correction="Best."))
    (chunk,) = pairs.chunks()
    assert chunk.row.tolist() == [1]
    assert chunk.questions[0].responses == ("Better.", "Because.")


def test_many_pairs_are_read_in_order(engine: Engine) -> None:
    """Pairs beyond a chunk and beyond one query keep their order and their weights, as if all were in memory."""
    ids = record(engine, [Rating(f"Question {i // 2}?", f"Answer {i}.") for i in range(2_400)])
    rows = [
        {"first_id": ids[i], "second_id": ids[i + 1], "reviewer": "ann", "preferred": ("first", "second")[i // 2 % 2]}
        for i in range(0, 2_400, 2)
    ]
    with transaction(engine) as connection:
        connection.execute(insert(Preference), rows)
    pairs = training_pairs(engine)
    sizes = [len(chunk.row) for chunk in pairs.chunks()]
    assert (sum(sizes), max(sizes)) == (1_200, 512)
    better = [question.responses[0] for chunk in pairs.chunks() for question in chunk.questions]
    assert better == [f"Answer {2 * i + i % 2}." for i in range(1_200)]
    assert len(pair_set([])) == 0


def rater(name: str, weight: float) -> RaterReliability:
    return RaterReliability(reviewer=name, overlapping=50, accuracy=0.5, at_most=0.5, weight=weight)


def test_experts_who_count_less_prefer_and_correct_less(engine: Engine, answers: list[int]) -> None:
    """A preference or a correction weighs what its author does, and nothing at all of one who counts nothing."""
    prefer(engine, answers[0], answers[1], "eve")
    prefer(engine, answers[2], answers[0], "bob")
    rate(engine, answers[4], reviewer="eve", rating=1, correction="As ever.")
    assert [weight for *_, weight in read(training_pairs(engine))] == [1.0, 1.0, 1.0]
    found = read(training_pairs(engine, raters=[rater("eve", 0.0), rater("bob", 0.5)]))
    assert found == [("Why?", "Who asks?", "Because.", 0.5)]


def test_the_reliable_decide_a_pair(engine: Engine, answers: list[int]) -> None:
    """Of two who disagree the more reliable one wins, and the lead is a share of the weight of both."""
    prefer(engine, answers[0], answers[1], "bob")
    prefer(engine, answers[1], answers[0], "ann")
    assert read(training_pairs(engine)) == []
    (pair,) = read(training_pairs(engine, raters=[rater("bob", 0.25)]))
    assert pair[:3] == ("Why?", "Nobody knows.", "Because.")
    assert pair[3] == pytest.approx(0.75 / 1.25)


def test_an_approved_correction_counts_whoever_wrote_it(engine: Engine, answers: list[int]) -> None:
    """An admin's approval vouches for a correction by somebody who otherwise counts nothing."""
    rate(engine, answers[4], reviewer="eve", rating=1, correction="As ever.")
    decide(engine, answers[4], "As ever.", approved=True)
    assert read(training_pairs(engine, raters=[rater("eve", 0.0)])) == [("How so?", "As ever.", "Because.", 1.0)]
