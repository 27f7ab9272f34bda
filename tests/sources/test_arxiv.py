from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from inspect import signature
from itertools import pairwise
from pathlib import Path

import pytest
from forked_process import program
from loopback import Answer, SeenRequest, drops, in_turn, page, site
from patience import PATIENCE_S

from rlhf_loop.config import Settings
from rlhf_loop.domain import Passage
from rlhf_loop.errors import ConfigError, SourceError
from rlhf_loop.sources.arxiv import INTERVAL_S, LICENCE, ArxivSource, search_query

DATA = Path(__file__).parents[1] / "data" / "arxiv"
KIND = "application/atom+xml; charset=utf-8"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a cache and a pause of the test's own."""
    return Settings(cache_dir=tmp_path / "cache", source_deadline_s=10.0, source_cache_hours=0)


def document(name: str) -> bytes:
    return page((DATA / f"{name}.xml").read_bytes(), kind=KIND)


def feed(*entries: str) -> bytes:
    return page(f'<feed xmlns="http://www.w3.org/2005/Atom">{"".join(entries)}</feed>', kind=KIND)


def entry(number: str = "2601.00001", title: str = "A title", summary: str = "Fever is a raised temperature.") -> str:
    return f"<entry><id>http://arxiv.org/abs/{number}</id><title>{title}</title><summary>{summary}</summary></entry>"


def ask(settings: Settings, answer: Answer, question: str = "fever", *, limit: int = 5) -> list[Passage]:
    with site(lambda _: answer) as there:
        return ArxivSource(replace(settings, arxiv_url=there.url), interval_s=0.0).search(question, limit=limit)


def test_abstracts_and_where_they_come_from(settings: Settings) -> None:
    """An abstract comes with the paper's title and page, the licence of arXiv's metadata, and when it was fetched."""
    before = datetime.now(UTC)
    passages = ask(settings, document("found"), "Do school absences forecast influenza?")
    best = passages[0]
    assert best.text == (
        "We forecast influenza in schools when $p < 0.05$ and $n > 30$. Absences rise a week before the clinics see "
        "the wave. A simple regression is as good as a neural network & costs less."
    )
    assert best.title == "Forecasting seasonal influenza from school absences"
    assert best.url == "https://arxiv.org/abs/9902.00002v1"
    assert best.licence == LICENCE
    assert best.retrieved_at is not None
    assert before <= best.retrieved_at <= datetime.now(UTC)
    # The others behind it: first those with more of the question's words.
    assert [passage.url for passage in passages[1:]] == [
        "https://arxiv.org/abs/q-bio/9903003v1",
        "https://arxiv.org/abs/9901.00001v2",
    ]
    assert passages[2].title == "A model of how colds travel by train"


def test_what_is_asked(settings: Settings) -> None:
    """One request, with the sender's contact, for papers with two of the question's words."""
    with site(document("found")) as there:
        settings = replace(settings, arxiv_url=there.url, contact="ops@example.org")
        ArxivSource(settings, interval_s=0.0).search("How do colds travel by train?", limit=2)
        (seen,) = there.seen
    assert "ops@example.org" in seen.headers["User-Agent"]
    assert seen.params == {
        "search_query": "(all:colds AND all:travel) OR (all:colds AND all:train) OR (all:travel AND all:train)",
        "start": "0",
        "max_results": "10",
        "sortBy": "relevance",
        "sortOrder": "descending",
    }


@pytest.mark.parametrize(
    ("words", "query"),
    [
        (["fever"], "all:fever"),
        (["fever", "chills"], "all:fever AND all:chills"),
        (["a", "b", "c"], "(all:a AND all:b) OR (all:a AND all:c) OR (all:b AND all:c)"),
    ],
)
def test_queries(words: list[str], query: str) -> None:
    """A paper has two of the words, or the only one."""
    assert search_query(words) == query


@pytest.mark.parametrize(
    "question",
    ['fever ANDNOT all:chills "', "fever) OR (au:x", "fever* -chills &start=7#", "\x00fever\ud800", "fever " * 600],
)
def test_nothing_in_a_question_is_an_operator(settings: Settings, question: str) -> None:
    """Only letters and digits of a question get into the query, and few of them."""
    with site(document("empty")) as there:
        ArxivSource(replace(settings, arxiv_url=there.url), interval_s=0.0).search(question, limit=5)
        query = there.seen[0].params["search_query"]
    assert there.seen[0].params["start"] == "0"
    bare = query.replace("(", "").replace(")", "").replace(" AND ", " ").replace(" OR ", " ").split()
    assert all(part.startswith("all:") and part[4:].isalnum() and part.islower() for part in bare)
    assert len(query) < 800


@pytest.mark.parametrize("question", ["", "???", "\x00"])
def test_a_question_without_words(settings: Settings, question: str) -> None:
    """Without a word to search for, nobody is asked."""
    with site(document("found")) as there:
        assert ArxivSource(replace(settings, arxiv_url=there.url)).search(question, limit=5) == []
        assert there.seen == []


def test_nothing_found(settings: Settings) -> None:
    """A feed without entries is an answer, too."""
    assert ask(settings, document("empty")) == []


def test_the_limit(settings: Settings) -> None:
    """No more passages are given than wanted, and no fewer papers asked for."""
    many = feed(*(entry(f"2601.{n:05}") for n in range(50)))
    assert [len(ask(settings, many, limit=limit)) for limit in (0, 1, 30)] == [0, 1, 30]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("error", r"arXiv refused the request: incorrect query format for all:\."),
        ("overloaded", "found 1234 papers and sent none of them"),
        ("truncated", "not an Atom feed"),
        ("mismatched", "not an Atom feed"),
        ("rss", r"not an Atom feed \(its root is 'rss'\)"),
        ("entity_bomb", r"not an Atom feed \(it has a document type\)"),
        ("external_entity", "it has a document type"),
        ("external_dtd", "it has a document type"),
    ],
)
def test_what_is_no_answer(settings: Settings, name: str, message: str) -> None:
    """An error, half a feed, another format or a bomb is a SourceError, and is not kept."""
    settings = replace(settings, source_cache_hours=24)
    with site(document(name)) as there:
        source = ArxivSource(replace(settings, arxiv_url=there.url), interval_s=0.0)
        for _ in range(2):
            with pytest.raises(SourceError, match=message):
                source.search("influenza", limit=5)
        assert len(there.seen) == 2


def encoded(text: str, encoding: str) -> bytes:
    return f"<?xml version='1.0' encoding='{encoding}'?>{text}".encode(encoding)


BOMB = (DATA / "entity_bomb.xml").read_text().partition("\n")[2]
BODIES = {
    "nothing": b"",
    "blanks": b" \n",
    "NUL": b"\0" * 1000,
    "HTML": b"<html><body>Sorry<br></body></html>",
    "bytes": bytes(range(256)),
    "a bomb in UTF-16": encoded(BOMB, "utf-16"),
    "an unknown encoding": b"<?xml version='1.0' encoding='x-none'?><feed/>",
    "an encoding of many bytes": b"<?xml version='1.0' encoding='utf-7'?><feed/>",
    "not UTF-8": feed(entry()).partition(b"\r\n\r\n")[2].replace(b"Fever", b"\xff"),
    "a control character": feed(entry(summary="a&#0;b")).partition(b"\r\n\r\n")[2],
    "an undeclared entity": feed(entry(summary="&nbsp;")).partition(b"\r\n\r\n")[2],
    "two roots": b"<feed/><feed/>",
    "no namespace": b"<feed><entry/></feed>",
}


@pytest.mark.parametrize("what", BODIES)
def test_what_is_no_xml(settings: Settings, what: str) -> None:
    """Whatever comes, it is a SourceError in one line."""
    with pytest.raises(SourceError, match="not an Atom feed") as error:
        ask(settings, page(BODIES[what], kind=KIND))
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "wrong",
    [
        "<entry/>",
        "<entry><id/><title/><summary/></entry>",
        entry("../../etc/passwd"),
        entry("2601.00001?x=1"),
        entry().replace("http://arxiv.org", "https://arxiv.org.evil.example"),
        entry().replace("http://arxiv.org", "javascript:alert(1)//arxiv.org"),
        entry(summary=""),
        entry(summary=" \n "),
        entry("2601.00002v1", "The one that is right"),
    ],
)
def test_entries_that_are_none(settings: Settings, wrong: str) -> None:
    """An entry without a paper of arXiv or without an abstract is left out, one that is there twice is given once."""
    passages = ask(settings, feed(wrong, entry("2601.00002v1", "The one that is right")))
    assert [(passage.title, passage.url) for passage in passages] == [
        ("The one that is right", "https://arxiv.org/abs/2601.00002v1")
    ]


def test_markup_in_texts(settings: Settings) -> None:
    """Tags in titles and abstracts, escaped or not, do not get through; an abstract without a title has a name."""
    summary = "Fever &lt;b&gt;is&lt;/b&gt; <i xmlns='x'>raised</i>\n temperature &#x202e;here, a&lt;b."
    (passage,) = ask(settings, feed(entry("2601.00001", "", summary)))
    assert passage.text == "Fever is raised temperature here, a<b."
    assert passage.title == "arXiv:2601.00001"


def test_long_abstracts_are_cut_between_sentences(settings: Settings) -> None:
    """No passage is longer than a reader can take in."""
    passages = ask(settings, feed(entry(summary="Fever is a raised temperature of the body. " * 200)))
    assert all(len(passage.text) <= 1500 and passage.text.endswith(".") for passage in passages)
    assert len(passages) == 5


def deep() -> bytes:
    return b'<feed xmlns="http://www.w3.org/2005/Atom">' + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</feed>"


def wide() -> bytes:
    return b'<feed xmlns="http://www.w3.org/2005/Atom">' + b"<entry/>" * 200_000 + b"</feed>"


def many_attributes() -> bytes:
    names = b" ".join(b'a%d="1"' % n for n in range(50_000))
    return b'<feed xmlns="http://www.w3.org/2005/Atom"><entry ' + names + b"/></feed>"


@pytest.mark.parametrize("body", [deep, wide, many_attributes])
def test_feeds_of_odd_shapes(settings: Settings, body: object) -> None:
    """Depth, breadth and attributes up to the limit of bytes do no harm."""
    assert ask(settings, page(body(), kind=KIND)) == []  # type: ignore[operator]


def test_a_feed_of_megabytes(settings: Settings) -> None:
    """No more than the limit is read."""
    with pytest.raises(SourceError, match="more than 2,000,000 bytes"):
        ask(settings, feed(entry(summary="fever " * 500_000)))


def test_a_feed_in_drops(settings: Settings) -> None:
    """A feed that comes too slowly is not waited for."""
    with pytest.raises(SourceError, match="did not answer within"):
        ask(replace(settings, source_deadline_s=0.6), drops(document("found")))


@pytest.mark.parametrize("status", [400, 500, 503])
def test_statuses(settings: Settings, status: int) -> None:
    """arXiv also answers errors with a status; a feed that comes with one does not count."""
    with pytest.raises(SourceError, match=f"HTTP status {status}"):
        ask(settings, document("found").replace(b"200", b"%d" % status, 1))


def test_the_cache(settings: Settings) -> None:
    """A question asked again costs arXiv nothing, and needs no pause."""
    with site(document("found")) as there:
        settings = replace(settings, arxiv_url=there.url, source_cache_hours=24)
        found = [ArxivSource(settings).search("influenza", limit=5) for _ in range(3)]
        assert found[0] == found[1] == found[2] != []
        assert len(there.seen) == 1


def test_the_pause(settings: Settings) -> None:
    """A second question within the pause and without time for it is told when to come back; arXiv does not see it."""
    assert INTERVAL_S == 3.0
    assert signature(ArxivSource).parameters["interval_s"].default == INTERVAL_S
    with site(document("found")) as there:
        settings = replace(settings, arxiv_url=there.url)
        ArxivSource(settings, interval_s=600.0).search("influenza", limit=5)
        with pytest.raises(SourceError, match=r"arXiv may be asked only every 600 s") as error:
            ArxivSource(settings, interval_s=600.0).search("influenza", limit=5)
        assert len(there.seen) == 1
    assert error.value.retry_after_s is not None
    assert 0 < error.value.retry_after_s <= 600


ASKER = """
import sys
from pathlib import Path
from rlhf_loop.config import Settings
from rlhf_loop.sources.arxiv import ArxivSource
url, folder = sys.argv[1:]
settings = Settings(arxiv_url=url, cache_dir=Path(folder), source_cache_hours=0, source_deadline_s=60.0)
source = ArxivSource(settings, interval_s=0.4)
for _ in range(2):
    source.search("influenza", limit=5)
"""


def test_processes_keep_the_pause_together(settings: Settings, tmp_path: Path) -> None:
    """However many processes ask, arXiv sees them one after the other, with the pause, redirects included."""

    def answer(seen: SeenRequest) -> Answer:
        if seen.path == "/api":
            return page(status=301, headers={"Location": f"/moved?q={seen.params['search_query']}"})
        return document("found")

    with site(answer) as there:
        askers = [program(ASKER, there.url, settings.cache_dir, folder=tmp_path) for _ in range(2)]
        assert [asker.wait(PATIENCE_S) for asker in askers] == [0, 0]
        times = sorted(seen.at for seen in there.seen)
    assert len(times) == 8
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.4


def test_a_second_try_keeps_the_pause(settings: Settings) -> None:
    """Where arXiv is busy and says to come back at once, the second try waits all the same."""
    with in_turn(page(status=503, headers={"Retry-After": "0"}), document("found")) as there:
        settings = replace(settings, arxiv_url=there.url)
        assert len(ArxivSource(settings, interval_s=0.4).search("influenza", limit=5)) == 3
        assert there.seen[1].at - there.seen[0].at >= 0.4


def test_an_address_that_is_none(settings: Settings) -> None:
    """A setting that is no address is refused at once."""
    with pytest.raises(ConfigError, match="RLHF_ARXIV_URL"):
        ArxivSource(replace(settings, arxiv_url="arxiv"))
