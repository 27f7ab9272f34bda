"""The admin's page for imports: upload, look, map columns, store, take back."""

from __future__ import annotations

import html
import io
import re
from typing import Any

import pytest
from people_fakes import Browser, Site, actions
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from rlhf_loop.exchange.imports import past_imports
from rlhf_loop.store.interactions import stats
from rlhf_loop.web.pages import admin_import

GOOD = "Wie heißt es?,So.,5,gut\nWarum?,Darum.,1,\n"
HEADER = "frage,antwort,bewertung,kommentar\n"


@pytest.fixture
def site(sqlite_engine: Engine) -> Site:
    return Site(sqlite_engine)


@pytest.fixture
def ada(site: Site) -> Browser:
    return site.browser(site.ada)


def upload(browser: Browser, content: str | bytes, name: str = "a.csv", **fields: str) -> TestResponse:
    """Send a file as the form on the page does."""
    data = content.encode() if isinstance(content, str) else content
    return browser.post("/import", {"file": (io.BytesIO(data), name), "do": "look", **fields}, page="/import")


def again(browser: Browser, looked: TestResponse, **fields: str) -> TestResponse:
    """Send the form of the page that shows a file."""
    hidden = dict(re.findall(r'<input type="hidden" name="(name|content)" value="([^"]*)"', looked.text))
    filled: dict[str, Any] = {name: html.unescape(value) for name, value in hidden.items()}
    return browser.post("/import", filled | {"do": "store"} | fields, page="/import")


def test_a_file_is_looked_at_and_stored(site: Site, ada: Browser) -> None:
    """First the page shows how it would be read, and stores nothing; then it reports, and lists the import."""
    looked = upload(ada, HEADER + GOOD)
    assert looked.status_code == 200
    for words in ("2 rows: 2 rated", "2 ratings by 1 reviewer", "5 of 5", "Darum.", "frage (by its name)"):
        assert words in looked.text
    assert stats(site.engine).interactions == 0
    stored = again(ada, looked, reviewer="ben")
    assert (stored.status_code, stored.headers["Location"]) == (303, "/import")
    page = ada.get("/import").text
    assert "a.csv is imported as number 1. 2 rows: 2 added" in page
    assert "1: a.csv" in page
    [listed] = past_imports(site.engine)
    assert (listed.actor, listed.added) == ("ada", 2)
    assert "ratings.imported" in actions(site.engine)


def test_columns_are_mapped(site: Site, ada: Browser) -> None:
    """A file whose columns are called otherwise is refused with its columns to choose from, and then read."""
    looked = upload(ada, "q,a,grade\nWarum?,Darum.,4\n")
    assert looked.status_code == 422
    assert "no column for user_prompt and ai_response" in looked.text
    assert "Choose the right ones below." in looked.text
    assert not re.search(r"/tmp|--column", looked.text)
    mapped = {"column_user_prompt": "q", "column_ai_response": "a"}
    assert "No row is rated." in again(ada, looked, do="look", **mapped).text
    mapped["column_rating"] = "grade"
    found = again(ada, looked, do="look", **mapped)
    assert (found.status_code, "4 of 5" in found.text, "<option selected>grade" in found.text) == (200, True, True)
    assert "No row is rated." not in found.text
    assert again(ada, found, **mapped).status_code == 303
    assert stats(site.engine).distribution[4] == 1


def test_invalid_rows_are_named_and_left_out(site: Site, ada: Browser) -> None:
    """Without the box nothing is stored; with it the others are."""
    looked = upload(ada, HEADER + GOOD + "Wann?,Dann.,9,\n")
    assert "line 4: rating is 9" in looked.text
    assert "choose &#34;Numbers are: from 1,10&#34; below" in looked.text
    refused = again(ada, looked)
    assert (refused.status_code, "1 of 3 rows of &#39;a.csv&#39; are invalid" in refused.text) == (422, True)
    assert stats(site.engine).interactions == 0
    assert again(ada, refused, skip_invalid="1").status_code == 303
    assert stats(site.engine).interactions == 2


def test_an_import_is_taken_back(site: Site, ada: Browser) -> None:
    """First shown, then done, the second time said; an unknown one is an error on the page."""
    again(ada, upload(ada, HEADER + GOOD))
    ada.post("/import/1/undo", {"do": "try"}, page="/import")
    assert "If import 1 were taken back: 2 answers" in ada.get("/import").text
    assert stats(site.engine).interactions == 2
    for said in ("2 answers and 2 reviews", "was taken back before"):
        assert ada.post("/import/1/undo", {"do": "undo"}, page="/import").status_code == 303
        assert said in ada.get("/import").text
    assert stats(site.engine).interactions == 0
    assert ada.post("/import/9/undo", {"do": "undo"}, page="/import").status_code == 422


def test_what_does_not_fit_is_answered_clearly(ada: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too large a file or too many rows go through the command line; an empty, a packed or another file is named."""
    for limit, status in (("_MAX_BODY_BYTES", 413), ("MAX_FILE_BYTES", 422)):
        with monkeypatch.context() as smaller:
            smaller.setattr(admin_import, limit, 10_000)
            large = upload(ada, b"x" * 20_000)
        assert (large.status_code, "rlhf-loop ratings import FILE" in large.text) == (status, True)
    monkeypatch.setattr(admin_import, "MAX_ROWS", 1)
    for content, name, words in (
        (HEADER + GOOD, "a.csv", "The file has more than 1 rows, the most here"),
        ("", "a.csv", "No file was sent"),
        ("x", "a.csv.gz", "is compressed"),
        ("x", "a.what", "Choose by whom it was made"),
        ("x", "a.docx", "rlhf-loop index add FILE"),
        ("<html>", "a.csv", "web page"),
    ):
        found = upload(ada, content, name)
        assert (found.status_code, words in found.text) == (422, True), found.text
    broken = ada.post("/import", {"name": "a.csv", "content": "no", "do": "store"}, page="/import")
    assert (broken.status_code, "Choose the file again" in broken.text) == (422, True)


def test_a_hostile_file_is_only_text(ada: Browser) -> None:
    """What is in a file, or in its name, is never markup, nor a place."""
    found = upload(ada, "frage,antwort,<b>x\n<script>alert(1)</script>,b,1\n", "../../<img src=x>.csv")
    assert (found.status_code, "<script>alert" in found.text, "<img" in found.text) == (200, False, False)
    assert "&lt;script&gt;" in found.text


def test_only_an_admin_with_the_form_of_the_page(site: Site, ada: Browser) -> None:
    """A rater is refused, nobody is led to the sign-in, and a form without its token does nothing."""
    rita = site.browser(site.rita)
    assert (rita.get("/import").status_code, rita.client.post("/import").status_code) == (403, 403)
    assert site.browser().get("/import").status_code == 303
    sent = {"file": (io.BytesIO((HEADER + GOOD).encode()), "a.csv")}
    assert ada.client.post("/import", data=sent).status_code == 403
    assert ada.client.post("/import/1/undo").status_code == 403


def test_any_name_and_encoding_of_a_file(ada: Browser) -> None:
    """A name that is longer than a disk takes is cut; the columns to choose from are read as the file is."""
    assert upload(ada, HEADER + GOOD, f"{'評価' * 100}.csv").status_code == 200
    found = upload(ada, "вопрос,ответ,оценка\nq,a,5\n".encode("cp1251"), encoding="cp1251")
    assert "вопрос" in found.text
    cut = re.sub(r"value=\"[^\"]{40,}\"", lambda match: match[0][:30] + '"', found.text)
    [content] = re.findall(r'name="content" value="([^"]*)"', cut)
    broken = ada.post("/import", {"name": "a.csv", "content": content, "do": "store"}, page="/import")
    assert (broken.status_code, "Choose the file again" in broken.text) == (422, True)
