"""Large tables: no request reads one of them as a whole, and the capacity calculator reads what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url

from rlhf_loop.store.engine import make_engine
from tools import capacity
from tools.large.fill import TABLES, fill
from tools.large.measure import Site, Taken, section

_OF_A_TABLE = re.compile("|".join(TABLES))
_INTERACTIONS = 3_000
#: What is quickest for as many rows as here, and reads all of them.
_OF_SMALL_TABLES = ("seqscan", "hashjoin", "mergejoin")


@pytest.fixture
def site(postgres_url: str, tmp_path: Path) -> Iterator[Site]:
    """A small installation of the generator's."""
    engine = make_engine(postgres_url)
    fill(engine, _INTERACTIONS)
    engine.dispose()
    made = Site(postgres_url, tmp_path)
    yield made
    made.engine.dispose()


class Plans:
    """Plans of all statements that touch a large table, as they are where no table is small enough to be read whole."""

    def __init__(self) -> None:
        self.whole: list[str] = []
        self.indices: set[str] = set()
        self.seen = 0

    def look(self, connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        """Have a statement explained before it is executed."""
        if not _OF_A_TABLE.search(statement) or not statement.startswith(("SELECT", "UPDATE", "DELETE")):
            return
        self.seen += 1
        # To sort all corrections is quick, too, where there are sixty.
        ways = (*_OF_SMALL_TABLES, "sort") if "decided IS DISTINCT FROM" in statement else _OF_SMALL_TABLES
        with connection.connection.cursor() as beside:
            for way in ways:
                beside.execute(f"SET LOCAL enable_{way} = off")
            beside.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            (found,) = beside.fetchone()
            for way in ways:
                beside.execute(f"SET LOCAL enable_{way} = on")
        plan = found if isinstance(found, list) else json.loads(found)
        self.whole += [f"{table} in {statement}" for table in _read_whole(plan[0]["Plan"], limited=False)]
        self.indices.update(_indices(plan[0]["Plan"]))


def _read_whole(node: dict[str, Any], *, limited: bool) -> Iterator[str]:
    """Give the large tables that a plan reads from end to end: in sequence, or all of an index."""
    limited = limited or node["Node Type"] == "Limit"
    table = node.get("Relation Name")
    all_of_index = node["Node Type"].startswith("Index") and "Index Cond" not in node and not limited
    # That of the flagged reviews alone has so few that it is taken for the reviews of an answer in a table this small.
    all_of_index &= node.get("Index Name") != "ix_rlhf_reviews_flagged"
    if table in TABLES and (node["Node Type"] == "Seq Scan" or all_of_index):
        yield table
    for child in node.get("Plans", ()):
        yield from _read_whole(child, limited=limited)


def _indices(node: dict[str, Any]) -> Iterator[str]:
    """Give the indices by which a plan finds rows, or that have none but those that are wanted."""
    name = node.get("Index Name")
    if name and ("Index Cond" in node or name == "ix_rlhf_reviews_undecided"):
        yield name
    for child in node.get("Plans", ()):
        yield from _indices(child)


#: Of requests that would stop at a limit also without it, but late.
_BY_INDEX = {
    "`/browse`, half a year old": "ix_rlhf_interactions_created_at",
    "`/v1/interactions`, half a year old": "ix_rlhf_interactions_created_at",
    "`/v1/interactions`, of the last day": "ix_rlhf_interactions_created_at",
    "`/review/corrections`": "ix_rlhf_reviews_undecided",
    "`/review/corrections`, rejected": "ix_rlhf_correction_decisions_approved",
    "`/admin`": "ix_rlhf_reviews_undecided",
}


def test_no_request_reads_a_large_table_whole(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request finds its rows by an index, or stops at a limit, also where tables have millions of rows.

    The numbers of answers in the metrics are counted by an index as a whole, beside the requests.
    """
    monkeypatch.setattr("rlhf_loop.web.prometheus.count_answers", lambda engine: _Counted())
    plans = Plans()
    event.listen(Engine, "before_cursor_execute", plans.look)
    try:
        for name, ask in site.requests().items():
            before = plans.seen
            plans.indices.clear()
            ask(0)
            assert plans.seen > before or name in ("`/admin`", "`/admin/audit`"), name
            assert plans.whole == [], name
            assert _BY_INDEX.get(name, "") in {"", *plans.indices}, name
    finally:
        event.remove(Engine, "before_cursor_execute", plans.look)
    assert make_url(site.settings.database_url).get_backend_name() == "postgresql"


class _Counted:
    rated, waiting = 7, 8


def test_jobs_and_the_document(site: Site) -> None:
    """What the tool measures can be done, and stands in a table for each kind of it."""
    for work in site.jobs().values():
        work(0)
    retention = site.retention()
    taken = {"`/browse`": [Taken([1.0, 2.0, 3.0]), Taken([4.0])]}
    found = section([site.sizes(), site.sizes()], taken, taken, [retention, retention])
    assert re.search(r"\| interactions \| 2,99\d \| 2,99\d \|", found)
    assert "| `/browse` | 2.0 | 3.0 | 4.0 | 4.0 | 2.0 |" in found
    assert re.search(r"documents deleted \| \d+ in [\d.]+ s", found)


BENCHMARKS = """# Benchmarks (last run 2026-11-23, on AMD EPYC, 2 cores, Linux)

## Memory of a serving process

| after 1,000 requests | 200 | 97 |

## Growth of training

| rated answers | questions | import, s | training, s |
| 1,000 | 104 | 0.7 | 2.0 |
| 100,000 | 99,808 | 80.5 | 100.0 |

Time grows with the size to the power of 1.00

## The service under load

The index has 5,000 documents of 3 to 10 sentences.
| answers a second | 50 |

## Recorded rankings

one process recorded 1,000 rankings of ten such documents. 1,000 of the 1,000 were in the database 10 s after that.
"""
RESULTS = """## Vector database

MedQuAD (2019): 10,000 answers from NIH sites.

| LanceDB | 229 | 16 | 100 | 200 |
"""
SCALING = """## Large tables

| interactions | 50,000 | 2,000,000 |
| database, GB | 0.1 | 4.0 |
"""


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    for name, text in (("BENCHMARKS", BENCHMARKS), ("RESULTS", RESULTS), ("SCALING", SCALING)):
        (tmp_path / f"{name}.md").write_text(text, encoding="utf-8")
    return tmp_path


def _load(**changed: float) -> capacity.Load:
    values = {"answers_per_second": 50, "documents": 10_000, "ratings": 100_000, "recorded": 2, "peak_to_mean": 4}
    return capacity.Load(**{**values, "days": 30, **changed})  # type: ignore[arg-type]


MACHINE = capacity.Machine(cores=8, memory_gb=32, disk_gb=500, full=0.5, night_h=8)


def test_needs_follow_from_what_was_measured(docs: Path) -> None:
    """Cores, index, rows and hours are those of the documents in proportion, and each says how far it was measured."""
    found = {each.what: each for each in capacity.needs(_load(answers_per_second=500), MACHINE, capacity.read(docs))}
    answering = found["answering"]
    # 50 a second on two cores: 500 take 20, of eight of which four may be used.
    assert (answering.needed, answering.share) == ("20 cores, 4.0 GB of memory", 5.0)
    assert answering.range == "50 answers a second; this is 10 times that"
    assert found["searching"].needed.startswith("0.20 GB of index")
    assert found["searching"].range == "10,000 documents"
    assert found["recording"].needed == "1,000 rows a second at the peak"
    # 250 rows a second on average, 30 days of them, 2 KB each.
    assert found["answers of 30 days"].needed == "650 million rows, 1,300 GB"
    assert found["a training"].needed == "0.028 hours"
    assert found["indexing everything anew"].share == pytest.approx(200 / 3600 / 8 / 8)


def test_what_breaks_first(docs: Path) -> None:
    """Each step names what one machine has too little of, the worst first, and what to do about it."""
    lines = capacity.growth(_load(answers_per_second=5), MACHINE, capacity.read(docs)).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| 1", "| 10", "| 100", "| 1,000"]
    assert "nothing: one machine does" in lines[0]
    assert lines[2].startswith("| 100 | answers of 30 days")
    assert "RLHF_SERVED_DAYS" in lines[2]


def test_a_number_that_is_not_there(docs: Path) -> None:
    """A section that was not measured stops it with its name and the command that measures."""
    (docs / "SCALING.md").write_text("# Scaling\n", encoding="utf-8")
    with pytest.raises(Exception, match=r"SCALING\.md has no number .*Large tables.*make large"):
        capacity.read(docs)


def test_the_command() -> None:
    """It reads the real documents; a larger load needs more machines."""
    done = CliRunner().invoke(capacity.main, ["--answers-per-second", "2000", "--documents", "10000000"])
    assert done.exit_code == 0, done.output
    assert "2,000 answers a second at the peak, 10,000,000 documents" in done.output
    assert "times that" in done.output
