from __future__ import annotations

import numpy as np
import pytest

from rlhf_loop.encoders import TextEncoder
from tools.leaks import NONE, Family, by_lot, grouped, torn, torn_by_export

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
