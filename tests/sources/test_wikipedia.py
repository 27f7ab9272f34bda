from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from loopback import Answer, SeenRequest, json_page, page, site
from mediawiki import LICENCE, LICENCE_URL, mediawiki
from patience import PATIENCE_S

from rlhf_loop.config import Settings
from rlhf_loop.domain import Passage
from rlhf_loop.errors import ConfigError, SourceError
from rlhf_loop.sources import http
from rlhf_loop.sources.http import user_agent
from rlhf_loop.sources.wikipedia import WikipediaSource, api_address, formulas_once, usual_licence


@pytest.fixture(scope="module")
def wiki_url() -> Iterator[str]:
    """The API of a real MediaWiki."""
    with mediawiki() as url:
        yield url


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a cache of the test's own, and time enough for a busy machine."""
    return Settings(cache_dir=tmp_path / "cache", source_deadline_s=PATIENCE_S, contact="ops@example.org")


@pytest.fixture
def wiki(settings: Settings, wiki_url: str) -> WikipediaSource:
    """A source that asks the real MediaWiki."""
    return WikipediaSource(replace(settings, wikipedia_url=wiki_url))


def first(source: WikipediaSource, question: str) -> str:
    return source.search(question, limit=5)[0].text


def test_a_passage_and_where_it_comes_from(wiki: WikipediaSource, wiki_url: str) -> None:
    """A passage has the page's title and address, the wiki's licence, and when it was fetched."""
    before = datetime.now(UTC)
    (passage,) = wiki.search("What are the symptoms of influenza?", limit=1)
    assert passage.text.startswith("The illness begins suddenly with fever")
    assert passage.title == "Influenza"
    assert passage.url == wiki_url.replace("api.php", "index.php/Influenza")
    assert passage.licence == f"{LICENCE}, {LICENCE_URL}"
    assert passage.retrieved_at is not None
    assert before <= passage.retrieved_at <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("question", "start"),
    [
        ("Which antiviral drugs help against the flu?", "Rest and plenty of fluids"),
        ("How is the flu different in children?", "Children may also have nausea"),
        ("Can a vaccine protect me from influenza?", "A vaccine each autumn"),
        ("rhinoviruses", "The common cold is a mild infection"),
        ("What reduces a high blood pressure: salt or exercise?", "Less salt, more exercise"),
    ],
)
def test_the_section_that_fits_the_question(wiki: WikipediaSource, question: str, start: str) -> None:
    """Of a page, the section comes first that has most of the question's words in its text or heading."""
    assert first(wiki, question).startswith(start)


def test_what_is_found_is_plain_text(wiki: WikipediaSource) -> None:
    """No tags, notes, tables or headings; what only looks like a tag stays."""
    passages = wiki.search("soap prevention vaccine influenza", limit=10)
    text = "\n".join(passage.text for passage in passages)
    assert 'Washing hands with soap & water helps, too (p < 0.05 and n > 30).\nalert("lung")' in text
    for unwanted in ("script", "A table", "==", "[1]", "A book", "See also", "wikitable", "similar symptoms"):
        assert unwanted not in text


@pytest.mark.parametrize(
    ("extract", "text"),
    [
        (
            "The energy is\n\n  \n    \n      \n        E\n        =\n        m\n        \n          c\n          \n"
            "            2\n          \n        \n      \n    \n    {\\displaystyle E=mc^{2}}\n  \n at rest.",
            "The energy is E=mc^{2} at rest.",
        ),
        (
            "Let     L    :    X    →    Y    {\\displaystyle L:X\\to Y}    , with     X    {\\textstyle X}   open.",
            "Let L:X\\to Y, with X open.",
        ),
        (
            "A set    {  1  }    {\\displaystyle \\{1\\}}\n\n\n== History ==\nOld.",
            "A set \\{1\\}\n\n\n== History ==\nOld.",
        ),
        ("Write {\\displaystyle x} so.", "Write x so."),
        ("Never closed {\\displaystyle x", "Never closed {\\displaystyle x"),
        ("No formula:  two  blanks.", "No formula:  two  blanks."),
    ],
)
def test_a_formula_is_there_once(extract: str, text: str) -> None:
    """Of its signs and its TeX the latter stays, without what only says how large it is; the sentence goes on."""
    assert formulas_once(extract) == text


def test_long_sections_are_cut_between_sentences(wiki: WikipediaSource) -> None:
    """No passage is longer than a reader can take in, and each ends with a sentence."""
    passages = wiki.search("pressure measured at home", limit=10)
    assert len(passages) > 2
    assert all(len(passage.text) <= 1500 and passage.text.endswith(".") for passage in passages)
    assert len(wiki.search("pressure measured at home", limit=2)) == 2


def test_redirects_lead_to_their_page(wiki: WikipediaSource) -> None:
    """A page that only points to another one is not given."""
    assert {passage.title for passage in wiki.search("redirect Influenza flu", limit=5)} == {"Influenza"}


def test_lists_of_meanings_are_left_out(wiki: WikipediaSource) -> None:
    """A disambiguation page answers nothing."""
    assert {passage.title for passage in wiki.search("cold infection of nose and throat", limit=9)} >= {"Common cold"}
    assert "Cold (disambiguation)" not in {passage.title for passage in wiki.search("low temperature cold", limit=9)}


def test_titles_of_any_alphabet(wiki: WikipediaSource, wiki_url: str) -> None:
    """Titles and addresses with other letters come whole."""
    (passage,) = wiki.search("thyroid", limit=5)
    assert passage.title == "Überfunktion (日本語)"
    assert passage.url == wiki_url.replace("api.php", "index.php/%C3%9Cberfunktion_(%E6%97%A5%E6%9C%AC%E8%AA%9E)")


def test_fewer_words_where_all_find_nothing(wiki: WikipediaSource) -> None:
    """MediaWiki's own search wants all words on a page: where there is no such page, fewer words are tried."""
    found = wiki.search("My zebra Zaphod quickly caught rhinoviruses, didn't it?", limit=5)
    assert "Common cold" in {passage.title for passage in found}


@pytest.mark.parametrize(
    "question",
    [
        "rhinoviruses -throat",
        "rhinoviruses NOT throat",
        'rhinoviruses "no such phrase"',
        "!rhinoviruses ~throat",
        "intitle:rhinoviruses throat",
        "rhinoviruses* (throat OR",
        'rhinoviruses "throat',
        "rhinoviruses\x00\ud800\u202ethroat",
        "rhinoviruses throat " + "?" * 4000,
        "incategory:rhinoviruses insource:/throat.*/",
        "RHINOVIRUSES and/or throat & nose",
    ],
)
def test_nothing_in_a_question_is_an_operator(wiki: WikipediaSource, question: str) -> None:
    """Quotes, signs and keywords of search languages neither break a search nor turn it round."""
    assert first(wiki, question).startswith("The common cold is a mild infection")


def test_a_very_long_question(wiki: WikipediaSource, caplog: pytest.LogCaptureFixture) -> None:
    """Of 4,000 characters, those words count that are repeated, then the longest."""
    question = "I am wondering, as I have been for years, about rhinoviruses. " * 64
    assert first(wiki, question[:4000]).startswith("The common cold")
    assert wiki.search("x" * 4000, limit=5) == []


@pytest.mark.parametrize("question", ["", " \n", "???", "\x00", "🙂"])
def test_a_question_without_words(settings: Settings, question: str) -> None:
    """Without a word to search for, nobody is asked."""
    with site(page(status=500)) as there:
        assert WikipediaSource(replace(settings, wikipedia_url=there.url)).search(question, limit=5) == []
        assert there.seen == []


def test_a_wiki_that_lags_behind(settings: Settings, wiki_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MediaWiki's own refusal, `maxlag`, is passed on with the pause it wants. (-2: this one always lags too much.)"""
    monkeypatch.setattr(http, "_ANSWER_S", PATIENCE_S)  # so that no pause leaves time enough for a second try
    source = WikipediaSource(replace(settings, wikipedia_url=wiki_url), maxlag=-2)
    with pytest.raises(SourceError, match="asks for a pause of 5 s") as error:
        source.search("influenza", limit=5)
    assert error.value.retry_after_s == pytest.approx(5, abs=1)


def test_threads_share_a_source(wiki: WikipediaSource) -> None:
    """Several threads may ask at once."""
    questions = ["rhinoviruses", "antiviral drugs", "rhinoviruses", "thyroid"] * 2
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda question: first(wiki, question), questions))
    assert found == [first(wiki, question) for question in questions]


def test_a_wiki_without_extracts(settings: Settings, wiki_url: str) -> None:
    """A wiki that lacks the extension is said to; once it is installed, nothing of that is left in the cache."""
    found = {"query": {"pages": [{"pageid": 1, "title": "A"}]}}
    text = {"query": {"pages": [{"pageid": 1, "title": "A", "extract": "Influenza is an infection."}]}}
    warning = {"warnings": {"query": {"warnings": 'Unrecognized value for parameter "prop": extracts.'}}}
    answers = [{**found, **warning}, text]
    with site(lambda seen: json_page(found if "gsrsearch" in seen.params else answers[0])) as there:
        source = WikipediaSource(replace(settings, wikipedia_url=there.url))
        with pytest.raises(SourceError, match="lacks the TextExtracts extension"):
            source.search("influenza", limit=5)
        answers.reverse()
        assert [passage.text for passage in source.search("influenza", limit=5)] == ["Influenza is an infection."]


# From here on, wikis that do what a real one does not do on demand.

Wiki = Callable[[SeenRequest], Answer]


def hit(number: int = 1, **more: object) -> dict[str, object]:
    return {"pageid": number, "title": f"Page {number}", "index": number, **more}


def search_answer(*hits: object, **more: object) -> dict[str, object]:
    return {"batchcomplete": True, "query": {"pages": list(hits), **more}}


def wiki_of(*hits: object, extract: object = "Fever is a raised temperature of the body.", **more: object) -> Wiki:
    def answer(seen: SeenRequest) -> Answer:
        if "gsrsearch" in seen.params:
            return json_page(search_answer(*hits, **more))
        return json_page(search_answer({"pageid": int(seen.params["pageids"]), "extract": extract}))

    return answer


def ask(
    settings: Settings, wiki: Wiki, question: str = "fever", *, limit: int = 5
) -> tuple[list[Passage], list[SeenRequest]]:
    with site(wiki) as there:
        found = WikipediaSource(replace(settings, wikipedia_url=there.url)).search(question, limit=limit)
        return [*found], there.seen


def test_what_is_asked(settings: Settings) -> None:
    """Each request has the sender's contact and `maxlag`; one search and one page after the other, at most three."""
    _, seen = ask(settings, wiki_of(*(hit(n) for n in range(1, 7))))
    assert [request.params.get("pageids", "search") for request in seen] == ["search", "1", "2", "3"]
    for request in seen:
        assert request.headers["User-Agent"] == user_agent("ops@example.org")
        assert request.params["maxlag"] == "5"
        assert request.params["formatversion"] == "2"
    assert len(seen[0].params["gsrsearch"]) <= 300


def test_the_search_gets_shorter(settings: Settings) -> None:
    """All words, then any of them, then the longest ones: each query within CirrusSearch's 300 characters."""
    _, seen = ask(settings, wiki_of(), "Which bacteria cause tuberculosis of cattle?")
    assert [request.params["gsrsearch"] for request in seen] == [
        "bacteria cause tuberculosis cattle",
        "bacteria OR cause OR tuberculosis OR cattle",
        "tuberculosis bacteria",
        "tuberculosis",
        "bacteria",
    ]
    _, seen = ask(settings, wiki_of(), " ".join(f"{n}abcdefghijklmnopqrstuvwxyz" for n in range(100)))
    assert max(len(request.params["gsrsearch"]) for request in seen) <= 300


def test_few_pages_are_joined_by_more(settings: Settings) -> None:
    """Where all words are on one page only, pages with any of them follow it, each page once."""

    def wiki(seen: SeenRequest) -> Answer:
        if "gsrsearch" not in seen.params:
            return wiki_of()(seen)
        return json_page(
            search_answer(hit(1)) if " OR " not in seen.params["gsrsearch"] else search_answer(hit(2), hit(1))
        )

    found, seen = ask(settings, wiki, "fever chills")
    assert [request.params.get("pageids", "search") for request in seen] == ["search", "search", "1", "2"]
    assert len(found) == 2


def test_a_search_too_many(settings: Settings) -> None:
    """Where a further search fails, the pages of the first one are enough."""

    def wiki(seen: SeenRequest) -> Answer:
        return page(status=500) if " OR " in seen.params.get("gsrsearch", "") else wiki_of(hit())(seen)

    found, seen = ask(settings, wiki, "fever chills")
    assert len(found) == 1
    assert len(seen) == 3


def test_the_cache(settings: Settings) -> None:
    """A question asked again costs the wiki nothing, even from another process; `retrieved_at` stays the first time."""
    with site(wiki_of(hit())) as there:
        settings = replace(settings, wikipedia_url=there.url)
        found = [WikipediaSource(settings).search("fever", limit=5) for _ in range(2)]
        assert found[0] == found[1] != []
        assert len(there.seen) == 2
        WikipediaSource(replace(settings, source_cache_hours=0)).search("fever", limit=5)
        assert len(there.seen) == 4


def test_licences(settings: Settings) -> None:
    """The licence is what the wiki says; one that says nothing, or nonsense, has none."""
    rights = {"text": "CC BY 4.0\x00", "url": "https://creativecommons.org/licenses/by/4.0/"}
    for given, expected in [
        (rights, "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"),
        ({"text": "Free", "url": "javascript:alert(1)"}, "Free"),
        ({"text": 7, "url": ""}, None),
        (["CC0"], None),
    ]:
        shutil.rmtree(settings.cache_dir, ignore_errors=True)
        found, _ = ask(settings, wiki_of(hit(), rightsinfo=given))
        assert [passage.licence for passage in found] == [expected]


def test_wikipedias_usual_licence() -> None:
    """Wikipedia's texts have its licence also where it does not say so; other wikis' do not."""
    assert usual_licence("en.wikipedia.org") == "CC BY-SA 4.0"
    assert usual_licence("wikipedia.org.evil.example") is usual_licence("evilwikipedia.org") is None


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "https://evil.example/index.php/Page_1",
        "http://127.0.0.1@evil.example/",
        "http://u:p@127.0.0.1/",
        "//evil.example/",
        "http://127.0.0.1\x00.evil.example/",
        "data:text/html,x",
        "http://[",
        7,
        None,
    ],
)
def test_addresses_are_of_the_wiki(settings: Settings, url: object) -> None:
    """An address that is not of the wiki's host is replaced by one that is."""
    with site(wiki_of(hit(canonicalurl=url))) as there:
        (passage,) = WikipediaSource(replace(settings, wikipedia_url=f"{there.url}.php")).search("fever", limit=5)
        assert passage.url == f"http://127.0.0.1:{there.port}/index.php?curid=1"


BUSY = {"error": {"code": "maxlag", "info": "Waiting for 10.0.0.1: 7 seconds lagged", "lag": 7}}


def test_maxlag_is_waited_for(settings: Settings) -> None:
    """A wiki that lags is asked once more if it says that this is soon enough."""
    answers = iter([json_page(BUSY, Retry_After="0")])
    found, seen = ask(settings, lambda request: next(answers, None) or wiki_of(hit())(request))
    assert len(found) == 1
    assert len(seen) == 3


@pytest.mark.parametrize("code", ["maxlag", "ratelimited"])
def test_maxlag_is_passed_on(settings: Settings, code: str) -> None:
    """A pause beyond the budget goes to the caller, and nothing of it is kept."""
    busy = {"error": {**BUSY["error"], "code": code}}
    with site(json_page(busy, Retry_After="1200")) as there:
        settings = replace(settings, wikipedia_url=there.url)
        with pytest.raises(SourceError, match="asks for a pause of 1200 s") as error:
            WikipediaSource(settings).search("fever", limit=5)
        assert error.value.retry_after_s == pytest.approx(1200, abs=1)
        assert len(there.seen) == 1


LIES = {
    "not JSON": b"<html>",
    "nothing": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1e999",
    "a query that is a list": b'{"query": []}',
    "pages that are a dict, as of old": b'{"query": {"pages": {"1": {"pageid": 1}}}}',
    "pages that are null": b'{"query": {"pages": null}}',
    "an error that is a text": b'{"error": "no"}',
    "an error": b'{"error": {"code": "badvalue\\u0000", "info": "Unrecognized\\nvalue"}}',
    "an error without a code": b'{"error": {}}',
    "not UTF-8": b'{"query": {"pages": ["\xff"]}}',
    "brackets without end": b"[" * 10**6,
    "a number without end": b"1" * 10**6,
    "half": b'{"query": {"pages": [{"page',
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_answer(settings: Settings, lie: str) -> None:
    """Whatever a wiki sends, it is a SourceError, in one short line, and is not kept."""
    with site(page(LIES[lie], kind="application/json")) as there:
        source = WikipediaSource(replace(settings, wikipedia_url=there.url))
        for _ in range(2):
            with pytest.raises(SourceError, match=r"127\.0\.0\.1 .*RLHF_WIKIPEDIA_URL") as error:
                source.search("fever", limit=5)
            assert len(str(error.value)) < 500
            assert str(error.value).isprintable()
        assert len(there.seen) == 2


@pytest.mark.parametrize(
    "lie",
    [
        7,
        None,
        [],
        {},
        {"pageid": "1", "title": "x"},
        {"pageid": 1},
        {"pageid": 1, "title": ["x"]},
        {"pageid": True, "title": "x"},
        {"pageid": 1, "title": "\x00"},
        {"pageid": 2, "title": "Cold", "pageprops": {"disambiguation": ""}},
    ],
)
def test_hits_that_are_none(settings: Settings, lie: object) -> None:
    """What is no page among the pages found is left out; the others stay."""
    found, _ = ask(settings, wiki_of(lie, hit(5, index="first", pageprops=[], canonicalurl={})))
    assert [passage.title for passage in found] == ["Page 5"]


@pytest.mark.parametrize("extract", ["", None, 7, ["x"], {"*": "x"}, " \n\x00", "== See also ==\nOther things"])
def test_extracts_that_are_none(settings: Settings, extract: object) -> None:
    """A page without a text gives no passage."""
    assert ask(settings, wiki_of(hit(), extract=extract))[0] == []


def test_texts_are_cleaned(settings: Settings) -> None:
    """Control characters, lone surrogates and leftover tags go; a heading that is none stays text."""
    extract = (
        'Fever\x00 \ud800is<br/>\u202e <b class="x">raised</b> heat.'
        "\r\n\r\n\n\n\nA == B is\x1b[1m not a heading. Nor is a<b."
    )
    (found,), _ = ask(settings, wiki_of(hit(), extract=extract))
    assert found.text == "Fever is raised heat.\n\nA == B is[1m not a heading. Nor is a<b."


def test_a_page_too_many(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Where a further page cannot be read, what is there is given, and the log says so."""

    def wiki(seen: SeenRequest) -> Answer:
        return page(status=500) if seen.params.get("pageids") == "2" else wiki_of(hit(1), hit(2), hit(3))(seen)

    found, _ = ask(settings, wiki)
    assert [passage.title for passage in found] == ["Page 1"]
    assert "Only 1 of 3 pages were read" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_page_of_megabytes(settings: Settings) -> None:
    """The beginning of a very long page is searched; one beyond the client's limit is an error."""
    words = "Fever is a raised temperature of the body. "
    found, _ = ask(settings, wiki_of(hit(), extract=words * 25_000), limit=3)
    assert len(found) == 3
    shutil.rmtree(settings.cache_dir)
    with pytest.raises(SourceError, match="more than 5,000,000 bytes"):
        ask(settings, wiki_of(hit(), extract=words * 150_000))


def test_a_wiki_that_hangs(settings: Settings) -> None:
    """All requests of a search together keep to the time that there is."""

    def wiki(seen: SeenRequest) -> Answer:
        return iter([b"HTTP/1.1 200 OK\r\n"]) if "pageids" in seen.params else wiki_of(hit())(seen)

    with pytest.raises(SourceError, match=r"127\.0\.0\.1"):
        ask(replace(settings, source_deadline_s=0.5), wiki)


@pytest.mark.parametrize("language", ["EN", "en.evil.example/", "e", "a" * 100, "en\n", "../x"])
def test_a_language_that_is_none(settings: Settings, language: str) -> None:
    """What becomes part of a host's name is looked at first."""
    with pytest.raises(ConfigError, match="RLHF_WIKIPEDIA_LANGUAGE"):
        WikipediaSource(replace(settings, wikipedia_language=language))


@pytest.mark.parametrize("language", ["en", "zh-min-nan", "simple"])
def test_the_language_chooses_the_wiki(settings: Settings, language: str) -> None:
    """Each language's Wikipedia has its own address."""
    assert api_address(replace(settings, wikipedia_language=language)) == f"https://{language}.wikipedia.org/w/api.php"


def test_an_address_that_is_none(settings: Settings) -> None:
    """A setting that is no address is refused at once."""
    with pytest.raises(ConfigError, match="RLHF_WIKIPEDIA_URL"):
        WikipediaSource(replace(settings, wikipedia_url="wikipedia"))
