"""The threshold of nearness at which one question's correction answers another: `python -m tools.near_questions`.

Prints, for several cosines, how many rewordings of a question are taken for it, and how many other questions are:
among the nearest of each of MedQuAD's, those about another subject or of another type. Reads ../shared/data.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from rlhf_loop.config import Settings
from rlhf_loop.encoders import load_encoder
from rlhf_loop.sources.approved_corrections import NEAR
from rlhf_loop.utils.wording import QuestionWords

DATA = Path(__file__).parents[2] / "shared" / "data" / "medquad.jsonl.gz"
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
    rows = read_questions()
    encoder = load_encoder(Settings())
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
