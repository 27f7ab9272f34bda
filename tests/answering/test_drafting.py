from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from llm_endpoint import Endpoint, completion
from patience import PATIENCE_S, until

from rlhf_loop.answering import drafting
from rlhf_loop.answering.drafting import Drafter, WrittenQuestions, quote, write_questions
from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, Passage
from rlhf_loop.errors import ConfigError, ImportFileError, MissingExtraError, SourceError
from rlhf_loop.exchange.reader import RatingsReader
from rlhf_loop.sources.excerpts import excerpt
from rlhf_loop.utils.concurrency import start_thread

QUERY = "What helps against hiccups?"
PASSAGES = {
    "index": (Passage(text="Hold your breath.", title="Hiccups", url="https://example.org/1", licence="CC0"),),
    "wikipedia": (Passage(text="Hiccups are short."), Passage(text="Drink water slowly.")),
}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


def drafter(endpoint: Endpoint, **settings: Any) -> Drafter:
    return Drafter(Settings(llm_url=endpoint.url, llm_model="small", **settings))


def texts(candidates: tuple[Candidate, ...]) -> list[tuple[str | None, str]]:
    return [(candidate.source, candidate.text) for candidate in candidates]


def test_without_a_model_passages_are_quoted() -> None:
    """The first of each source comes first; each names its source, title, URL and licence."""
    quoted = quote(PASSAGES)
    assert texts(quoted) == [
        ("index", "Hold your breath."),
        ("wikipedia", "Hiccups are short."),
        ("wikipedia", "Drink water slowly."),
    ]
    assert (quoted[0].title, quoted[0].url, quoted[0].licence) == ("Hiccups", "https://example.org/1", "CC0")
    assert quote({"empty": ()}) == quote({}) == ()


def test_what_two_sources_say_alike_is_quoted_once() -> None:
    """The first that says it keeps it, in its place."""
    passages = {"a": (Passage(text="One."), Passage(text="Two.")), "b": (Passage(text="ONE. "), Passage(text="Three."))}
    assert texts(quote(passages)) == [("a", "One."), ("a", "Two."), ("b", "Three.")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("All of it. Every word.", "All of it. Every word."),
        ("of the kidney. It is rare. Most people rec", "It is rare."),
        ("It is rare. Most people rec", "It is rare."),
        ("Symptoms:\n- fever\n- a dry cough", "Symptoms:\n- fever\n- a dry cough"),
        ("no end and no beginning", "no end and no beginning"),
        ("Das hilft. (Meist.)", "Das hilft. (Meist.)"),
        ("mRNA vaccines help. They are new.", "mRNA vaccines help. They are new."),
    ],
)
def test_whole_sentences(text: str, expected: str) -> None:
    """What is cut off at the start or end goes; lists, and texts that have nothing else, stay."""
    assert excerpt(QUERY, text) == expected


def test_of_a_long_text_the_part_that_fits_is_shown() -> None:
    """A chapter about much else gives the part with the words of the question, in whole sentences."""
    other = " ".join(f"This sentence, number {number}, says something about gardens." for number in range(60))
    found = excerpt(QUERY, f"{other} Hiccups stop if one holds one's breath. This helps most people. {other}")
    assert "Hiccups stop if one holds one's breath." in found
    assert len(found) <= 1500
    assert found.startswith("This sentence, number") or found.startswith("Hiccups")
    assert found.endswith(".")


def test_each_source_becomes_a_draft(endpoint: Endpoint) -> None:
    """The model gets a source's passages and the question; its draft names the source's first page."""
    endpoint.reply = lambda body: (200, completion("From memory." if "breath" in str(body) else "From a page."))
    drafts = drafter(endpoint, llm_api_key="sk-1").draft(QUERY, PASSAGES)
    assert texts(drafts.candidates) == [("index", "From memory."), ("wikipedia", "From a page.")]
    assert (drafts.candidates[0].url, drafts.candidates[0].drafted_by) == ("https://example.org/1", "small")
    assert drafts.trouble == ""
    for body, authorization in endpoint.requests:
        assert body["model"] == "small"
        assert QUERY in body["messages"][1]["content"]
        assert authorization == "Bearer sk-1"
    assert any("[2] Drink water slowly." in str(body) for body, _ in endpoint.requests)


def test_best_of_n(endpoint: Endpoint) -> None:
    """With three drafts a source, six requests are made, and all that differ are candidates."""
    lock, numbers = threading.Lock(), iter(range(99))

    def reply(body: dict[str, Any]) -> tuple[int, object]:
        with lock:
            return 200, completion(f"Draft {next(numbers)}.")

    endpoint.reply = reply
    drafts = drafter(endpoint, llm_drafts=3).draft(QUERY, PASSAGES)
    assert sorted(text for _, text in texts(drafts.candidates)) == [f"Draft {n}." for n in range(6)]
    assert [source for source, _ in texts(drafts.candidates)] == ["index", "wikipedia"] * 3
    assert all(body["temperature"] > 0 for body, _ in endpoint.requests)


@pytest.mark.parametrize(
    ("reply", "trouble"),
    [
        ((500, {"error": {"message": "out of memory"}}), "InternalServerError"),
        ((401, {"error": {"message": "bad key"}}), "AuthenticationError"),
        ((429, {"error": {"message": "slow down"}}), "RateLimitError"),
        ((200, b"<html>not JSON"), "the language model failed"),
        ((200, {"choices": []}), "the language model failed"),
        ((200, {"choices": None}), "the language model failed"),
        ((200, completion(None)), ""),
        ((200, completion("  ")), ""),
        ((200, completion("No answer.")), ""),
    ],
)
def test_a_model_that_fails_or_knows_nothing_falls_back(
    endpoint: Endpoint, reply: tuple[int, object], trouble: str
) -> None:
    """The passages stand in for its drafts, and a failure is named."""
    endpoint.reply = lambda body: reply
    drafts = drafter(endpoint).draft(QUERY, PASSAGES)
    assert drafts.candidates == quote(PASSAGES)
    assert trouble in drafts.trouble
    assert bool(drafts.trouble) == bool(trouble)


def test_a_model_that_hangs_falls_back(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not there in time is replaced; what was drafted in time stays."""
    begun: list[Future[str]] = []

    def start(work: Callable[[], str], *, name: str) -> Future[str]:
        begun.append(start_thread(work, name=name))
        return begun[-1]

    def clock() -> float:
        """The time is up as soon as the last draft is there."""
        return 1 + PATIENCE_S if begun and begun[-1].result(PATIENCE_S) else 0

    monkeypatch.setattr(drafting, "start_thread", start)
    monkeypatch.setattr(drafting, "perf_counter", clock)
    endpoint.reply = lambda body: endpoint.hang(body) if "breath" in str(body) else (200, completion("In time."))
    drafts = drafter(endpoint, llm_timeout_s=PATIENCE_S).draft(QUERY, PASSAGES)
    assert texts(drafts.candidates) == [("wikipedia", "In time."), ("index", "Hold your breath.")]
    assert drafts.trouble


def test_a_model_that_is_down_is_left_alone(endpoint: Endpoint) -> None:
    """After three failures in a row nobody waits for it."""
    endpoint.close()
    model = drafter(endpoint)
    troubles = [model.draft(QUERY, PASSAGES).trouble for _ in range(4)]
    assert troubles[:3] == ["the language model failed (ConnectError)"] * 3
    assert "paused" in troubles[3]


def test_no_other_host_is_asked(endpoint: Endpoint) -> None:
    """An endpoint that sends the client elsewhere has failed."""
    elsewhere = Endpoint()
    endpoint.location = f"{elsewhere.url}/chat/completions"
    endpoint.reply = lambda body: (307, {})
    assert drafter(endpoint).draft(QUERY, PASSAGES).trouble
    assert elsewhere.requests == []
    elsewhere.close()


def test_a_reply_of_any_size_is_bounded(endpoint: Endpoint) -> None:
    """A draft is cut to some thousand characters, in whole sentences; a reply of megabytes has failed."""
    endpoint.reply = lambda body: (200, completion("It helps. " * 5000))
    (draft,) = drafter(endpoint).draft(QUERY, {"index": PASSAGES["index"]}).candidates
    assert 5000 < len(draft.text) < 6001
    assert draft.text.endswith("It helps.")
    endpoint.reply = lambda body: (200, completion("It helps. " * 500_000))
    drafts = drafter(endpoint).draft(QUERY, PASSAGES)
    assert drafts.candidates == quote(PASSAGES)
    assert drafts.trouble


def test_an_endpoint_that_drips_keeps_no_thread(endpoint: Endpoint) -> None:
    """Drafts end by their deadline, even where a byte comes now and then; and only so many run at once."""
    endpoint.reply = endpoint.hang
    model = drafter(endpoint, llm_timeout_s=0.3)
    model.draft(QUERY, PASSAGES)
    until(lambda: not any(thread.name.startswith("rlhf-draft") for thread in threading.enumerate()))
    model._running = drafting._RUNNING
    assert "still busy" in model.draft(QUERY, PASSAGES).trouble


def test_the_environment_does_not_reach_the_endpoint(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a proxy nor another account's organisation comes from there."""
    proxy = Endpoint()
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    monkeypatch.setenv("OPENAI_ORG_ID", "another")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "another")
    assert drafter(endpoint).draft(QUERY, PASSAGES).trouble == ""
    assert proxy.requests == []
    assert not any("another" in value for headers in endpoint.headers for value in headers)
    proxy.close()


def test_a_draft_that_was_cut_off_ends_with_a_sentence(endpoint: Endpoint) -> None:
    """Where the model reached its limit of tokens, the begun sentence goes; control characters always do."""
    endpoint.reply = lambda body: (200, completion("It hel\x00ps. It also stops most hic", reason="length"))
    drafts = drafter(endpoint).draft(QUERY, {"index": PASSAGES["index"]})
    assert texts(drafts.candidates) == [("index", "It helps.")]


def test_an_answer_as_it_stands_is_not_drafted(endpoint: Endpoint) -> None:
    """What is verbatim, such as an expert's correction, comes before the drafts, and no model sees it."""
    finished = Passage(text="Sip cold water.", verbatim=True)
    writer = drafter(endpoint)
    drafts = writer.draft(QUERY, {"corrections": (finished,), **PASSAGES})
    alone = writer.draft(QUERY, {"corrections": (finished,)})
    writer.close()
    assert drafts.candidates[0] == Candidate("Sip cold water.", "corrections")
    assert [of.text for of in alone.candidates] == ["Sip cold water."]
    assert endpoint.requests
    assert all("cold" not in json.dumps(body) for body, _ in endpoint.requests)


def test_nothing_found_needs_no_model(endpoint: Endpoint) -> None:
    """Without passages the model is not asked: it would answer from imagination."""
    assert drafter(endpoint).draft(QUERY, {"index": ()}).candidates == ()
    assert endpoint.requests == []


def test_an_endpoint_needs_a_model() -> None:
    """The settings have to name it."""
    with pytest.raises(ConfigError, match="RLHF_LLM_MODEL is not set"):
        Drafter(Settings(llm_url="http://127.0.0.1:1/v1"))


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where openai is not installed, one reads which extra brings it."""
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlhf-loop\[llm\]'"):
        Drafter(Settings(llm_url="http://127.0.0.1:1/v1", llm_model="small"))


def test_questions_for_a_corpus_are_written_once(endpoint: Endpoint, tmp_path: Path) -> None:
    """Each section is read once, its questions are kept, and what failed or was cut off is written the next time."""
    settings = Settings(llm_url=endpoint.url, llm_model="small", llm_api_key="key")
    file = tmp_path / "questions.jsonl"
    replies = {
        "Breath.": completion('Sure:\n1. Hiccups again?\n- "Wie lange?"\n\n3) ' + "long " * 100 + "\n* Hiccups again?"),
        "Water.": completion("<think>\nWhat now?\n</think>\nWhat to drink?"),
        "Nothing.": completion("No question."),
        "Cut.": completion("Whole?\nCut of", reason="length"),
    }
    endpoint.reply = lambda body: (200, replies[body["messages"][1]["content"].removeprefix("Passage:\n\n")])
    assert write_questions(["Breath.", "Water.", "Broken.", "Water."], file, settings) == WrittenQuestions(
        3, 2, 0, 0, 1
    )
    assert {authorization for _, authorization in endpoint.requests} == {"Bearer key"}
    rows = [("Hiccups again?", "Breath."), ("Wie lange?", "Breath."), ("What to drink?", "Water.")]
    assert written(file) == rows
    assert {row.rating.user_prompt for row in RatingsReader(file) if row.rating} == {of for of, _ in rows}, (
        "for --adapt"
    )
    whole = file.read_bytes()
    for cut in (1, 5, len(whole.splitlines()[-1]) + 1):
        file.write_bytes(whole[:-cut])
        endpoint.requests.clear()
        done = write_questions(["Breath.", "Water.", "Nothing.", "Cut."], file, settings)
        assert (done.known, done.without, len(endpoint.requests)) == (1 + (cut == 1), 1, 3 - (cut == 1))
        assert written(file) == [*rows, ("Whole?", "Cut.")]


def test_questions_end_where_the_model_fails_again_and_again(endpoint: Endpoint, tmp_path: Path) -> None:
    """After three failures in a row nobody is asked any more, and the message says what is kept."""
    endpoint.reply = lambda body: (401, {"error": "no"}) if len(endpoint.requests) > 1 else (200, completion("Why?"))
    with pytest.raises(SourceError, match="failed 3 times running, at last with AuthenticationError"):
        write_questions(list("abcdef"), tmp_path / "q", Settings(llm_url=endpoint.url, llm_model="small"))
    assert len(endpoint.requests) == 4
    assert written(tmp_path / "q") == [("Why?", "a")]


@pytest.mark.parametrize(
    "content", [b"x", b"question,answer\nWhy?,So.\n", b'{"question": "Why?"}\n', b'["question", "answer"]\n', b"\xff\n"]
)
def test_a_foreign_file_of_questions_stays_as_it_is(endpoint: Endpoint, tmp_path: Path, content: bytes) -> None:
    """A file that holds anything else is refused, before anybody is asked."""
    file = tmp_path / "notes"
    file.write_bytes(content)
    with pytest.raises(ImportFileError, match=r"Line 1 of .* is not a question with its answer"):
        write_questions(["a"], file, Settings(llm_url=endpoint.url, llm_model="small"))
    assert file.read_bytes() == content
    assert not endpoint.requests


def test_questions_are_kept_in_a_file(endpoint: Endpoint, tmp_path: Path) -> None:
    """A device, or a file in a folder that is not there, is refused before anybody is asked."""
    settings = Settings(llm_url=endpoint.url, llm_model="small")
    for file, said in ((Path("/dev/zero"), "is not a file"), (tmp_path / "no" / "q", "Cannot write to")):
        with pytest.raises(ImportFileError, match=said):
            write_questions(["a"], file, settings)
    assert not endpoint.requests


def test_questions_need_a_model(tmp_path: Path) -> None:
    """Without a language model the message names the setting, and no file is made."""
    with pytest.raises(ConfigError, match="RLHF_LLM_URL is not set"):
        write_questions(["a"], tmp_path / "q", Settings())
    assert not (tmp_path / "q").exists()


def written(file: Path) -> list[tuple[str, str]]:
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [(row["question"], row["answer"]) for row in rows]
