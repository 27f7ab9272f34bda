from __future__ import annotations

import re
from io import BytesIO

import pytest
from web_fakes import GOOD, OTHER, FakeService, Page, Unreadable, changed

from rlhf_loop.config import Settings
from rlhf_loop.errors import OutboxError
from rlhf_loop.version import __version__
from rlhf_loop.web import create_app
from rlhf_loop.web.pages.answers import percent, score_in_words

HOSTILE = "<script>alert(1)</script>\"><img src=x onerror=alert(1)>'`{{7*7}}"


def asked(service: FakeService, query: str = "Why?", *, status: int = 200) -> Page:
    response = create_app(Settings(), service=service).test_client().post("/data-html", data={"query": query})
    assert (response.status_code, response.mimetype) == (status, "text/html")
    return Page(response.text)


def test_the_page_shows_the_best_answer_with_its_source() -> None:
    """Title and link, licence, date and the score in words; then the others, folded, each of them ratable."""
    page = asked(FakeService(GOOD, OTHER))
    for words in (
        *(
            GOOD.text,
            "Migraine",
            "wikipedia",
            "CC BY-SA 4.0",
            "23 November 2026",
            OTHER.text,
            "1 other answer",
            "12\u00a0%",
        ),
        "An expert would rate this 4 or 5 with 83\u00a0% probability.",
    ):
        assert words in page.text
    (link,) = [link for link in page.all("a") if link.get("target")]
    assert (link["href"], link["rel"]) == (GOOD.origin.url, "noopener noreferrer")
    assert [each["value"] for each in page.all("input") if each["name"] == "interaction_id"] == ["id-1", "id-2"]
    assert [each["value"] for each in page.all("button") if each.get("name") == "rating"] == list("12345") * 2
    order = [tag for tag, _ in page.tags]
    assert order.index("article") < order.index("ol")


@pytest.mark.parametrize(
    ("related", "words"), [(True, "an expert would hardly rate any"), (False, "Nothing that was found has to do")]
)
def test_answers_that_are_not_certain_enough_are_folded(related: bool, words: str) -> None:
    """The page says so, and whether they have to do with the question; each can be rated all the same."""
    page = asked(FakeService(GOOD, OTHER, certain=False, related=related))
    assert "No answer is certain enough" in page.text
    assert words in page.text
    assert "Best answer" not in page.text
    assert "2 uncertain answers" in page.text
    order = [tag for tag, _ in page.tags]
    assert order.index("details") < order.index("article")
    assert [each["value"] for each in page.all("input") if each["name"] == "interaction_id"] == ["id-1", "id-2"]


def test_the_question_can_come_in_the_address() -> None:
    """`/data-html?query=` answers like the form does; without it there is only the box."""
    service = FakeService(GOOD)
    web = create_app(Settings(), service=service).test_client()
    assert "Best answer" in web.get("/data-html?query=Why%3F").text
    assert "Best answer" not in web.get("/data-html").text
    assert service.asked == ["Why?"]
    assert web.get("/").headers["Location"] == "/data-html"


def test_the_question_stays_in_its_box() -> None:
    """Also its line breaks, and what looks like HTML."""
    response = create_app(Settings(), service=FakeService(GOOD)).test_client()
    html = response.post("/data-html", data={"query": "\r\nA </textarea>\r\nB"}).text
    box = re.search(r"<textarea id=\"query\".*?>(.*?)</textarea>", html, re.DOTALL)
    assert box is not None
    assert box[1] == "\n\nA &lt;/textarea&gt;\nB"  # the first line break belongs to the tag


def test_hostile_text_stays_text() -> None:
    """Whatever a source gives becomes words, wherever on the page it stands."""
    worst = changed(
        GOOD,
        text=HOSTILE,
        title=HOSTILE,
        source=HOSTILE,
        licence=HOSTILE,
        interaction_id=HOSTILE,
        url=f"https://x/{HOSTILE}",
    )
    page = asked(
        FakeService(worst, changed(worst, rank=2), model_version=HOSTILE, degraded={HOSTILE: HOSTILE}), HOSTILE
    )
    scripts = [f"/data-html/static/{name}.js?v={__version__}" for name in ("words", "page")]
    assert [script.get("src") for script in page.all("script")] == scripts
    assert page.all("img") == []
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert page.text.count(HOSTILE) >= 10


@pytest.mark.parametrize(
    ("url", "linked"),
    [
        ("https://example.org/a?b=1&c=2", True),
        ("http://example.org", True),
        ("HTTPS://EXAMPLE.ORG", True),
        ("javascript:alert(1)", False),
        (" JaVaScRiPt:alert(1)", False),
        ("https://example.org/a b", False),
        (f"https://example.org/{'x' * 2000}", False),
        ("java\nscript:alert(1)", False),
        ("data:text/html,<script>", False),
        ("//example.org", False),
        ("file:///etc/passwd", False),
        ("https://", False),
        ("https://[", False),
        ("", False),
        (None, False),
    ],
)
def test_only_addresses_of_the_web_become_links(url: str | None, linked: bool) -> None:
    """What `plain_text.web_address` lets through."""
    page = asked(FakeService(changed(GOOD, url=url)))
    assert [link["href"] for link in page.all("a") if link.get("target")] == ([url] if linked else [])


@pytest.mark.parametrize(
    ("score", "words"),
    [
        *(
            (0.0, "0\u00a0%"),
            (0.004, "less than 1\u00a0%"),
            (0.834, "83\u00a0%"),
            (0.996, "more than 99\u00a0%"),
            (1.0, "100\u00a0%"),
        )
    ],
)
def test_a_percentage_does_not_claim_more_than_it_knows(score: float, words: str) -> None:
    """Rounding makes no certainty of what is only near it."""
    assert percent(score) == words
    assert words in score_in_words(score)


def test_without_a_model_the_page_says_so() -> None:
    """No score is made up, and the first answer is not called the best."""
    page = asked(FakeService(changed(GOOD, score=None), changed(OTHER, score=None), model_version=None))
    assert "Best answer" not in page.text
    assert "No model has judged this answer" in page.text
    assert "no score" in page.text


def test_what_did_not_work_is_named() -> None:
    """The notice has the name of each part and the reason."""
    page = asked(FakeService(GOOD, degraded={"arxiv": "no answer within 3 s", "recording": "it waits"}))
    for words in ("Not everything worked", "arxiv", "no answer within 3 s", "Keeping a record", "it waits"):
        assert words in page.text


@pytest.mark.parametrize(("degraded", "words"), [({}, "None of the sources has"), ({"index": "away"}, "named above")])
def test_nothing_found_is_said_honestly(degraded: dict[str, str], words: str) -> None:
    """With what to do next, and no difference hidden between nothing there and nobody asked."""
    page = asked(FakeService(degraded=degraded))
    assert "No answer was found" in page.text
    assert words in page.text


@pytest.mark.parametrize(
    ("query", "error", "status", "words"),
    [
        ("", None, 422, "The question is blank. Write one into the box."),
        (" \n ", None, 422, "The question is blank. Write one into the box."),
        ("x" * 4001, None, 422, "4,001 characters"),
        ("Why?", ValueError("It holds a NUL."), 422, "It holds a NUL."),
        ("Why?", RuntimeError("secret"), 500, "Something unexpected"),
    ],
)
def test_errors_stay_in_the_page(query: str, error: Exception | None, status: int, words: str) -> None:
    """The question is still in the box, and the message beside it."""
    page = asked(FakeService(error=error), query, status=status)
    assert words in page.text
    assert query[:4000] in page.text
    assert "secret" not in page.text
    (box,) = [box for box in page.all("textarea") if box["id"] == "query"]
    assert box["aria-invalid"] == "true"


def test_a_form_that_is_too_large_is_refused_in_the_page() -> None:
    """413, and not a page of Flask's."""
    page = asked(FakeService(), "x" * 70_000, status=413)
    assert "larger than 65,536 bytes" in page.text


def test_a_form_in_pieces_has_the_same_limits() -> None:
    """Without a declared length it is 413 as well; and 400 where its pieces are broken, or break off."""
    web = create_app(Settings(), service=FakeService()).test_client()
    for path in ("/data-html", "/data-html/ratings"):
        for body, status in ((BytesIO(b"query=" + b"x" * 70_000), 413), (Unreadable(LookupError()), 400)):
            response = web.post(
                path,
                content_type="application/x-www-form-urlencoded",
                headers={"Transfer-Encoding": "chunked"},
                environ_overrides={"wsgi.input": body, "wsgi.input_terminated": True},
            )
            assert (response.status_code, response.mimetype) == (status, "text/html")


@pytest.mark.parametrize(
    ("stores", "status", "words"), [(True, 200, "is stored"), (False, 202, "when the database is back")]
)
def test_rating_without_javascript(stores: bool, status: int, words: str) -> None:
    """The form alone is enough, an empty comment is none, and the visitor gets a name."""
    service = FakeService(GOOD)
    service.stores = stores
    web = create_app(Settings(), service=service).test_client()
    form = {"interaction_id": "id-1", "comment": "", "rating": "5"}
    response = web.post("/data-html/ratings", data=form)
    assert response.status_code == status
    assert words in response.text
    assert "rlhf_visitor" in response.headers["Set-Cookie"]
    assert service.rated[0][:2] == ("id-1", 5)
    assert service.rated[0][3] is None


@pytest.mark.parametrize(
    ("form", "error", "status"),
    [
        ({"interaction_id": "id-1"}, None, 422),
        ({"interaction_id": "id-1", "rating": "6"}, None, 422),
        ({"interaction_id": "id-1", "rating": "good"}, None, 422),
        ({"interaction_id": "x", "rating": "1"}, LookupError("There is no answer x."), 404),
        ({"interaction_id": "x", "rating": "1"}, OutboxError("full"), 503),
    ],
)
def test_bad_ratings_are_refused_in_a_page(form: dict[str, str], error: Exception | None, status: int) -> None:
    """Whoever rates by the form reads a page, not JSON."""
    web = create_app(Settings(), service=FakeService(error=error)).test_client()
    response = web.post("/data-html/ratings", data=form)
    assert (response.status_code, response.mimetype) == (status, "text/html")


def test_nothing_there_is_a_page_for_browsers() -> None:
    """With a way out; programs get a problem, and the log and the metrics no address of ours."""
    web = create_app(Settings(), service=FakeService(GOOD)).test_client()
    page = web.get("/nowhere", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (page.status_code, page.mimetype) == (404, "text/html")
    assert "There is nothing at /nowhere." in page.text
    assert "/data-html" in [link["href"] for link in Page(page.text).all("a")]
    assert "Content-Security-Policy" in page.headers
    for accept in ("*/*", "application/json", ""):
        assert web.get("/nowhere", headers={"Accept": accept}).mimetype == "application/problem+json"
    assert 'route="/data-html"' not in web.get("/metrics").text
