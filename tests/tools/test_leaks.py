from __future__ import annotations

import numpy as np
import pytest

from rlhf_loop.encoders import TextEncoder
from tools.leaks import NONE, Family, by_lot, grouped, in_common, together, torn, torn_by_export
from tools.near_questions import read_rewordings

SUBJECTS = """
    gout scurvy measles anaemia asthma eczema glaucoma hepatitis influenza jaundice leprosy malaria migraine mumps
    osteoporosis pneumonia psoriasis rabies rickets sciatica shingles tetanus tonsillitis tuberculosis vertigo typhoid
    """.split()  # noqa: SIM905
WORDINGS = (
    ("How is {} treated?", "Hi, could you tell me how one treats {}, please?", "what treatment is there for {}"),
    ("What causes {}?", "I was wondering: what are the causes of {}", "WHAT'S THE CAUSE OF {}?"),
)


@pytest.fixture(scope="module")
def families() -> list[Family]:
    """A question on each subject in three wordings, with two answers that say nothing."""
    return [
        Family(
            tuple(wording.format(subject) for wording in WORDINGS[place % 2]),
            tuple(f"Some words on {subject}, {kind}." for kind in ("short", "not long", "in reply", "as asked")),
        )
        for place, subject in enumerate(SUBJECTS)
    ]


def test_labels_by_lot_teach_nothing(families: list[Family], encoder: TextEncoder) -> None:
    """In two wordings each a cross-validation finds what it finds in one; taken for two questions it finds far more."""
    lots = [by_lot(families, encoder, recipe="joint", seed=seed) for seed in range(3)]
    once, together, apart = (np.mean([getattr(lot, name) for lot in lots]) for name in ("once", "together", "apart"))
    assert abs(together - once) < 0.03
    assert apart - once > 0.1


def test_a_dataset_tears_no_family_apart(families: list[Family], encoder: TextEncoder) -> None:
    """All wordings of a question are in one split, of which without groups most would not be."""
    groups = grouped((family.wordings[place] for place in range(3) for family in families), encoder)
    assert torn(families, NONE) > len(families) / 3
    assert torn(families, groups) == torn_by_export(families, encoder) == 0
    assert len(np.unique(groups.leader)) == len(families)


def test_wordings_are_told_from_different_questions(families: list[Family], encoder: TextEncoder) -> None:
    """What is found, whom it is with by mistake, and how much of it is a mistake are shares of what each name says."""
    texts = [wording for family in families for wording in family.wordings]
    of = np.repeat(np.arange(len(families)), 3)
    same = np.where(of[:, np.newaxis] == of, 1.0, 0.0)
    assert together(texts, same, encoder) == (1, 0, 0)
    # As if the third wording were another question: the one pair that is left is found, the two others are wrong.
    third = np.arange(len(texts)) % 3 == 2
    same[third[:, np.newaxis] != third] = 0
    found, mixed, wrong = together(texts, same, encoder)
    assert (found, mixed, wrong) == (1, 1, pytest.approx(2 / 3))
    same[same == 0] = np.nan
    assert together(texts, same, encoder) == (1, 0, 0)


def test_right_answers_say_which_questions_are_one() -> None:
    """An answer right for both makes one of two; judged for both and wrong for one, two; else nothing is known."""
    answers = {"one": {"a": 5.0, "b": 1.0}, "other": {"a": 4.0}, "third": {"a": 1.0, "c": 5.0}, "fourth": {"d": 5.0}}
    assert in_common(answers, unknown=9.0).tolist() == [[1, 1, 0, 9], [1, 1, 0, 9], [0, 0, 1, 9], [9, 9, 9, 1]]


def test_made_up_questions_have_three_wordings() -> None:
    """Each question has three wordings, and none is there twice."""
    for language, count in (("en", 60), ("de", 15), ("es", 15)):
        rows = read_rewordings(language)
        assert len(rows) == count
        assert {len(row) for row in rows} == {3}
        assert len({wording for row in rows for wording in row}) == 3 * count
