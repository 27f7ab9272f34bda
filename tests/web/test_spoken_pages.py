"""Each page in a made-up language: what stands there without its marks did not go through the catalogue."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from babel.messages.pofile import read_po
from people_fakes import Site
from sqlalchemy import Engine, insert, update

from rlhf_loop.domain import AlarmKind, Rating, RunRecord
from rlhf_loop.registry.runs import begin_run, end_run
from rlhf_loop.store.alarms import open_alarms, raise_alarm
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.store.tables import Alarm as AlarmRow
from rlhf_loop.store.tables import ModelVersion
from rlhf_loop.utils.translation import CATALOGUE, ENGLISH, Message, Translator, packed, unpacked
from rlhf_loop.web import localization
from rlhf_loop.web.pages import dashboard

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
#: Names; what people have written is in Greek here, and names of programs have a sign or a number inside.
NAMES = {"RLHF", "Loop", "ada", "rita", "bot", "test", "Deutsch", "UTC", "AUC", "csv", "argilla", "langfuse"}
NAMES |= {"openwebui", "phoenix", "dify", "ragflow", "librechat", "frage", "antwort", "bewertung", "question", "rating"}
NAMES |= {"anonymous", "NotEnoughDataError"}


class Marked(Translator):
    """Writes the texts of the catalogue between ⟦ and ⟧, and dates without words."""

    def __init__(self) -> None:
        super().__init__(ENGLISH, localization.FOLDER)
        with (localization.FOLDER / "de" / CATALOGUE).open("rb") as file:
            texts = [entry.id for entry in read_po(file)]
        self._known = {text for each in texts for text in ([each] if isinstance(each, str) else each)}
        self._words = self  # type: ignore[assignment]

    def gettext(self, text: str) -> str:
        return f"⟦{text}⟧" if text in self._known else text

    def ngettext(self, one: str, many: str, n: int) -> str:
        return self.gettext(one if n == 1 else many)

    def day(self, when: date, *, month: str = "%B") -> str:
        return f"{when:%d.%m.%Y}"

    def ticks(self, when: date, *, month_alone: bool) -> str:
        return f"{when:%d.%m.}"


class Words(HTMLParser):
    """Collects what people see or hear of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found = ""
        self._hidden: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("code", "kbd", "style", "script", "textarea"):
            self._hidden.append(tag)
        self.found += "\n"
        seen = [value or "" for name, value in attrs if name in ("title", "aria-label", "placeholder", "alt", "label")]
        self.found += "".join(f"\n{each}\n" for each in seen)

    def handle_endtag(self, tag: str) -> None:
        if self._hidden and tag == self._hidden[-1]:
            self._hidden.pop()

    def handle_data(self, data: str) -> None:
        self.found += "" if self._hidden else data


def unmarked(html: str) -> Iterator[str]:
    """Give what has Latin letters and stands outside of all marks."""
    depth, outside = 0, ""
    for letter in Words(html).found:
        depth += {"⟦": 1, "⟧": -1}.get(letter, 0)
        outside += letter if not depth and letter != "⟧" else "\n"
    for line in outside.split("\n"):
        words = set(re.findall(r"[A-Za-z][\w.:/-]*\w", line)) - NAMES
        if not all(re.search(r"[_.:/\d-]", word) for word in words):
            yield " ".join(line.split())


@pytest.fixture
def site(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A service whose people write Greek, with something on each page."""
    marked = Marked()
    monkeypatch.setattr(localization, "_translator", lambda language: marked)
    monkeypatch.setattr(dashboard, "_PATIENCE_S", 300)
    site = Site(sqlite_engine)
    site.service.ranked = ()
    answers = [
        Rating(f"Ερώτηση {n // 2}", f"Απάντηση {n}", source="πηγή", shown_rank=n % 2 + 1, candidate_group=f"γ{n // 2}")
        for n in range(6)
    ]
    for n, key in enumerate(record(sqlite_engine, answers)[:4]):
        rate(sqlite_engine, key, reviewer="ada", rating=n + 1, comment="σχόλιο", correction="διόρθωση", harmful=n == 3)
        rate(sqlite_engine, key, reviewer="rita", rating=5 - n)
    raise_alarm(sqlite_engine, AlarmKind.SOURCE, "αυτό", subject="πηγή", now=NOW)
    raise_alarm(sqlite_engine, AlarmKind.MODEL_FILE, Message("It was restored from {version}.", version="v1"), now=NOW)
    metrics = {name: {"value": 0.9, "low": 0.8, "high": 0.95} for name in ("accuracy", "auc")}
    live = {"state": "live", "reason": "γιατί", "recipe": "p", "encoder": "ε", "live_from": NOW, "version": "v1"}
    points = Message("{value:+.1f} points (95 % {low:+.1f} to {high:+.1f})", value=-1.5, low=-2.5, high=1)
    gate = Message(
        "It is worse than {model}: {measured}.",
        model=Message("the live model {version}", version="v0"),
        measured=points,
    )
    gate = Message.joined(gate, Message("There was no live model to compare it with."))
    why = Message.joined(
        Message("Promoted by {actor}.", actor="cli:root"), Message("Reason: {reason}", reason="δοκιμή.")
    )
    live |= {"reason": why, "said": packed(why), "judgement": {"reasons": [gate], "said": packed(gate)}}
    with transaction(sqlite_engine) as connection:
        values = {**live, "sha256": "1", "made_at": NOW, "changed_at": NOW, "metrics": {"overall": metrics}}
        connection.execute(insert(ModelVersion).values(values))
    run = begin_run(sqlite_engine, started_at=NOW, recipe="p", encoder="ε", split_seed=0)
    end_run(sqlite_engine, run, RunRecord(status="succeeded", n_test=24, accuracy=0.75, auc=0.8, precision_at_1=0.66))
    few = Message("Only {n} rated interactions; training needs {least}.", n=3, least=50)
    run = begin_run(sqlite_engine, started_at=NOW, recipe="p", encoder="ε", split_seed=0)
    end_run(sqlite_engine, run, RunRecord(status="failed", error=Message.joined("NotEnoughDataError:", few)))
    return site


PAGES = (
    *("/account", "/data-html", "/review", "/review/items/1", "/compare", "/review/history", "/review/agreement"),
    *("/review/history?rating=5&q=x", "/review/guidelines", "/review/corrections", "/review/corrections?state=all"),
    *("/review/corrections/chosen?id=1&id=3", "/review/flagged", "/review/nobodys-field", "/browse?rating=5"),
    *("/browse/question?id=x", "/dashboard", "/admin", "/admin/tokens", "/admin/audit", "/import"),
    *("/nowhere", "/welcome/x", f"/data-html?query={quote('Ερώτηση')}&x=1"),
)
FILES = {
    "a.csv": "frage,antwort,bewertung,Αν\nΕ,Α,5,γ\nΕ,Β,9,\n",
    "b.csv": "α,β\n1,2\n",
    "c.csv": "frage,antwort,question\n1,2,3\n",
    "d.csv": "frage,antwort,bewertung\nΕ,Α,1\nΕ,Β,0\n",
    "e.csv": "",
    "f.pdf": "%PDF",
    "g.xlsx": "PK\x03\x04",
    "h.csv": "<html>",
}


def test_each_page_speaks_the_readers_language(site: Site) -> None:
    """Also its errors, and what an import says of a file; texts of people and names of programs stay."""
    ada = site.browser(site.ada)
    found = {path: list(unmarked(ada.get(path, headers={"Accept": "text/html"}).text)) for path in PAGES}
    for name, content in FILES.items():
        sent = {"file": (io.BytesIO(content.encode()), name), "do": "look"}
        found[name] = list(unmarked(ada.post("/import", sent, page="/import").text))
    assert {page: words for page, words in found.items() if words} == {}


def test_what_is_stored_speaks_each_language(sqlite_engine: Engine) -> None:
    """A reason that is read from the database can be said in German, unless its text was changed by somebody else."""
    of = Message("{measure} (in {share:.0%} of draws)", measure=Message("pairs in the right order"), share=0.975)
    told = Message("It is better than the incoming order by {by}: {measured}.", by=(of, "P@1"), measured="-")
    raise_alarm(sqlite_engine, AlarmKind.SOURCE, told, now=NOW)
    (alarm,) = open_alarms(sqlite_engine)
    german = Translator("de", localization.FOLDER)
    assert alarm.message == (
        "It is better than the incoming order by pairs in the right order (in 98% of draws) and P@1: -."
    )
    assert german(alarm.message) == (
        "Es ist besser als die ursprüngliche Reihenfolge (richtig geordnete Paare (in 98\N{NO-BREAK SPACE}% der "
        "Ziehungen) und P@1): -."
    )
    with transaction(sqlite_engine) as connection:
        connection.execute(update(AlarmRow).values(message="Other words."))
    (alarm,) = open_alarms(sqlite_engine)
    assert (alarm.message, packed(alarm.message)) == ("Other words.", None)


@pytest.mark.parametrize(
    "message",
    [
        Message("Only {n} rated interactions; training needs {least}.", n=3, least=50),
        Message.counted("{n} answer", "{n} answers", 1),
        Message.counted("{n} answer", "{n} answers", 2, more=Message("it was stopped")),
        Message.joined("a", Message("It was restored from {version}.", version="v{1}")),
        Message("{day}, {time}, {list}", day=date(2026, 1, 31), time=NOW, list=("a", Message("it was stopped"))),
    ],
)
def test_a_message_is_the_same_after_the_database(message: Message) -> None:
    """Packed as JSON and unpacked it has the same words and values; what is no message's stays a plain text."""
    again = unpacked(message[:], json.loads(json.dumps(packed(message))))
    assert (again, again.words, again.values) == (message, message.words, message.values)  # type: ignore[attr-defined]
    for other in (None, [], {"words": []}, {"words": ["{x}"], "values": {}}, {"words": "a", "values": 1}, {"day": "x"}):
        assert packed(unpacked(message[:], other)) is None
    no_number = Message("{x:.1f}", x=float("nan"))
    assert packed(unpacked(no_number[:], json.loads(json.dumps(packed(no_number), allow_nan=False)))) is None
