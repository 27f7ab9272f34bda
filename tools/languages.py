"""Languages that an encoder knows: `python -m tools.languages` prints what docs/RLHF_LANGUAGES.md shows.

Forty questions of five topics, written for this project in English, German, Spanish and Chinese, each with an answer.
An encoder puts the eight answers of a question's topic in order, by the cosine of their best passage; no rating is
needed. Encoders are named as in RLHF_ENCODER; RLHF_ENCODER_PATH and the like hold for the one that it names.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from time import process_time

import click
import numpy as np

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.registry.contest import encoder_megabytes
from rlhf_loop.utils.languages import NAMES

FILE = Path(__file__).parent / "data" / "languages.jsonl"
CODES = ("en", "de", "es", "zh")
ENCODERS = ("all-MiniLM-L6-v2", "use-multilingual-v3")
#: Questions of a topic, whose answers are the candidates of each of them.
_TOPIC = 8

Rows = list[dict[str, dict[str, str]]]


def right_first(encoder: TextEncoder, rows: Rows, asked: str, answered: str) -> float:
    """Return the share of the questions whose own answer is nearest, of those of its topic."""
    questions = encoder.encode_whole([row[asked]["question"] for row in rows])
    answers = encoder.encode_passages([row[answered]["answer"] for row in rows])
    right = 0
    for place, question in enumerate(questions):
        topic = place // _TOPIC * _TOPIC
        fits = [float((passages @ question).max()) for passages in answers[topic : topic + _TOPIC]]
        right += int(np.argmax(fits)) == place - topic
    return right / len(rows)


def milliseconds(encoder: TextEncoder, texts: list[str]) -> float:
    """Return the processor's time for a new text, on one thread."""
    alone = encoder.uncached()
    alone.encode(texts[:1])
    started = process_time()
    alone.encode_passages(texts)
    return 1000 * (process_time() - started) / len(texts)


def main(names: list[str]) -> None:
    """Print a table for each encoder, and one of what they cost."""
    base = Settings.from_env()
    rows: Rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    costs = []
    for name in names:
        settings = replace(base, encoder=name, encoder_threads=1)
        if name != base.encoder:
            settings = replace(settings, encoder_path=None)
        encoder = load_encoder(settings)
        click.echo(f"{name}, right answer first, of eight:\n")
        click.echo(f"| question in | {' | '.join(f'answers in {NAMES[code].title()}' for code in CODES)} | knows it |")
        click.echo(f"| --- |{' --- |' * (len(CODES) + 1)}")
        for asked in CODES:
            shares = " | ".join(f"{right_first(encoder, rows, asked, answered):.0%}" for answered in CODES)
            said = encoder.foreign([row[asked][part] for row in rows for part in ("question", "answer")]) or "yes"
            click.echo(f"| {NAMES[asked].title()} | {shares} | {said} |")
        click.echo("")
        spent = [milliseconds(encoder, [row[code]["answer"] for row in rows]) for code in ("en", "de")]
        memory = encoder_megabytes(settings)
        mb = "-" if memory is None else f"{memory:.0f}"
        costs.append(f"| {encoder.id} | {encoder.dimension} | {spent[0]:.2f} | {spent[1]:.2f} | {mb} |")
    click.echo(
        "| encoder | numbers a vector | ms an English answer | ms a German one | MB |\n| --- | --- | --- | --- | --- |"
    )
    click.echo("\n".join(costs))


if __name__ == "__main__":
    main(sys.argv[1:] or list(ENCODERS))
