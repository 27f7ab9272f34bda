"""A batch job: ranks a file of questions with their candidates, and writes the result beside it.

    .venv/bin/python examples/batch_job.py questions.jsonl ranked.jsonl     # after make demo
    .venv/bin/python examples/batch_job.py questions.csv ranked.csv

JSONL has a line for each question: {"question": "...", "candidates": ["...", {"text": "...", "id": 7}]}, and gets the
candidates back best first. CSV has a row for each candidate, with the columns question and text, all rows of a question
one after the other; it gets the columns score and rank.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from rlhf_loop import Ranker, Settings, rerank_candidates

Question = tuple[str, list[Any]]


def read(path: Path) -> Iterator[Question]:
    """Read question by question, so that the file may be larger than the memory."""
    # Spreadsheets begin a file with a mark that "utf-8-sig" reads over.
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".csv":
            table = csv.DictReader(file)
            if missing := {"question", "text"} - set(table.fieldnames or ()):
                raise SystemExit(f"{path} has no column {sorted(missing)[0]}. Its columns are: {table.fieldnames}.")
            for question, rows in groupby(table, key=lambda row: row["question"]):
                yield question, list(rows)
        else:
            for line in file:
                if line.strip():
                    asked = json.loads(line)
                    yield asked["question"], asked["candidates"]


def write(path: Path, ranked: Iterator[Question]) -> int:
    """Write what is ranked, and return how many questions that were. The file is there once it is whole."""
    part, count, table = path.with_name(f"{path.name}.part"), 0, None
    with part.open("w", encoding="utf-8", newline="") as file:
        for count, (question, candidates) in enumerate(ranked, start=1):
            if path.suffix.lower() == ".csv":
                table = table or csv.DictWriter(file, list(candidates[0]))
                if count == 1:
                    table.writeheader()
                table.writerows(candidates)
            else:
                file.write(json.dumps({"question": question, "candidates": candidates}, ensure_ascii=False) + "\n")
    part.replace(path)
    return count


def main() -> None:
    """Rank one file."""
    parser = argparse.ArgumentParser(description="Rank the candidates of many questions.")
    parser.add_argument("questions", type=Path)
    parser.add_argument("ranked", type=Path)
    options = parser.parse_args()
    if options.questions.suffix.lower() != options.ranked.suffix.lower():
        parser.error(f"The result is like the questions: give it a name that ends in {options.questions.suffix}.")
    ranker = Ranker(Settings.from_env())
    if ranker.model_version is None:
        parser.error("There is no reward model yet. Train one: rlhf-loop train")
    ranked = ((asked, rerank_candidates(asked, texts, ranker=ranker)) for asked, texts in read(options.questions))
    try:
        print(f"{write(options.ranked, ranked)} questions ranked by {ranker.model_version} into {options.ranked}.")
    except ValueError as error:
        raise SystemExit(f"{options.questions} cannot be ranked, and nothing was written. {error}") from error


if __name__ == "__main__":
    main()
