"""Run all experiments and write docs/RESULTS.md with its pictures.

`python -m tools.results index` measures the vector databases alone; a number behind it, only on so many documents.
`python -m tools.results pairs` simulates pairs and end users alone, `documents` tells known documents and unseen ones
apart, `beginning` measures the prior before and with few ratings, `ablations` what each feature is worth, `relevance`
whether answers to other questions come last, `batches` scores of long lists in parts, `cost` a training, and `ratings`
does all that comes of the ratings. `step2` and `judges`, where torch is installed (`make tuning` has it in
.venv-tuning), tune layers, which takes hours the first time; `make results` leaves their sections as they are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

import numpy as np

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.registry.training_run import library_versions
from rlhf_loop.reward import RECIPES
from rlhf_loop.reward.recipes import ANSWER_FEATURES
from rlhf_loop.training.data import linked_by_documents
from rlhf_loop.training.evaluation import Evaluation
from rlhf_loop.training.learning_curve import CurvePoint, learning_curve
from tools.report import DOCS, IMAGES, machine, put_into_readme, say, table, today
from tools.results import beginning, cost, plots, step2
from tools.results import experiments as run
from tools.results.batches import measured as batches
from tools.results.data import FEEDBACKQA, Ratings, load, read_examples
from tools.results.index import measured as vector_databases
from tools.results.pairs import measured as pairs_and_end_users
from tools.results.relevance import measured as relevance

_NAMES = tuple(reversed(RECIPES))
_STEP2 = ("## Tuned layers", "## Labels of judges")
_HEADER = ("AUC", "accuracy", "P@1", "NDCG", "MRR", "Brier", "calibration error")


def main() -> None:
    """Measure everything, then write the document, so that an interrupted run leaves the old one."""
    encoder = load_encoder(Settings.from_env())
    sections, short = _of_ratings(encoder)
    say("vector databases")
    sections.append(vector_databases(Settings.from_env()))
    say("cost")
    sections += [part for part in _parts() if part.startswith(_STEP2)]
    sections.append(_cost())
    _write(sections, short)


def only_ratings() -> None:
    """Measure all that comes of the ratings, and leave in the document what does not: vector databases and cost."""
    sections, short = _of_ratings(load_encoder(Settings.from_env()))
    new = {_heading(section) for section in sections}
    _write([*sections, *(part for part in _parts()[1:] if _heading(part) not in new)], short)


def _of_ratings(encoder: TextEncoder) -> tuple[list[str], str]:
    """Return the introduction and the sections that come of the ratings, and the README's table; draw the pictures."""
    say("features of all ratings, both recipes")
    ratings = load(encoder)
    say("cross-validation")
    crossed = {name: run.cross_validated(ratings, name) for name in _NAMES}
    first = {name: evaluations[0] for name, evaluations in crossed.items()}
    sections = [
        _introduction(ratings, encoder.id),
        _main_table(ratings, crossed),
        _documents(ratings, crossed, encoder),
        _validation(ratings),
        _small(ratings),
        beginning.measured(encoder),
    ]
    say("learning curves")
    examples, _ = read_examples()
    points = {name: learning_curve(examples, recipe=RECIPES[name], encoder=encoder) for name in _NAMES}
    sections += [_curves(points), _calibration()]
    say("ablations")
    sections.append(_ablations(encoder, ratings))
    say("pairs and end users")
    sections += [pairs_and_end_users(encoder), relevance(encoder), batches(encoder)]
    IMAGES.mkdir(parents=True, exist_ok=True)
    plots.orders(IMAGES / "orders.png", first)
    plots.curves(IMAGES / "learning_curve.png", points, first["joint"].orders["incoming"].precision_at_1.value)
    plots.reliability(IMAGES / "calibration.png", {name: _out_of_fold(ratings, name) for name in _NAMES})
    return sections, _short_table(crossed)


def _write(sections: Sequence[str], short: str) -> None:
    (DOCS / "RESULTS.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    put_into_readme("results", short)
    say(f"written to {DOCS / 'RESULTS.md'}, and the short table to README.md")


def only_index(rows: int | None) -> None:
    """Measure the vector databases alone, print that section, and put it into the document in place of the older one.

    With `rows` only so many of the corpus, and the document stays as it is.
    """
    section = vector_databases(Settings.from_env(), rows=rows)
    sys.stdout.write(section + "\n")
    if rows is None:
        _replace(section)


def only_one(measured: Callable[[TextEncoder], str]) -> None:
    """Measure one section alone, print it, and put it into the document in place of the older one."""
    section = measured(load_encoder(Settings.from_env()))
    sys.stdout.write(section + "\n")
    _replace(section)


def _replace(section: str) -> None:
    """Put a section into the document in place of the older one; a new one comes before the last, the cost."""
    parts = _parts()
    if _heading(section) not in map(_heading, parts):
        parts.insert(-1, section)
    kept = [section if _heading(part) == _heading(section) else part for part in parts]
    (DOCS / "RESULTS.md").write_text("\n\n".join(kept) + "\n", encoding="utf-8")


def _parts() -> list[str]:
    return re.split(r"\n+(?=## )", (DOCS / "RESULTS.md").read_text(encoding="utf-8").rstrip("\n"))


def _heading(section: str) -> str:
    return section.partition("\n")[0]


def _introduction(ratings: Ratings, encoder: str) -> str:
    data = ratings.data
    return f"""# Results

Everything on this page is printed by one command, `make results` (last run {today()}; sections that name
another day are of that day, `python -m tools.results ratings` leaves these alone). It reads
real ratings from a folder beside the checkout, which are not part of the project: MEDIQA 2019 task 3 (Ben Abacha,
Shivade, Demner-Fushman, BioNLP 2019). {len(data.row):,} answers to {len(data.start) - 1} consumer-health questions,
returned by a real question-answering system and judged by medical experts; {data.label.mean():.0%} are correct
(rating >= 4). The vectors are those of {encoder}, the default on this processor; [Benchmarks](BENCHMARKS.md) says what
other precisions change.

Rules: questions, never single answers, are split, with those that are found to ask for the same (`python -m
tools.leaks` measures how many are). What is judged was not seen by the model that judges it. Where a
choice had to be made (features, penalty, the weight of a pair), it was made by cross-validation on the training split,
and the prior of the calibration by draws of 50 answers from all questions. The 5-fold results on all questions contain
the training split, so they are a little kind to recipe `passages`; by the validation split nothing was chosen. P@1
counts the questions without any correct answer as missed (so no order can exceed the oracle). NDCG has the gain
2^(rating-1) - 1 over the whole list, and leaves out the questions whose answers are all rated 1, for which no order is
better than another; other conventions are given below."""


def _main_table(ratings: Ratings, crossed: dict[str, list[Evaluation]]) -> str:
    lines = []
    for name, evaluations in crossed.items():
        mean, deviation = run.summary([run.Scores.of(each) for each in evaluations])
        lines.append([f"`{name}`", *_with_deviation(mean, deviation)])
    first = crossed["passages"][0]
    for name, label in (("incoming", "incoming order"), ("random", "random order"), ("oracle", "oracle")):
        order = first.orders[name]
        values = (order.precision_at_1, order.ndcg, order.mrr)
        lines.append([label, "", "", *(f"{value.value:.3f}" for value in values), "", ""])
    gains = []
    for name, evaluations in crossed.items():
        gain = evaluations[0].gain
        if gain is not None:
            gains.append(f"`{name}` {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})")
    return f"""## All {first.answers:,} ratings, five folds by question

Mean ± standard deviation over {len(run.SEEDS)} shufflings of the folds.

{table(("", *_HEADER), lines)}

P@1 against the incoming order, with 95 % intervals (paired bootstrap over questions, first shuffling):
{"; ".join(gains)}.
So the plain recipe ranks worse than doing nothing on this data, and would not go live.

NDCG of `passages` by other conventions (first shuffling): {_other_ndcg(ratings)}.

![P@1 of each order](images/orders.png)"""


def _only_documents(encoder: TextEncoder) -> str:
    ratings = load(encoder)
    return _documents(ratings, {name: run.cross_validated(ratings, name) for name in _NAMES}, encoder)


def _documents(ratings: Ratings, crossed: dict[str, list[Evaluation]], encoder: TextEncoder) -> str:
    other = load(encoder, FEEDBACKQA, recipes=["passages"])
    lines, counts = [], []
    for label, of, recipes in (("MEDIQA", ratings, _NAMES), ("FeedbackQA", other, ("passages",))):
        number = linked_by_documents(of.data)
        document = of.data.candidates["document"][of.data.row]
        asked = np.unique(np.stack([document, of.data.prompt]), axis=1)[0]
        names, questions = np.unique(asked, return_counts=True)
        recurring = np.isin(document, names[questions > 1])
        prompts, groups, parts = (len(np.unique(each)) for each in (of.data.prompt_hash, of.data.prompt, number))
        largest = np.bincount(np.unique(np.stack([number, of.data.prompt]), axis=1)[0]).max()
        counts.append(
            f"{label}: {len(document):,} answers to {prompts:,} questions, which are {groups:,} if those that ask for "
            f"the same count as one; {recurring.mean():.0%} of the answers are rated for others, too, and by them the "
            f"questions hang together in {parts:,} parts, the largest of {largest:,}."
        )
        for name in recipes:
            known = crossed[name] if of is ratings else run.cross_validated(of, name)
            for kind, found in (("known", known), ("unseen", run.on_unseen_documents(of, name))):
                lines.append([label, f"`{name}`", kind, *_with_deviation(*run.summary([*map(run.Scores.of, found)]))])
    return f"""## Known documents and unseen ones

Documents recur: what answers one question answers, or fails to answer, others. So there are two numbers, and both are
true. On *known* documents questions are split and documents come as they come: that is what happens in use, where
tomorrow's questions are answered from the same documents, and all other numbers on this page are of this kind. On
*unseen* ones questions that have an answer in common, or hang together by others that do, are in one fold, so that no
model was fitted on any answer that it is judged on: that is what happens on the day on which new documents come.

{chr(10).join(f"- {count}" for count in counts)}

Five folds, mean ± standard deviation over {len(run.SEEDS)} shufflings; {today()}, vectors of {encoder.id}. By `make
results`, or by `python -m tools.results documents` alone.

{table(("data", "recipe", "documents", *_HEADER), lines)}

The gate goes by the first: it asks whether a new model is better in use than the incoming order and than the live one,
which meet the very same documents; and where all hang together in a few parts, folds of them are too few and too uneven
to decide by. `rlhf-loop train` prints both, the card of each version has both."""


def _other_ndcg(ratings: Ratings) -> str:
    found = run.other_ndcg(ratings, "passages")
    return "; ".join(f"{name} {value:.3f}" for name, value in found.items())


def _short_table(crossed: dict[str, list[Evaluation]]) -> str:
    """Return the headline numbers, for README.md."""
    first = crossed["passages"][0].orders
    lines = [["random order", f"{first['random'].precision_at_1.value:.0%}", "", ""]]
    for name, label in (("joint", "plain recipe, `joint`"), ("passages", "**default recipe, `passages`**")):
        mean, _ = run.summary([run.Scores.of(each) for each in crossed[name]])
        lines.append([label, f"{mean.precision_at_1:.0%}", f"{mean.auc:.2f}", f"{mean.accuracy:.0%}"])
        if name == "joint":
            lines.append(["the order in which they came", f"{first['incoming'].precision_at_1.value:.0%}", "", ""])
    lines.append(["best possible order", f"{first['oracle'].precision_at_1.value:.0%}", "", ""])
    return table(("", "correct answer first", "AUC", "accuracy"), lines)


def _validation(ratings: Ratings) -> str:
    lines = []
    for name in _NAMES:
        evaluation = run.on_validation(ratings, name)
        lines.append([f"`{name}`", *_plain(run.Scores.of(evaluation)), _span(evaluation)])
    count = int(ratings.validation.sum())
    return f"""## Fitted on `train`, judged on `validation`

{count} answers to {len(np.unique(ratings.data.prompt[ratings.validation]))} questions.

{table(("", *_HEADER, "95 % of AUC"), lines)}"""


def _small(ratings: Ratings) -> str:
    lines = []
    for name in _NAMES:
        for label, draw in (
            ("50 answers drawn from all questions", run.fifty_anywhere),
            ("50 answers to the fewest questions (about 6)", run.fifty_together),
        ):
            lines.append([label, f"`{name}`", *_with_deviation(*run.summary(run.few_answers(ratings, name, draw)))])
        single = run.summary(run.one_answer_a_question(ratings, name))
        lines.append(["one answer to each training question (about 186)", f"`{name}`", *_with_deviation(*single)])
    return f"""## Few ratings

The ratings at the beginning, and those of most real tables, where one answer a question is rated. The other answers to
a rated question are there as its context, unrated. Judged on the full lists of all other questions. Mean ± standard
deviation over {run.DRAWS} draws of 50 answers, or {len(run.SEEDS)} shufflings of five folds.

{table(("fitted on", "recipe", *_HEADER), lines)}"""


def _curves(points: dict[str, list[CurvePoint]]) -> str:
    lines = [
        [
            str(point.rated),
            f"`{name}`",
            f"{point.auc:.3f} ± {point.auc_deviation:.3f}",
            f"{point.accuracy:.3f} ± {point.accuracy_deviation:.3f}",
            f"{point.precision_at_1:.3f} ± {point.precision_at_1_deviation:.3f}",
        ]
        for name, of_recipe in points.items()
        for point in of_recipe
    ]
    return f"""## Learning curve

Mean and standard deviation over five folds by question; whole questions are drawn. The same for your own ratings:
`rlhf-loop train --learning-curve`.

![Learning curves](images/learning_curve.png)

{table(("rated answers", "recipe", "AUC", "accuracy", "P@1"), lines)}"""


def _calibration() -> str:
    return """## Calibration

Out-of-fold probabilities in ten bins (those with ten answers or more).

![Calibration](images/calibration.png)"""


def _ablations(encoder: TextEncoder, ratings: Ratings | None = None) -> str:
    ratings = ratings or load(encoder, recipes=["passages"])
    recurring = load(encoder, FEEDBACKQA, recipes=["passages"])
    count = len(ANSWER_FEATURES)
    everything = np.arange(3 * count + 2)
    rank = np.log(ratings.data.rank)[:, None]
    variants: list[tuple[str, run.Scores]] = [("all features", run.ablated(ratings, None))]
    for index, name in enumerate(ANSWER_FEATURES):
        without = everything[(everything >= 3 * count) | (everything % count != index)]
        variants.append((f"without: {name}", run.ablated(ratings, without)))
    variants += [
        ("without: agreement (the question's)", run.ablated(ratings, everything[: 3 * count])),
        ("without: from the mean", run.ablated(ratings, np.delete(everything, np.s_[count : 2 * count]))),
        ("without: from the best", run.ablated(ratings, np.delete(everything, np.s_[2 * count : 3 * count]))),
        ("only absolute features", run.ablated(ratings, everything[:count])),
        ("with: incoming rank (log)", run.ablated(ratings, None, rank)),
        ("with: ratings for other questions", run.ablated(ratings, None, run.history(ratings))),
        ("FeedbackQA: all features", run.ablated(recurring, None)),
        ("FeedbackQA, with: ratings for other questions", run.ablated(recurring, None, run.history(recurring))),
    ]
    lines = []
    for name, scores in variants:
        whole = variants[-2 if name.startswith("FeedbackQA") else 0][1]
        values = (f"{getattr(scores, field):.4f}" for field in ("auc", "accuracy", "precision_at_1", "ndcg"))
        gain = scores.precision_at_1 - whole.precision_at_1
        lines.append([name, *values, f"{scores.auc - whole.auc:+.4f}", f"{gain:+.4f}"])
    header = ("recipe `passages`", "AUC", "accuracy", "P@1", "NDCG", "AUC change", "P@1 change")
    return f"""## Ablations

Five folds by question on the training split only, mean over {len(run.SEEDS)} shufflings. Each feature of an answer
comes in three forms (absolute, from the mean, from the best of its question); "without" takes out all three. By `make
results`, or by `python -m tools.results ablations` alone.

{table(header, lines)}

The differences of a single feature are within the noise of a shuffling (see the deviations above); the forms and the
question's own features are not. The incoming rank is left out on purpose: it brings nothing here, and a rank that the
model itself has caused would feed back into its next training. So are the ratings that the same answer got for other
questions, also where two answers in three recur, as in FeedbackQA: beside what an answer says of the question itself
they bring nothing."""


def _cost() -> str:
    lines = []
    for label, real, recipes in (("200 sample ratings", False, ("auto", *_NAMES)), ("1,935 ratings", True, _NAMES)):
        for (recipe, state), spent in cost.training_costs(recipes, real=real).items():
            numbers = (spent.imports, spent.load, spent.train, spent.wall)
            lines.append(
                [label, f"`{recipe}`", state, *(f"{seconds:.2f}" for seconds in numbers), f"{spent.megabytes:.0f}"]
            )
    header = ("data", "recipe", "vectors", "imports, s", "encoder, s", "training, s", "all, s", "peak memory, MB")
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    return f"""## Cost

A process each: imports, loading the encoder, then `train` (features, cross-validation, fit, evaluation with
intervals). "All" is the whole process on the wall clock, the start of Python included. "Cold" starts with an empty
vector cache. Medians of {cost.REPEATS} for the sample, one run for all ratings.

{table(header, lines)}

`import rlhf_reranker` takes {cost.import_seconds():.2f} s.

Measured on {today()} on {machine()}; {versions}."""


def _out_of_fold(ratings: Ratings, recipe: str) -> tuple[np.ndarray, np.ndarray]:
    return ratings.data.label, run.out_of_fold(ratings, recipe)


def _with_deviation(mean: run.Scores, deviation: run.Scores) -> list[str]:
    return [f"{a} ± {b}" for a, b in zip(_plain(mean), _plain(deviation), strict=True)]


def _plain(scores: run.Scores) -> list[str]:
    return [f"{getattr(scores, field.name):.3f}" for field in fields(scores)]


def _span(evaluation: Evaluation) -> str:
    return f"{evaluation.auc.low:.3f} to {evaluation.auc.high:.3f}"


_SECTIONS: Mapping[str, Callable[[TextEncoder], str]] = {
    "pairs": pairs_and_end_users,
    "documents": _only_documents,
    "beginning": beginning.measured,
    "ablations": _ablations,
    "relevance": relevance,
    "batches": batches,
    "step2": step2.measured,
    "judges": step2.judges,
    "cost": lambda _: _cost(),
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["index"]:
        only_index(int(sys.argv[2]) if len(sys.argv) > 2 else None)
    elif sys.argv[1:2] == ["ratings"]:
        only_ratings()
    elif sys.argv[1:]:
        only_one(_SECTIONS[sys.argv[1]])
    else:
        main()
