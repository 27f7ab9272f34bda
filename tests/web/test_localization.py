"""Screens in the reader's language: which one, what of it is there, and that nothing is left in English."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from babel.messages.frontend import CommandLineInterface
from babel.messages.pofile import read_po
from jinja2 import Environment, nodes
from markupsafe import Markup
from web_fakes import GOOD, FakeService, Page

from rlhf_loop.config import Settings
from rlhf_loop.errors import AccountError
from rlhf_loop.utils.translation import CATALOGUE, ENGLISH, Message, Translator
from rlhf_loop.web import create_app, localization

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "rlhf_loop/web/templates/rlhf_loop"
LANGUAGES = sorted(set(localization.languages()) - {ENGLISH})
GERMAN = {"Accept-Language": "de-AT,de;q=0.9,en;q=0.5"}
#: The reference of the HTTP API and the report that the command line writes are English.
_ENGLISH = ("docs.html", "report.html")
#: Names, and what programs say.
_NAMES = {"RLHF Loop", "AUC", "P@1", "UTC", "review.added"}
_SEEN = ("title", "aria-label", "placeholder", "alt", "label")


@pytest.fixture(scope="module")
def german() -> Translator:
    return Translator("de", localization.FOLDER)


@pytest.mark.parametrize(
    ("accepted", "cookie", "language"),
    [
        ("", "", "en"),
        ("de", "", "de"),
        ("de-CH,de;q=0.9,en;q=0.8", "", "de"),
        ("en-GB,en;q=0.9,de;q=0.8", "", "en"),
        ("en-US,de;q=0.8", "", "en"),
        ("fr,de;q=0.5,en;q=0.3", "", "de"),
        ("fr", "", "en"),
        ("nonsense;;q=x", "", "en"),
        ("de", "en", "en"),
        ("en", "de", "de"),
        ("de", "../de", "de"),
        ("en", "xx", "en"),
    ],
)
def test_the_language_is_that_of_the_browser_or_of_the_choice(accepted: str, cookie: str, language: str) -> None:
    """A choice comes first, then what the browser names and there is; else it is English."""
    web = create_app(Settings(), service=FakeService(GOOD)).test_client()
    if cookie:
        web.set_cookie(localization.COOKIE, cookie)
    response = web.get("/sign-in", headers={"Accept-Language": accepted} if accepted else {})
    (page,) = Page(response.text).all("html")
    assert page["lang"] == language
    assert set(response.vary) == {"Accept-Language"}


def test_a_language_is_chosen_in_the_footer() -> None:
    """The choice leads back to where it was made, on this host; a language that is not there is refused."""
    web = create_app(Settings(), service=FakeService(GOOD)).test_client()
    back = "/data-html?query=Why%3F"
    (button,) = [each for each in Page(web.get(back).text).all("button") if each.get("name") == "language"]
    assert button["value"] == "de"
    for referrer, leads in ((f"http://localhost{back}", back), ("http://x/y", "/data-html"), ("", "/data-html")):
        chosen = web.post("/language", data={"language": "de"}, headers={"Referer": referrer})
        assert (chosen.status_code, chosen.headers["Location"]) == (303, leads)
    assert "Beste Antwort" in web.get(back).text
    assert web.post("/language", data={"language": "xx"}).status_code == 422


def test_programs_get_english() -> None:
    """Also where they ask for another language; the script of a screen gets what that shows in its own."""
    web = create_app(Settings(), service=FakeService(GOOD)).test_client()
    assert "There is nothing at" in web.get("/nowhere", headers=GERMAN).json["detail"]
    assert "gibt es nichts" in web.get("/nowhere", headers={**GERMAN, localization.SCREEN: "1"}).json["detail"]
    page = web.get("/nowhere", headers={**GERMAN, "Accept": "text/html"})
    assert "ist nichts. Prüfen Sie die Adresse" in page.text
    assert "Nicht gefunden" in page.text


def test_a_message_is_english_that_can_be_translated(german: Translator) -> None:
    """Also out of an exception, inside of another one, and for each number; what no catalogue has stays as it is."""
    error = AccountError(Message("Request {id}", id="<7>"))
    assert (str(error), german(str(error))) == ("Request <7>", "Anfrage <7>")
    assert german("Sign in") == "Anmelden"
    assert german(Message("{id} of nobody", id=Message("Sign in"))) == "Anmelden of nobody"
    assert [german(said) for said in ("Nobody has said this.", "")] == ["Nobody has said this.", ""]
    assert Message.counted("{n} dog", "{n} dogs", 1) == "1 dog"
    assert Message.counted("{n:,} dog of {whose}", "{n:,} dogs of {whose}", 1200, whose="Ann") == "1,200 dogs of Ann"


def test_numbers_and_dates_are_those_of_the_language(german: Translator) -> None:
    """A template's text is markup, what is put into it is not."""
    english, day = Translator(ENGLISH, localization.FOLDER), date(2026, 11, 3)
    for speaks, number, words in ((english, "1,234.5", "3 November 2026"), (german, "1.234,5", "3. November 2026")):
        assert (speaks.number(1234.5, ",.1f"), speaks.day(day)) == (number, words)
    assert english.moment(datetime(2026, 11, 3, 4, 5, tzinfo=UTC)) == "3 Nov 2026, 04:05"
    assert german.moment(datetime(2026, 11, 3, 4, 5, tzinfo=UTC)) == "03.11.2026, 04:05"
    assert german(Message("{n:,} of them", n=1234)) == "1.234 of them"
    said = Environment(autoescape=True).from_string('{{ _("<b>{n:,}</b> {who}", n=1234, who="<i>") }}')
    assert said.render(german.template()) == "<b>1.234</b> &lt;i&gt;"
    assert isinstance(english.template()["_"]("x"), Markup)  # type: ignore[operator]


def test_a_further_language_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue of a made-up language is found, offered by its own name, and spoken."""
    place = tmp_path / "fr" / CATALOGUE
    place.parent.mkdir(parents=True)
    with (localization.FOLDER / "de" / CATALOGUE).open("rb") as file:
        catalogue = read_po(file, locale="fr")
    lines = ["# Français", 'msgid ""', 'msgstr ""', '"Content-Type: text/plain; charset=utf-8\\n"', ""]
    for entry in catalogue:
        if entry.id and isinstance(entry.id, str) and "\n" not in entry.id and '"' not in entry.id:
            lines += [f'msgid "{entry.id}"', f'msgstr "«{entry.id}»"', ""]
    place.write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(localization, "FOLDER", tmp_path)
    for cached in (localization.languages, localization._translator):
        cached.cache_clear()
    try:
        web = create_app(Settings(), service=FakeService(GOOD)).test_client()
        assert dict(localization.languages()) == {"en": "English", "fr": "Français"}
        page = web.get("/sign-in", headers={"Accept-Language": "fr-CH"}).text
        assert '<h1 class="title">«Sign in»</h1>' in page
    finally:
        for cached in (localization.languages, localization._translator):
            cached.cache_clear()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_catalogue_has_each_text_of_the_sources(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make translations` would change nothing, and each text is translated, with the English one's values and tags."""
    monkeypatch.chdir(ROOT)
    texts, translations = str(tmp_path / "messages.pot"), "rlhf_loop/web/translations"
    babel = ["pybabel", "--quiet"]
    CommandLineInterface().run([*babel, "extract", "--mapping-file", "pyproject.toml", "--output", texts, "rlhf_loop"])
    stale = CommandLineInterface().run(
        [*babel, "update", "--check", "--input-file", texts, "--output-dir", translations, "--locale", language]
    )
    assert not stale
    path = localization.FOLDER / language / CATALOGUE
    with path.open("rb") as file:
        catalogue = read_po(file, locale=language, abort_invalid=True)
    assert not catalogue.obsolete
    wrong = [entry.id for entry in catalogue if entry.id and (entry.fuzzy or not _fits(entry.id, entry.string))]
    assert wrong == []


def _fits(said: object, translated: object) -> bool:
    if isinstance(said, str):
        return bool(translated) and _marks(said) == _marks(str(translated))
    assert isinstance(said, tuple)
    assert isinstance(translated, tuple)
    return all(translated) and {_marks(each) for each in translated} <= {_marks(each) for each in said}


def _marks(text: str) -> tuple[str, ...]:
    """Return the places of values and the tags in a text, in any order; a quote would end an attribute."""
    return tuple(sorted(re.findall(r"\{[^}]*\}|<[^>]*>|[<>\"]", text)))


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_a_template_has_no_words_that_are_not_marked(path: Path) -> None:
    """Neither between tags nor in what is seen or read aloud of them; `_` is given texts alone, `tr` the rest."""
    if path.name not in _ENGLISH:
        assert list(_unmarked(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("<p>Words</p>", ["Words"]),
        ("<p>{{ _('Words') }} <code>rlhf-loop train</code> <kbd>u</kbd></p>", []),
        ('<p title="Words"></p>', ["Words"]),
        ("<p title=\"{{ 'Words' if x else _('Others') }}\"></p>", ["Words"]),
        ("{% macro x() %}<p>{{ said ~ ' words' }}</p>{% endmacro %}", ["words"]),
        ('<p class="{{ \'word\' if x }}" id="word-{{ x }}"></p>', []),
        ("{{ _(said) }}", ["_ of a variable"]),
        ("{% set said = 'Some words' %}", ["Some words"]),
    ],
)
def test_unmarked_words_are_found(source: str, found: list[str]) -> None:
    """As the test of the templates looks for them."""
    assert list(_unmarked(source)) == found


class _Words(HTMLParser):
    """Collects the words that people see or hear; what is not for them is between other tags."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._hidden = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("code", "kbd", "style", "script") and not self._hidden:
            self._hidden = tag
        self.found += [value for name, value in attrs if name in _SEEN and value]

    def handle_endtag(self, tag: str) -> None:
        if tag == self._hidden:
            self._hidden = ""

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.found.append(data)


def _unmarked(source: str) -> Iterator[str]:
    words = _Words()
    words.feed("".join(_said(Environment(extensions=["jinja2.ext.do"]).parse(source))))
    for said in words.found:
        text = re.sub("|".join(map(re.escape, _NAMES)), "", said).strip()
        if re.search(r"[^\W\d_]{2}", text):
            yield text


def _said(node: nodes.Node) -> Iterator[str]:
    """Give a template's HTML, with the texts that its expressions may put into it."""
    if isinstance(node, nodes.TemplateData):
        yield node.data
    elif isinstance(node, nodes.Const):
        yield node.value if isinstance(node.value, str) else ""
    elif isinstance(node, nodes.Call):
        name = node.node.name if isinstance(node.node, nodes.Name) else ""
        if name in ("_", "ngettext"):
            texts = node.args[: 1 if name == "_" else 2]
            yield "" if all(isinstance(each, nodes.Const) for each in texts) else f"{name} of a variable"
        elif isinstance(node.node, nodes.Getattr):
            # As in "{} words".format(...)
            yield from _said(node.node.node)
        elif name not in ("url_for", "tr", "number", "day", "moment"):
            # What a macro is given; a name alone is that of a page or of a form.
            yield from (each for arg in node.args for each in _said(arg) if " " in each or each != each.lower())
    elif isinstance(
        node, nodes.Compare | nodes.Test | nodes.Getitem | nodes.Extends | nodes.Include | nodes.FromImport
    ):
        return
    elif isinstance(node, nodes.CondExpr):
        # Apart: only one of them is there.
        yield from (f"{each} " for part in (node.expr1, node.expr2) if part for each in _said(part))
    elif isinstance(node, nodes.Filter):
        yield from _said(node.node) if node.node else ()
    elif isinstance(node, nodes.If):
        yield from (each for part in (*node.body, *node.elif_, *node.else_) for each in _said(part))
    elif isinstance(node, nodes.Assign | nodes.For):
        value = node.node if isinstance(node, nodes.Assign) else node.iter
        # Between tags, wherever it is used.
        yield from (f"<p>{each}</p>" for each in _said(value) if " " in each or each != each.lower())
        yield from (each for part in (node.body if isinstance(node, nodes.For) else ()) for each in _said(part))
    else:
        for child in node.iter_child_nodes():
            yield from _said(child)
