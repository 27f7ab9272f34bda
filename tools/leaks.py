"""Leaks between the questions that a model is fitted on and those that judge it: `python -m tools.leaks`.

Prints how near two questions have to be to belong to one group; what a model seems to know of labels drawn by lot,
where each question is there in two wordings; and how many families of wordings a dataset tears apart. Reads
../shared/data.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from rlhf_loop.config import Settings
from rlhf_loop.domain import Example, Rating
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.exchange.dataset import SPLITS, export_dataset, split_of
from rlhf_loop.store.engine import ensure_schema, make_engine
from rlhf_loop.store.interactions import record
from rlhf_loop.training import grouping
from rlhf_loop.training.data import assemble, is_frozen, prompt_hash
from rlhf_loop.training.grouping import QuestionGroups, question_groups
from rlhf_loop.training.train import train
from rlhf_loop.utils.wording import numbers_in, question_key, without_frame
from tools.near_questions import REWORDED, read_questions
from tools.report import table

#: What people put around a question, and how they spell it.
FRAMES = ("{}", "Hi, could you please tell me: {}", "{} Thanks a lot!", "I was wondering... {}")
#: Wordings that share fewer words with the question than those of `near_questions`.
FARTHER = {
    "symptoms": ("How do I know if I have X?", "how does X show itself", "What does somebody with X feel?"),
    "treatment": ("What can be done against X?", "What do doctors do for X"),
    "causes": ("Why do people get X?", "What brings on X?", "where does X come from"),
    "outlook": ("What happens to people with X in the long run?",),
    "prevention": ("how to avoid X", "What keeps one from getting X?"),
    "information": ("explain X", "what does X mean"),
    "exams and tests": ("Which tests show X?", "how do doctors find X"),
}
THRESHOLDS = (0.75, 0.8, 0.85, 0.9, 0.95)
NEAR = grouping.NEAR
SEEDS = range(6)
FAMILIES = 200
ANSWERS = 4
_PLACES = range(3)
#: No groups: each question for itself, as it was before there were any.
NONE = QuestionGroups(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Family:
    """A question in several wordings, with its answers."""

    wordings: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lot:
    """AUC on labels drawn by lot: each question once, in two wordings kept together, and in two taken for two."""

    once: float
    together: float
    apart: float


def main() -> None:
    """Measure and print."""
    rows, encoder = read_questions(), load_encoder(Settings())
    found = families(rows, wordings=3, seed=0)
    click.echo(f"{len(rows):,} questions of MedQuAD, encoder {encoder.id}\n\n{_torn(found, encoder)}\n")
    click.echo(f"{_by_lot(found, encoder)}\n")
    click.echo(_nearness(rows, encoder))


def families(rows: Sequence[dict[str, str]], *, wordings: int, seed: int, count: int = FAMILIES) -> list[Family]:
    """Draw questions, one of a subject, with other wordings in a spelling or a frame of their own."""
    rng, subjects, found = random.Random(seed), set[str](), list[Family]()
    for row in rng.sample(rows, len(rows)):
        patterns = [*REWORDED.get(row["question_type"], ()), *FARTHER.get(row["question_type"], ())]
        if row["focus"] not in row["question"] or row["focus"] in subjects or len(patterns) < wordings - 1:
            continue
        subjects.add(row["focus"])
        others = (spelt(pattern.replace("X", row["focus"]), rng) for pattern in rng.sample(patterns, wordings - 1))
        answers = [row["answer"][:600], *(each["answer"][:600] for each in rng.sample(rows, ANSWERS - 1))]
        found.append(Family((row["question"], *others), tuple(answers)))
        if len(found) == count:
            break
    return found


def spelt(question: str, rng: random.Random) -> str:
    """Return the question in a frame, and sometimes without case or punctuation."""
    text = rng.choice(FRAMES).format(question)
    return rng.choice((text, text.lower(), text.rstrip("?!. "), text.replace("'", "’")))


def by_lot(found: Sequence[Family], encoder: TextEncoder, *, recipe: str, seed: int) -> Lot:
    """Draw labels for all answers, the same for each wording, and see what a cross-validation finds in them."""
    rng = np.random.default_rng(seed)
    ratings = [rng.choice([2, 5], len(family.answers)).tolist() for family in found]

    def auc(wordings: int, groups: QuestionGroups | None = None) -> float:
        data = assemble(
            [
                Example(wording, answer, rating, f"{number}-{place}")
                for number, (family, given) in enumerate(zip(found, ratings, strict=True))
                for place, wording in enumerate(family.wordings[:wordings])
                for answer, rating in zip(family.answers, given, strict=True)
            ]
        )
        report = train(replace(data, groups=groups), encoder=encoder, recipe=recipe, seed=seed).report
        return report.cross_validated[recipe].auc.value

    return Lot(once=auc(1), together=auc(2), apart=auc(2, NONE))


def torn(found: Sequence[Family], groups: QuestionGroups) -> int:
    """Return how many families of wordings have some in one part of a dataset and some in another."""
    return sum(len(set(split_of(family.wordings, groups))) > 1 for family in found)


def torn_by_export(found: Sequence[Family], encoder: TextEncoder) -> int:
    """Do the same with a database and what `ratings export --format hf-dataset` makes of it."""
    import pyarrow.parquet as pq

    with TemporaryDirectory() as folder:
        engine = make_engine(f"sqlite:///{folder}/rlhf.db")
        ensure_schema(engine)
        asked = (Rating(family.wordings[place], family.answers[0], rating=5) for place in _PLACES for family in found)
        record(engine, list(asked))
        export_dataset(engine, Path(folder) / "out", encoder=encoder)
        engine.dispose()
        of: dict[str, str] = {}
        for split in SPLITS:
            for file in (Path(folder) / "out" / "data").glob(f"{split}-*"):
                of.update(dict.fromkeys(pq.read_table(file)["user_prompt"].to_pylist(), split))
    return sum(len({of[wording] for wording in family.wordings}) > 1 for family in found)


def grouped(texts: Iterable[str], encoder: TextEncoder) -> QuestionGroups:
    """Group questions, the oldest first."""
    prompts = list(texts)
    return question_groups([(np.array([prompt_hash(text) for text in prompts], dtype=np.int64), prompts)], encoder)


def _nearness(rows: Sequence[dict[str, str]], encoder: TextEncoder) -> str:
    rng, easy, hard = random.Random(0), list[tuple[str, str]](), list[tuple[str, str]]()
    for row in rng.sample(rows, 500):
        if row["focus"] in row["question"]:
            for pairs, patterns in ((easy, REWORDED), (hard, FARTHER)):
                others = patterns.get(row["question_type"], ())
                pairs += [(row["question"], spelt(other.replace("X", row["focus"]), rng)) for other in others]
    questions = [row["question"] for row in rows]
    nearness = [_pair_nearness(pairs, encoder) for pairs in (easy, hard)]
    lines = []
    for threshold in THRESHOLDS:
        grouping.NEAR = threshold
        found = grouped(questions, encoder)
        sizes = np.unique(found.leader, return_counts=True)[1]
        lines.append(
            [
                f"{threshold:.2f}",
                *(f"{(near >= threshold).mean():.1%}" for near in nearness),
                f"{len(sizes):,}",
                f"{sizes.max():,} ({sizes.max() / len(rows):.1%})",
                f"{is_frozen(found.leader, 0.2).mean():.1%}",
            ]
        )
    grouping.NEAR = NEAR
    header = (
        "cosine from",
        f"of {len(easy)} rewordings together",
        f"of {len(hard)} farther ones",
        "groups",
        "the largest",
        "frozen of 20 %",
    )
    return table(header, lines)


def _pair_nearness(pairs: Sequence[tuple[str, str]], encoder: TextEncoder) -> np.ndarray:
    """Return the cosine of each pair; 1 for one key, and 0 where no cosine would help."""
    one, other = (encoder.encode_whole([*map(without_frame, texts)]) for texts in zip(*pairs, strict=True))
    near = np.einsum("ij,ij->i", one, other)
    near[[numbers_in(one) != numbers_in(other) for one, other in pairs]] = 0
    near[[question_key(one) == question_key(other) for one, other in pairs]] = 1
    return near


def _by_lot(found: Sequence[Family], encoder: TextEncoder) -> str:
    lines = []
    for recipe in ("passages", "joint"):
        lots = [by_lot(found, encoder, recipe=recipe, seed=seed) for seed in SEEDS]
        means = (np.mean([getattr(lot, name) for lot in lots]) for name in ("once", "together", "apart"))
        lines.append([f"`{recipe}`", *(f"{mean:.3f}" for mean in means)])
    header = ("labels by lot", "each question once", "in two wordings", "in two, without groups")
    return f"AUC of a cross-validation, mean over {len(SEEDS)} seeds:\n\n{table(header, lines)}"


def _torn(found: Sequence[Family], encoder: TextEncoder) -> str:
    groups = grouped((family.wordings[place] for place in _PLACES for family in found), encoder)
    return (
        f"Of {len(found)} families of three wordings `ratings export --format hf-dataset` tears apart "
        f"{torn_by_export(found, encoder)} (by the groups alone {torn(found, groups)}, without groups "
        f"{torn(found, NONE)})."
    )


if __name__ == "__main__":
    sys.exit(main())
