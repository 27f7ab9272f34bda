"""The threshold of nearness at which one question's correction answers another: `python -m tools.near_questions`.

Prints, for several cosines, how many rewordings of a question are taken for it, and how many other questions are:
among the nearest of each of MedQuAD's, those about another subject or of another type. The same then for questions that
had no part in the choice, of `rewordings.tsv`, SelQA and FeedbackQA; for these alone: `python -m tools.near_questions
others`. Reads ../shared/data.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import click
import numpy as np

from rlhf_loop.config import Settings
from rlhf_loop.domain import GOOD_RATING
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.sources.approved_corrections import NEAR
from rlhf_loop.utils.wording import QuestionWords
from tools.report import table

DATA = Path(__file__).parents[2] / "shared" / "data" / "medquad.jsonl.gz"
#: Questions in three wordings each, made up for this: an everyday one, a medical one, and a talkative one. Many are
#: about the same subject as another on purpose. By language: 60 in English, 15 in German, 15 in Spanish.
REWORDINGS = Path(__file__).with_name("rewordings.tsv")
REWORDED = {
    "symptoms": ("symptoms of X", "X symptoms", "What are the signs of X?", "Please tell me the symptoms of X."),
    "treatment": ("How is X treated?", "treatment for X", "How can X be treated?", "What therapies are there for X?"),
    "causes": ("What is the cause of X?", "causes of X", "What are the causes of X?"),
    "outlook": ("What is the prognosis of X?", "outlook X"),
    "prevention": ("How can X be prevented?", "How can I prevent X?"),
    "information": ("What is X?", "X", "Tell me about X."),
    "exams and tests": ("How is X diagnosed?", "diagnosis of X"),
}
THRESHOLDS = (0.0, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
NEIGHBOURS = 10
SAMPLE = 400


def main() -> None:
    """Measure and print."""
    encoder = load_encoder(Settings())
    if sys.argv[1:] != ["others"]:
        _on_medquad(encoder)
    click.echo(_on_others(encoder))


def _on_medquad(encoder: TextEncoder) -> None:
    rows = read_questions()
    questions = [row["question"] for row in rows]
    vectors = encoder.encode_whole(questions)
    words = [QuestionWords(question) for question in questions]
    click.echo(f"{len(questions):,} questions of MedQuAD, encoder {encoder.id}\n")

    near: list[float] = []
    taken: list[bool] = []
    for row in random.Random(0).sample(rows, len(rows)):
        patterns = REWORDED.get(row["question_type"], ())
        if row["focus"] not in row["question"] or len(taken) >= SAMPLE * 7:
            continue
        texts = [pattern.replace("X", row["focus"]) for pattern in patterns]
        if texts:
            own = encoder.encode_whole([row["question"]])[0]
            near += (encoder.encode_whole(texts) @ own).tolist()
            taken += [QuestionWords(text).same_as(QuestionWords(row["question"])) for text in texts]
    others_near, others_taken, wrong = [], [], []
    for place in range(len(questions)):
        cosines = vectors @ vectors[place]
        for other in np.argpartition(-cosines, NEIGHBOURS)[: NEIGHBOURS + 1].tolist():
            if other > place and _differ(rows[place], rows[other]):
                others_near.append(float(cosines[other]))
                others_taken.append(words[place].same_as(words[other]))
                if others_taken[-1] and cosines[other] >= NEAR:
                    wrong.append((float(cosines[other]), questions[place], questions[other]))
    click.echo("| cosine from | rewordings taken | by the cosine alone | others taken | by the cosine alone |")
    click.echo("| --- | --- | --- | --- | --- |")
    for threshold in THRESHOLDS:
        right, alone = _taken(near, taken, threshold)
        false, false_alone = _taken(others_near, others_taken, threshold)
        click.echo(
            f"| {threshold:.2f} | {right} of {len(near)} ({right / len(near):.0%}) | {alone} ({alone / len(near):.0%}) "
            f"| {false} of {len(others_near)} | {false_alone} |"
        )
    click.echo(f"\nOthers taken from {NEAR} on, the farthest first:")
    for cosine, question, other in sorted(wrong)[:30]:
        click.echo(f"  {cosine:.3f}  {question}  |  {other}")
    click.echo()


def _on_others(encoder: TextEncoder) -> str:
    lines = []
    for name in ("en", "de", "es"):
        families = read_rewordings(name)
        of_one = [pair for family in families for pair in combinations(family, 2)]
        apart = [pair for some, others in combinations(families, 2) for pair in zip(some, others, strict=True)]
        lines.append([f"`{REWORDINGS.name}`, {name}", *(_share(pairs, encoder) for pairs in (of_one, apart))])
    for name in ("selqa", "feedbackqa"):
        of_one, apart = [], []
        for (one, of_it), (other, of_other) in combinations(read_answers(name).items(), 2):
            if good(of_it) & good(of_other):
                of_one.append((one, other))
            elif not of_it.keys() & of_other.keys():
                apart.append((one, other))
        lines.append([name, *(_share(pairs, encoder) for pairs in (of_one, apart))])
    header = ("questions", f"of one question or with a right answer in common: taken from {NEAR} on", "others")
    return f"Questions that had no part in the choice, encoder {encoder.id}\n\n{table(header, lines)}"


def _share(pairs: Sequence[tuple[str, str]], encoder: TextEncoder) -> str:
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    vectors = dict(zip(texts, encoder.encode_whole(texts), strict=True))
    words = {text: QuestionWords(text) for text in texts}
    taken = sum(words[one].same_as(words[other]) and vectors[one] @ vectors[other] >= NEAR for one, other in pairs)
    return f"{taken:,} of {len(pairs):,}"


def read_rewordings(language: str) -> list[tuple[str, ...]]:
    """Return the made-up questions of a language, each in its wordings."""
    rows = (line.split("\t") for line in REWORDINGS.read_text(encoding="utf-8").splitlines())
    return [tuple(wordings) for of, *wordings in rows if of == language]


def read_answers(name: str) -> dict[str, dict[str, float]]:
    """Return the questions of a set of ratings, each with its answers and their ratings."""
    path = DATA.with_name(f"{name}.jsonl.gz")
    if not path.exists():
        sys.exit(f"The ratings are not at {path}, and there is nothing else to measure on.")
    found: dict[str, dict[str, float]] = defaultdict(dict)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            found[row["user_prompt"]][row["ai_response"]] = float(row["rating"])
    return dict(found)


def good(answers: Mapping[str, float]) -> set[str]:
    """Return the answers that experts found right."""
    return {answer for answer, rating in answers.items() if rating >= GOOD_RATING}


def read_questions() -> list[dict[str, str]]:
    """Return MedQuAD's rows, each question once."""
    if not DATA.exists():
        sys.exit(f"MedQuAD is not at {DATA}, and there is nothing else to measure on.")
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        return list({row["question"]: row for row in map(json.loads, file)}.values())


def _taken(near: Sequence[float], taken: Sequence[bool], threshold: float) -> tuple[int, int]:
    both = sum(cosine >= threshold and word for cosine, word in zip(near, taken, strict=True))
    return both, sum(cosine >= threshold for cosine in near)


def _differ(row: dict[str, str], other: dict[str, str]) -> bool:
    same = all(_plain(row[name]) == _plain(other[name]) for name in ("focus", "question_type"))
    return not same


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.casefold())


if __name__ == "__main__":
    sys.exit(main())
