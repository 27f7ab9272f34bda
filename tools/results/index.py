"""The vector databases on a real corpus: time, room, latency, and how often the right answer is found."""

from __future__ import annotations

import gzip
import json
import random
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from sqlalchemy import text

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder, Vectors, load_encoder
from rlhf_loop.sources.index import Entry, Mode, VectorStore
from rlhf_loop.sources.index.documents import Document
from rlhf_loop.sources.index.indexing import IndexReport, index_files
from rlhf_loop.sources.index.lancedb_store import LanceDbStore
from rlhf_loop.sources.index.pgvector_store import PgVectorStore
from tools.postgres import engine_of, run_postgres
from tools.report import machine, say, table, today

CORPUS = Path(__file__).parents[3] / "shared" / "data" / "medquad.jsonl.gz"
QUESTIONS = 1000
#: Each word of a question is dropped with this probability, but two are kept.
DROPPED = 0.4
SEED = 0
MODES: tuple[Mode, ...] = ("hybrid", "vector", "text")
_LABELS = {"hybrid": "hybrid", "vector": "vectors alone", "text": "full text alone"}
_TABLES = ("rlhf_index_sections", "rlhf_index_vectors")


@dataclass(slots=True)
class Timed:
    """A store, and the seconds that adding to it and optimizing it took."""

    store: VectorStore
    seconds: float = 0.0

    def add(self, entries: Sequence[Entry], *, encoder: str) -> None:
        started = perf_counter()
        self.store.add(entries, encoder=encoder)
        self.seconds += perf_counter() - started

    def optimize(self) -> None:
        started = perf_counter()
        self.store.optimize()
        self.seconds += perf_counter() - started


@dataclass(slots=True)
class _Several:
    """Fills several stores with what is embedded once: those with titles as it comes, the others without."""

    titled: Sequence[Timed]
    untitled: Sequence[Timed]
    encoder: str | None = None
    _known: set[str] = field(default_factory=set)

    def add(self, entries: Sequence[Entry], *, encoder: str) -> None:
        self._known.update(entry.section.document for entry in entries)
        for store in self.titled:
            store.add(entries, encoder=encoder)
        bare = [Entry(replace(entry.section, title=None), entry.vectors) for entry in entries]
        for store in self.untitled:
            store.add(bare, encoder=encoder)

    def known(self, documents: Collection[str], *, encoder: str | None = None) -> set[str]:
        return self._known.intersection(documents)

    def optimize(self) -> None:
        for store in (*self.titled, *self.untitled):
            store.optimize()


@dataclass(frozen=True, slots=True)
class Found:
    """Of all questions: the share whose answer is among ten, and milliseconds of a search."""

    recall: float
    p50: float
    p99: float


def measured(encoder_settings: Settings, *, rows: int | None = None) -> str:
    """Index the corpus (its first `rows` answers) into both databases, ask its questions, and return the section."""
    if not CORPUS.exists():
        sys.exit(f"The corpus is not at {CORPUS}, and there is nothing else to measure on.")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlhf-results-")))
        corpus = folder / "medquad.jsonl"
        answers = _read(corpus, rows)
        # An empty cache: nothing is known before.
        encoder = load_encoder(replace(encoder_settings, cache_dir=folder / "cache"))
        encoder.encode(["Warm up."])
        postgres = [stack.enter_context(_postgres()) for _ in range(2)]
        lance = [LanceDbStore(folder / name) for name in ("titled", "untitled")]
        titled = {"LanceDB": Timed(lance[0]), "pgvector": Timed(postgres[0])}
        untitled = {"LanceDB": Timed(lance[1]), "pgvector": Timed(postgres[1])}
        say(f"indexing {len(answers):,} answers")
        stores = _Several(list(titled.values()), list(untitled.values()))
        report = index_files([corpus], store=stores, encoder=encoder, progress=_every_tenth)  # type: ignore[arg-type]
        storing = sum(timed.seconds for timed in (*titled.values(), *untitled.values()))
        size = {
            "LanceDB": sum(file.stat().st_size for file in (folder / "titled").rglob("*") if file.is_file()),
            "pgvector": _postgres_bytes(postgres[0]),
        }
        queries = _paraphrased(answers)
        embedded, embedding = _embedded([query for query, _ in queries], encoder)
        found = {}
        for variant, of_variant in (("yes", titled), ("no", untitled)):
            for name, timed in of_variant.items():
                for mode in MODES:
                    say(f"{name}, questions indexed: {variant}, {mode}")
                    found[variant, name, mode] = _ask(timed.store, queries, embedded, answers, mode)
        del stores
        return _section(report, titled, storing, size, found, embedding, encoder.id)


def _read(copy: Path, rows: int | None) -> dict[str, str]:
    """Copy the first rows; return the answer of each document by the document's id."""
    answers = {}
    with gzip.open(CORPUS, "rt", encoding="utf-8") as lines, copy.open("w", encoding="utf-8") as file:
        for line, _ in zip(lines, range(rows or 10**9), strict=False):
            row = json.loads(line)
            file.write(line)
            title = " ".join(row["question"].split())
            document = Document(text=row["answer"], source=copy.name, title=title, url=row["url"])
            answers[document.id] = (row["question"], row["answer"])
    _QUESTION.clear()
    _QUESTION.update({name: question for name, (question, _) in answers.items()})
    return {name: answer for name, (_, answer) in answers.items()}


#: The question of each document.
_QUESTION: dict[str, str] = {}


def _paraphrased(answers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Draw documents, and drop words of their questions; give each shortened question with its answer."""
    draw = random.Random(SEED)
    names = draw.sample(sorted(answers), min(QUESTIONS, len(answers)))
    return [(_shortened(_QUESTION[name], draw), answers[name]) for name in names]


def _shortened(question: str, draw: random.Random) -> str:
    words = question.split()
    kept = [place for place in range(len(words)) if draw.random() >= DROPPED]
    while len(kept) < min(2, len(words)):
        kept = sorted({*kept, draw.randrange(len(words))})
    return " ".join(words[place] for place in kept)


def _embedded(queries: Sequence[str], encoder: TextEncoder) -> tuple[Vectors, list[float]]:
    vectors, times = [], []
    for query in queries:
        started = perf_counter()
        vectors.append(encoder.encode_whole([query])[0])
        times.append(1000 * (perf_counter() - started))
    return np.stack(vectors), times


def _ask(
    store: VectorStore, queries: Sequence[tuple[str, str]], vectors: Vectors, answers: Mapping[str, str], mode: Mode
) -> Found:
    for (query, _), vector in zip(queries[:20], vectors, strict=False):
        store.search(query, vector, limit=10, mode=mode)
    times, hits = [], 0
    for (query, answer), vector in zip(queries, vectors, strict=True):
        started = perf_counter()
        found = store.search(query, vector, limit=10, mode=mode)
        times.append(1000 * (perf_counter() - started))
        hits += any(answers[hit.section.document] == answer for hit in found)
    p50, p99 = np.percentile(times, [50, 99])
    return Found(hits / len(queries), float(p50), float(p99))


@contextmanager
def _postgres() -> Iterator[PgVectorStore]:
    """A store in a database of its own, on a server that lives as long as the block."""
    with run_postgres() as server:
        store = PgVectorStore(engine_of(server.url))
        try:
            yield store
        finally:
            store.close()


def _postgres_bytes(store: PgVectorStore) -> int:
    with store._engine.connect() as connection:
        return sum(
            connection.execute(text(f"SELECT pg_total_relation_size('{name}')")).scalar_one() for name in _TABLES
        )


def _every_tenth(done: int, total: int) -> None:
    if done * 10 // total != max(0, done - 100_000) * 10 // total:
        say(f"{done:,} of {total:,} characters")


def _section(
    report: IndexReport,
    stores: Mapping[str, Timed],
    storing: float,
    size: Mapping[str, int],
    found: Mapping[tuple[str, str, str], Found],
    embedding: Sequence[float],
    encoder: str,
) -> str:
    embedded = report.seconds - storing
    spent = [
        [
            name,
            f"{embedded + timed.seconds:.0f}",
            f"{timed.seconds:.0f}",
            f"{report.documents / (embedded + timed.seconds):.0f}",
            f"{size[name] / 1e6:.0f}",
        ]
        for name, timed in stores.items()
    ]
    lines = [
        [name, variant, _LABELS[mode], f"{each.recall:.3f}", f"{each.p50:.1f}", f"{each.p99:.1f}"]
        for (variant, name, mode), each in found.items()
    ]
    p50, p99 = np.percentile(embedding, [50, 99])
    return f"""## Vector database

MedQuAD (Ben Abacha, Demner-Fushman 2019): {report.documents:,} answers from NIH sites, {report.new:,} of them distinct
with their question and address, cut into {report.sections:,} sections with {report.passages:,} passages. One run of
`rlhf-loop index add` with vectors of {encoder} and an empty cache; reading, cutting and embedding took
{embedded:.0f} s of it, and were done once for both databases. Sizes are those of all that is kept: texts, vectors at
32 bits, indices.

{table(("", "index time, s", "of it storing, s", "documents/s", "size, MB"), spent)}

Then {min(QUESTIONS, report.new):,} of the corpus's own questions (drawn with seed {SEED}), each word dropped with
probability {DROPPED} unless fewer than two would be left. Found means: among ten sections there is one of the
question's own answer (or of the same text under another question). Some questions lose all that says what they are
about ("What is ?"), so no search reaches 1. "Questions indexed" are the titles of the documents, found by words and by
a vector of their own; without them only the answers' texts are there, the harder case. Milliseconds are those of a
search in the same process, the vectors of the hits included, one after another; embedding the question takes
{p50:.1f} more (99th percentile {p99:.1f}).

{table(("", "questions indexed", "search", "recall@10", "p50, ms", "p99, ms"), lines)}

Measured on {today()} on {machine()}."""
