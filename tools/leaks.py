"""Leaks between the questions that a model is fitted on and those that judge it: `python -m tools.leaks`.

Prints how near two questions have to be to belong to one group; what a model seems to know of labels drawn by lot,
where each question is there in two wordings; and how many families of wordings a dataset tears apart. The threshold was
chosen by MedQuAD; so the same is then measured on questions that had no part in that: on those of `rewordings.tsv`, of
SelQA and of FeedbackQA, `python -m tools.leaks others` for these alone. Reads ../shared/data.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
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
from tools.near_questions import REWORDED, good, read_answers, read_questions, read_rewordings
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
#: Other words for parts of FeedbackQA's questions; those in which some stand are reworded by them.
OTHER_WORDS = {
    r"what should i do if": "how do I react when",
    r"what (can|should|do) (i|we) do": "which steps can be taken",
    r"(how|where) (can|do|should) (i|we)\b": "what is the best way to",
    r"(can|may) i\b": "am I allowed to",
    r"should i\b": "do I have to",
    r"do i (need|have) to": "must I",
    r"is it (safe|okay|ok) to": "can one safely",
    r"what are (the|some) ways to": "how does one",
    r"how long": "for how much time",
    r"covid[- ]?19|coronavirus|corona virus": "the corona disease",
    r"(child|children|kids)\b": "little ones",
    r"(employees|workers|staff)\b": "people who work for us",
    r"(pandemic|outbreak)": "crisis",
    r"symptoms": "signs of illness",
    r"protect": "keep safe",
    r"(spread|transmission)": "passing on",
    r"(funding|payment|payments)\b": "money from the state",
    r"apply for": "ask for",
    r"(business|company|organization)": "firm",
    r"(masks?|face coverings?)\b": "something over mouth and nose",
    r"pregnant": "expecting a baby",
    r"travel": "go on a journey",
    r"(elderly|older) (people|adults)": "the old",
    r"(get|be) tested": "have a test",
    r"prevent": "avoid",
}
THRESHOLDS = (0.75, 0.8, 0.85, 0.9, 0.95)
#: So many of the English families may choose a threshold, with SelQA's questions: the lowest at which at most 1 % are
#: with a different one. The other families judge it. (It would be 0.90, and find 1 % of the wordings.)
_HALF = 30
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
    encoder = load_encoder(Settings())
    if sys.argv[1:] != ["others"]:
        rows = read_questions()
        found = families(rows, wordings=3, seed=0)
        click.echo(f"{len(rows):,} questions of MedQuAD, encoder {encoder.id}\n\n{_torn(found, encoder)}\n")
        click.echo(f"{_by_lot({'MedQuAD': found}, encoder)}\n")
        click.echo(f"{_nearness(rows, encoder)}\n")
    click.echo(f"Questions that had no part in the choice, encoder {encoder.id}\n\n{_on_others(encoder)}\n")
    of_others = {"FeedbackQA, reworded by rule": reworded(seed=0), "`rewordings.tsv`, en": made_up(seed=0)}
    click.echo(_by_lot(of_others, encoder))


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


def reworded(*, seed: int, count: int = FAMILIES) -> list[Family]:
    """Draw questions of FeedbackQA with their answers, and with a wording in which other words stand for some."""
    rng, found, asked = random.Random(seed), list[Family](), read_answers("feedbackqa")
    for question in rng.sample(sorted(asked), len(asked)):
        other = question
        for pattern, words in OTHER_WORDS.items():
            other = re.sub(rf"\b{pattern}", words, other, flags=re.IGNORECASE)
        if other != question:
            found.append(Family((question, spelt(other, rng)), tuple(answer[:300] for answer in asked[question])))
        if len(found) == count:
            break
    return found


def made_up(*, seed: int) -> list[Family]:
    """Return the made-up questions in English, the talkative wording second, with answers drawn from FeedbackQA's."""
    rng = random.Random(seed)
    answers = [answer[:300] for of_it in read_answers("feedbackqa").values() for answer in of_it]
    return [
        Family((everyday, talkative, medical), tuple(rng.sample(answers, ANSWERS)))
        for everyday, medical, talkative in read_rewordings("en")
    ]


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


def together(texts: Sequence[str], same: np.ndarray, encoder: TextEncoder) -> tuple[float, float, float]:
    """Tell how well these questions are grouped; `same` says of each two whether they are one (1), two (0) or either.

    Returns the share of the pairs that are one and in one group, of the questions that are in a group with a different
    one, and of the pairs in one group that are two.
    """
    leader = grouped(texts, encoder).of(np.array([prompt_hash(text) for text in texts], dtype=np.int64))
    joined = (leader[:, np.newaxis] == leader) & ~np.eye(len(texts), dtype=np.bool_)
    one, two = joined & (same == 1), joined & (same == 0)
    of_all = (same == 1).sum() - len(texts)
    return float(one.sum() / of_all), float(two.any(axis=1).mean()), float(two.sum() / max(1, (one | two).sum()))


def in_common(answers: Mapping[str, Mapping[str, float]], *, unknown: float) -> np.ndarray:
    """Tell of each two questions whether an answer is right for both (1), or one that was judged for both is not (0).

    Where no answer was judged for both it is `unknown`.
    """
    texts = {answer: place for place, answer in enumerate({answer for of_it in answers.values() for answer in of_it})}
    judged, right = np.zeros((2, len(answers), len(texts)), dtype=np.float32)
    for row, of_it in enumerate(answers.values()):
        judged[row, [texts[answer] for answer in of_it]] = 1
        right[row, [texts[answer] for answer in good(of_it)]] = 1
    same = np.where(judged @ judged.T > 0, 0.0, unknown)
    same[right @ right.T > 0] = 1
    np.fill_diagonal(same, 1)
    return same


def _on_others(encoder: TextEncoder) -> str:
    english, selqa, feedbackqa = read_rewordings("en"), read_answers("selqa"), read_answers("feedbackqa")
    choosing = [*selqa, *(wording for family in english[:_HALF] for wording in family)]
    same = np.zeros((len(choosing), len(choosing)))
    same[: len(selqa), : len(selqa)] = in_common(selqa, unknown=0)
    same[len(selqa) :, len(selqa) :] = _of_families(english[:_HALF])
    sets = {"SelQA and the first half of `rewordings.tsv`, en": (choosing, same)}
    for name, of_it in (("en, second half", english[_HALF:]), *((of, read_rewordings(of)) for of in ("de", "es"))):
        sets[f"`rewordings.tsv`, {name}"] = [wording for family in of_it for wording in family], _of_families(of_it)
    sets["FeedbackQA"] = [*feedbackqa], in_common(feedbackqa, unknown=np.nan)
    lines = []
    for name, (texts, pairs) in sets.items():
        for threshold in (*THRESHOLDS, 2):
            grouping.NEAR = threshold
            shares = (f"{share:.1%}" for share in together(texts, pairs, encoder))
            lines.append(
                [name, f"{len(texts):,}", f"{threshold:.2f}" if threshold <= 1 else "by the key alone", *shares]
            )
    grouping.NEAR = NEAR
    header = (
        "set",
        "questions",
        "cosine from",
        "pairs of one found",
        "questions with another",
        "of pairs found: of two",
    )
    return table(header, lines)


def _of_families(families: Sequence[Sequence[str]]) -> np.ndarray:
    of = np.repeat(np.arange(len(families)), [len(family) for family in families])
    return np.where(of[:, np.newaxis] == of, 1.0, 0.0)


def _by_lot(found: Mapping[str, Sequence[Family]], encoder: TextEncoder) -> str:
    lines = []
    for name, of_it in found.items():
        for recipe in ("passages", "joint"):
            lots = [by_lot(of_it, encoder, recipe=recipe, seed=seed) for seed in SEEDS]
            means = (np.mean([getattr(lot, column) for lot in lots]) for column in ("once", "together", "apart"))
            lines.append([name, f"{len(of_it)}", f"`{recipe}`", *(f"{mean:.3f}" for mean in means)])
    header = ("labels by lot", "questions", "recipe", "each once", "in two wordings", "in two, without groups")
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
