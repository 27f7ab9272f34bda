"""The rerank API on a server: documents that are new, the same again, and what others wait meanwhile."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, sleep
from typing import TypeAlias
from urllib.request import Request, urlopen

from tools.bench import server
from tools.report import table

#: Documents of a request, and words of a document.
SIZES = ((10, 100), (100, 100), (100, 500), (1000, 100))
#: Words of the one document that is far too long: about a megabyte.
LONG = 150_000
#: The request during which others ask.
LARGE = (1000, 500)
ROUNDS = 3
_KNOWN_ROUNDS = 15
_SMALL = 3
_PATIENCE_S = 300

_Ask: TypeAlias = Callable[[list[str]], float]
_Texts: TypeAlias = Callable[[int, int], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Milliseconds of a request, medians: with documents never seen, and with the same and another question."""

    documents: int
    words: int
    new: float
    known: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranking:
    """The rows; milliseconds of small requests, alone and while a large one runs; megabytes of all processes."""

    rows: Sequence[Row]
    alone_new: float
    alone_known: float
    beside_new: Sequence[float]
    beside_known: Sequence[float]
    large: float
    before: float
    after: float
    after_long: float


def measure(*, sizes: Sequence[tuple[int, int]] = SIZES, large: tuple[int, int] = LARGE, long: int = LONG) -> Reranking:
    """Serve a model of the sample by one process, and ask."""
    texts = texts_of(Random(0))
    with tempfile.TemporaryDirectory(prefix="rlhf-rerank-") as name:
        folder = Path(name)
        server.prepare(folder)
        with server.serving(folder, "--workers", "1") as served:
            ask = _asker(served.port)
            ask(texts(_SMALL, 100))
            before = served.megabytes()
            rows = [_row(ask, texts, *size) for size in sizes]
            small = [texts(_SMALL, 100) for _ in range(ROUNDS)]
            alone_new = median(ask(documents) for documents in small)
            alone_known = median(ask(small[0]) for _ in range(_KNOWN_ROUNDS))
            took, new, known = _beside(ask, texts(*large), texts, small[0])
            after = served.megabytes()
            rows.append(_row(ask, texts, 1, long, rounds=1))
            return Reranking(
                rows=rows,
                alone_new=alone_new,
                alone_known=alone_known,
                beside_new=new,
                beside_known=known,
                large=took,
                before=before,
                after=after,
                after_long=served.megabytes(),
            )


def section(result: Reranking) -> str:
    """Return the section of the document."""
    rows = [
        (f"{row.documents:,}", f"{row.words:,}", f"{row.new:,.0f} ms", f"{row.known:,.1f} ms") for row in result.rows
    ]
    small = (
        (f"{_SMALL} new documents of 100 words", result.alone_new, result.beside_new),
        ("the same ones again", result.alone_known, result.beside_known),
    )
    beside = [
        (name, f"{alone:,.0f} ms", f"{median(times):,.0f} ms", f"{max(times):,.0f} ms") for name, alone, times in small
    ]
    documents, words = LARGE
    return (
        "## The rerank API\n\n`POST /v1/rerank` of `rlhf-loop serve --workers 1`, one client, each time with another "
        "question. A text is embedded once and then known, so a request with new documents costs what their embedding "
        "costs, and the same documents again next to nothing. Medians of "
        f"{ROUNDS} requests with new documents (the longest: one) and of {_KNOWN_ROUNDS} with known ones.\n\n"
        f"{table(('documents', 'words each', 'new', 'again'), rows)}\n\n"
        f"A large request lets small ones in between. While one with {documents:,} new documents of {words:,} words "
        f"ran ({result.large / 1e3:.0f} s), others took:\n\n"
        f"{table(('small request', 'alone', 'meanwhile, median', 'the slowest'), beside)}\n\n"
        f"Memory of all processes: {result.before:.0f} MB before, {result.after:.0f} MB after all that, "
        f"{result.after_long:.0f} MB after the document of {LONG:,} words."
    )


def short(result: Reranking) -> str:
    """Return the lines for docs/CLIENTS.md."""
    *usual, long = result.rows
    times = "; ".join(
        f"{row.documents:,} documents of {row.words:,} words {row.new / 1e3:.1f} s, the same ones with another "
        f"question {row.known:.0f} ms"
        for row in usual
    )
    return (
        f"A text is embedded once and then known. By one process: {times}. A new document of "
        f"{long.words:,} words took {long.new / 1e3:.0f} s. Others need not wait for that: while a request of "
        f"{result.large / 1e3:.0f} s ran, a small one with new documents took {median(result.beside_new):.0f} ms and "
        f"one with known documents {median(result.beside_known):.0f} ms. The process grew from {result.before:.0f} to "
        f"{result.after:.0f} MB, and with the longest document to {result.after_long:.0f} MB."
    )


def _row(ask: _Ask, texts: _Texts, documents: int, words: int, *, rounds: int = ROUNDS) -> Row:
    given = [texts(documents, words) for _ in range(rounds)]
    new = median(ask(each) for each in given)
    known = median(ask(given[0]) for _ in range(_KNOWN_ROUNDS))
    return Row(documents=documents, words=words, new=new, known=known)


def _beside(ask: _Ask, large: list[str], texts: _Texts, known: list[str]) -> tuple[float, list[float], list[float]]:
    """Ask for small things, new and known in turn, for as long as a large request takes."""
    new_times, known_times = [], []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, large)
        sleep(0.5)
        while not running.done():
            new_times.append(ask(texts(_SMALL, 100)))
            known_times.append(ask(known))
    return running.result(), new_times, known_times


def _asker(port: int) -> _Ask:
    """Return what sends documents with a question that nobody asked before, and gives the milliseconds it took."""
    numbers = count()

    def ask(documents: list[str]) -> float:
        query = f"What helps against a migraine attack? This is number {next(numbers)}."
        body = json.dumps({"query": query, "documents": documents}).encode()
        address = f"http://127.0.0.1:{port}/v1/rerank"
        request = Request(address, data=body, headers={"Content-Type": "application/json"})
        begun = perf_counter()
        with urlopen(request, timeout=_PATIENCE_S) as response:
            results = json.load(response)["results"]
        took = perf_counter() - begun
        if len(results) != len(documents):
            sys.exit(f"{len(documents)} documents were sent, and {len(results)} came back.")
        return took * 1e3

    return ask


def texts_of(random: Random) -> _Texts:
    """Return what makes documents of the sample's words; none is made twice."""
    words = [word for sentence in server.sample()[1] for word in sentence.split()]

    def texts(documents: int, length: int) -> list[str]:
        return [" ".join(random.choices(words, k=length)) for _ in range(documents)]

    return texts
