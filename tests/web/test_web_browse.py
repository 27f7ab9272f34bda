"""What an admin looks for among all answers, and the history of a question."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from raters import Visitor, put_answers, put_people, text
from sqlalchemy import ColumnElement, event, insert, select
from sqlalchemy import text as text_of_sql
from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import Rating, ReviewerRole, ServingRecord
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import put, rate, record
from rlhf_loop.store.queries import Filters, first_and_last, history, search
from rlhf_loop.store.tables import AnswerScore, Interaction


@pytest.fixture
def dora(sqlite_engine: Engine) -> Visitor:
    put_people(sqlite_engine)
    return Visitor(Settings(database_url=str(sqlite_engine.url), rate_limit="0"), "dora")


def put_one(engine: Engine, prompt: str, response: str = "Rest.", **values: object) -> int:
    (key,) = record(engine, [Rating(user_prompt=prompt, ai_response=response, **values)])  # type: ignore[arg-type]
    return key


def test_words_are_found_in_all_texts(engine: Engine) -> None:
    """All words have to be there, in whatever case, with no letter that stands for others."""
    put_one(engine, "Is a_b mild?", external_id="1")
    second = put_one(engine, "Which Größe?", "A dose of 50 or 100%.", external_id="2")
    put_one(engine, "axb", "The 100% dose.", external_id="3")
    rate(engine, second, reviewer="anna", rating=4, comment="Better than before.")
    expected = {
        "größe": ["2"],
        "GRÖßE 100%": ["2"],
        '"100% dose"': ["3"],
        "dose 100%": ["3", "2"],
        "a_b": ["1"],
        "rest mild": ["1"],
        "better than": ["2"],
        "nothing": [],
        "": ["3", "2", "1"],
    }
    assert {words: [each.id for each in search(engine, words=words).interactions] for words in expected} == expected


def test_a_search_that_takes_long_goes_on_later(sqlite_engine: Engine) -> None:
    """When the time is over, what was found comes with the number where the rest begins."""
    key = put_one(sqlite_engine, "The one that is wanted")
    put_answers(sqlite_engine, 1100)
    now = iter(range(100))
    found = search(sqlite_engine, words="wanted", seconds=1, clock=lambda: float(next(now)))
    assert (found.interactions, found.before) == ((), key + 101)
    found = search(sqlite_engine, words="wanted", before=found.before)
    assert ([each.prompt for each in found.interactions], found.before) == (["The one that is wanted"], None)


def test_a_day_is_found_by_its_index(sqlite_engine: Engine) -> None:
    """A search from a day on or until one reads no answers of other days."""
    put_answers(sqlite_engine, 3)
    found: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "rlhf_interactions" in statement:
            plan = connection.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            found.extend(row[-1] for row in plan if "rlhf_interactions" in row[-1])

    event.listen(sqlite_engine, "before_cursor_execute", explain)
    now = datetime.now(UTC)
    search(sqlite_engine, Filters(created_before=now))
    search(sqlite_engine, Filters(created_after=now))
    assert [step.rpartition(" ix_rlhf_interactions_created_at ")[2] for step in found] == [
        *("(created_at<?)", "(created_at<?)"),
        *("(created_at>? AND created_at<?)", "(created_at>? AND created_at<?)"),
    ]


@pytest.mark.parametrize("where", [[], [Interaction.rating.is_(None)]], ids=["all", "what waits"])
def test_the_ends_are_looked_up(sqlite_engine: Engine, where: list[ColumnElement[bool]]) -> None:
    """No row between the first and the last number is read to find the two."""
    keys = [put_one(sqlite_engine, f"Question {number}") for number in range(3)]
    wanted = first_and_last(*where)
    plan = text_of_sql(f"EXPLAIN QUERY PLAN {wanted.compile(sqlite_engine)}")
    with sqlite_engine.connect() as connection:
        assert connection.execute(wanted).one() == (keys[0], keys[-1])
        steps = [row.detail for row in connection.execute(plan)]
    assert [step.split()[0] for step in steps if "rlhf_interactions" in step] == ["SEARCH", "SEARCH"]


def test_each_answer_is_on_one_page(sqlite_engine: Engine) -> None:
    """Pages follow each other without a gap, and the last one says so."""
    put_answers(sqlite_engine, 7)
    seen, before = [], None
    for _ in range(3):
        found = search(sqlite_engine, words="headache", before=before, limit=3)
        seen += [each.prompt for each in found.interactions]
        before = found.before
    assert (seen, before) == ([f"What helps against headache {number}?" for number in range(6, -1, -1)], None)
    assert search(sqlite_engine, before=10**12, limit=7).before is None


def test_filters(dora: Visitor, sqlite_engine: Engine) -> None:
    """An answer is found by its rating, its rater, source, version, day and flag; an empty field asks nothing."""
    first = put_one(
        sqlite_engine, "First", source="wiki", model_version="v1", created_at=datetime(2026, 3, 1, tzinfo=UTC)
    )
    put_one(sqlite_engine, "Second", source="index", created_at=datetime(2026, 3, 2, 23, tzinfo=UTC))
    rate(sqlite_engine, first, reviewer="anna", rating=2, harmful=True)
    asked = {
        "rating=2": "First",
        "rating=rated": "First",
        "rating=unrated&reviewer=&since=": "Second",
        "reviewer=anna": "First",
        "source=index": "Second",
        "model=v1": "First",
        "since=2026-03-02": "Second",
        "until=2026-03-01": "First",
        "flagged=true": "First",
    }
    for query, expected in asked.items():
        html = text(dora.page(f"/browse?{query}"))
        assert [name for name in ("First", "Second") if name in html] == [expected], query
    assert "Nothing like that is there." in text(dora.page("/browse?q=third"))
    assert "First" in text(dora.page("/browse?until=2026-03-02"))


@pytest.mark.parametrize("query", ["rating=6", "since=yesterday", "before=0", "before=x", "q=" + "x" * 201])
def test_what_cannot_be_looked_for(dora: Visitor, query: str) -> None:
    """A filter that is none is answered with the reason."""
    dora.page(f"/browse?{query}", status=422)


@pytest.mark.parametrize(
    "query",
    [
        *("since=0001-01-01", "until=9999-12-31", "before=9223372036854775807"),
        "since=2026-03-01&before=79228162514264337593543950335",
    ],
)
def test_extremes_are_no_error(dora: Visitor, query: str) -> None:
    """The first and the last day and number that there are can be asked for."""
    dora.page(f"/browse?{query}")


def test_a_page_leads_to_the_next(dora: Visitor, sqlite_engine: Engine) -> None:
    """Twenty answers are on a page; the link to older ones keeps the filters."""
    put_answers(sqlite_engine, 21)
    html = dora.page("/browse?q=headache&rating=unrated")
    assert html.count('class="row-head"') == 20
    assert "/browse?q=headache&amp;rating=unrated&amp;before=" in html
    assert dora.page(_older(html)).count('class="row-head"') == 1
    by_day = dora.page("/browse?since=2026-01-01")
    assert (by_day.count('class="row-head"'), dora.page(_older(by_day)).count('class="row-head"')) == (20, 1)


def _older(html: str) -> str:
    (link,) = re.findall(r'href="(/browse\?[^"]*before=[^"]*)"', html)
    return link.replace("&amp;", "&")


def test_what_was_found_as_csv(dora: Visitor, sqlite_engine: Engine) -> None:
    """The file has the rows that were found, and no formula."""
    key = put_one(sqlite_engine, "=1+1", "Größe, 5 mg", source="wiki")
    put_one(sqlite_engine, "Other")
    rate(sqlite_engine, key, reviewer="anna", rating=5)
    response = dora.client.get("/browse/found.csv?q=gr%C3%B6%C3%9Fe")
    assert (response.status_code, response.mimetype) == (200, "text/csv")
    (row,) = csv.DictReader(io.StringIO(response.data.decode("utf-8-sig")))
    assert (row["user_prompt"], row["ai_response"], row["rating"], row["harmful"]) == ("'=1+1", "Größe, 5 mg", "5", "0")


@pytest.mark.parametrize(("limit", "value", "rows"), [("MOST_ROWS", 1, 1), ("_MOST_SECONDS", 0.0, 0)])
def test_a_file_that_is_not_all_says_so(
    dora: Visitor, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, rows: int
) -> None:
    """Where a limit of rows or of time ends the file, its last line says where the rest is, and that is the rest."""
    for answer in ("Old", "New"):
        put_one(sqlite_engine, "Why?", answer)
    monkeypatch.setattr(f"rlhf_loop.web.pages.browse.{limit}", value)
    *lines, last = dora.client.get("/browse/found.csv?q=why").text.splitlines()
    assert len(lines) == rows + 1
    assert "INCOMPLETE" in last
    monkeypatch.undo()
    rest = dora.client.get(last.rpartition(" ")[2].rstrip('"')).text
    assert "Old" in rest
    assert ("New" in rest) == (rows == 0)
    assert "INCOMPLETE" not in rest


def test_the_history_of_a_question(dora: Visitor, sqlite_engine: Engine) -> None:
    """It has each time the question was asked, with candidates by rank, reviews, scores and what did not work."""
    now = datetime(2026, 3, 1, tzinfo=UTC)
    old = put_one(sqlite_engine, "Why?", "Old answer", candidate_group="g1", score=0.25, model_version="v1")
    put_one(sqlite_engine, "Else?", "Of another question")
    put_one(sqlite_engine, "Why?", "**Best**", candidate_group="g2", shown_rank=1, external_id="best/1")
    waiting = put_one(sqlite_engine, "Why?", "Second best", candidate_group="g2", shown_rank=2)
    rate(sqlite_engine, old, reviewer="anna", rating=2, comment="Too short", correction="Longer", harmful=True)
    rate(sqlite_engine, old, reviewer="u", rating=4, role=ReviewerRole.END_USER)
    with transaction(sqlite_engine) as connection:
        put(
            connection,
            ServingRecord(
                candidate_group="g2",
                served_at=now,
                policy="live",
                model_version="v2",
                degraded={"arxiv": "t"},
                door="/v1/rerank",
                caller="shop",
            ),
        )
        connection.execute(insert(AnswerScore), {"interaction_key": waiting, "model_version": "v3", "score": 0.75})
    html = dora.page(f"/browse/question?id={quote('best/1', safe='')}")
    said = text(html)
    assert "<strong>Best</strong>" in html
    assert said.index("Best") < said.index("Second best") < said.index("Old answer")
    for part in (
        "Ordered by live, scored by v2. Came by /v1/rerank for shop.",
        "Did not work: arxiv.",
        "score now: 0.75 (v3)",
        "0.25 (v1)",
    ):
        assert part in said
    for part in ("2 by anna", "Flagged as harmful", "Too short", "Longer", "4 by u (end user)"):
        assert part in said
    assert "Of another question" not in said
    dora.page("/browse/question?id=none", status=404)


def test_pages_of_a_history(sqlite_engine: Engine) -> None:
    """A question that was asked often has several pages, and each answer is on one."""
    keys = [put_one(sqlite_engine, "Why?", f"Answer {number}") for number in range(5)]
    with sqlite_engine.connect() as connection:
        id = connection.execute(select(Interaction.external_id).where(Interaction.id == keys[0])).scalar_one()
    first = history(sqlite_engine, id, limit=3)
    rest = history(sqlite_engine, id, limit=3, before=first.before)
    responses = [each.entry.response for page in (first, rest) for each in page.answers]
    assert responses == [f"Answer {number}" for number in (4, 3, 2, 1, 0)]
    assert rest.before is None


def test_a_history_reads_no_other_question(sqlite_engine: Engine) -> None:
    """The answers of a question are looked up, however many others there are."""
    key = put_one(sqlite_engine, "Why?")
    with sqlite_engine.connect() as connection:
        id = connection.execute(select(Interaction.external_id).where(Interaction.id == key)).scalar_one()
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, values: Any, *_: object) -> None:
        if "user_prompt ||" in statement and not statement.startswith("EXPLAIN"):
            plans.extend(row[3] for row in connection.connection.execute(f"EXPLAIN QUERY PLAN {statement}", values))

    event.listen(sqlite_engine, "before_cursor_execute", explain)
    try:
        history(sqlite_engine, id)
    finally:
        event.remove(sqlite_engine, "before_cursor_execute", explain)
    assert plans
    assert not [step for step in plans if step.startswith("SCAN rlhf_interactions")]


@pytest.mark.parametrize("field", ["q", "reviewer", "source", "model"])
def test_what_no_text_can_hold_is_refused(dora: Visitor, field: str) -> None:
    """Databases take no NUL character."""
    dora.page(f"/browse?{field}=a%00b", status=422)


def test_only_admins_browse(dora: Visitor, sqlite_engine: Engine) -> None:
    """Raters see neither the page nor the file nor a link to them."""
    anna = Visitor(Settings(database_url=str(sqlite_engine.url), rate_limit="0"), "anna")
    for path in ("/browse", "/browse/found.csv", "/browse/question?id=x"):
        assert anna.client.get(path).status_code == 403
    assert "/browse" not in anna.page("/review")
    assert "/browse" in dora.page("/review")
