from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.domain import Passage, Rating
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import SourceError
from rlhf_loop.reviewing.corrections import decide
from rlhf_loop.sources import approved_corrections as module
from rlhf_loop.sources.approved_corrections import CorrectionsSource
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import record, withdraw_review

QUESTION = "What are the symptoms of flu?"
START = datetime(2026, 11, 23, tzinfo=UTC)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Empty:
    """A source that knows nothing."""

    name: str = "empty"

    def search(self, query: str, *, limit: int) -> Sequence[Passage]:
        return []


def corrected(engine: Engine, prompt: str, *corrections: str, reviewer: str = "ann", role: str = "expert") -> list[int]:
    """Store an answer with a correction for each, and return the reviews' ids."""
    ratings = [
        Rating(prompt, f"Not {text}", 2, corrected_response=text, reviewer=reviewer, reviewer_role=role)
        for text in corrections
    ]
    interactions = record(engine, ratings)
    with transaction(engine) as connection:
        found = connection.exec_driver_sql("SELECT id, interaction_id FROM rlhf_reviews").all()
    of = {interaction: review for review, interaction in found}
    return [of[interaction] for interaction in interactions]


def approve(engine: Engine, *reviews: int, approved: bool = True) -> None:
    for number, review in enumerate(reviews):
        with transaction(engine) as connection:
            text = connection.exec_driver_sql(f"SELECT correction FROM rlhf_reviews WHERE id = {review}").scalar_one()
        moment = START + timedelta(minutes=number)
        decide(engine, review, approved=approved, correction=text, decided_by="eve", now=moment)


@pytest.fixture
def settings(database_url: str, engine: Engine, tmp_path: Path) -> Settings:
    return Settings(
        database_url=database_url,
        sources=("corrections",),
        model_path=tmp_path / "none.joblib",
        outbox_path=tmp_path / "outbox.db",
        cache_dir=tmp_path / "cache",
    )


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the connections of every source that a test makes."""
    made: list[CorrectionsSource] = []
    init = CorrectionsSource.__init__

    def remembered(self: CorrectionsSource, *given: Any, **options: Any) -> None:
        init(self, *given, **options)
        made.append(self)

    monkeypatch.setattr(CorrectionsSource, "__init__", remembered)
    yield
    for source in made:
        source.close()


def texts(source: CorrectionsSource, question: str, *, limit: int = 5) -> list[str]:
    return [passage.text for passage in source.search(question, limit=limit)]


def test_an_approved_correction_is_a_candidate_everywhere(
    settings: Settings, engine: Engine, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Approved, it is among the candidates of each process when its question is asked again; withdrawn, it is not."""
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0)
    services = [AnswerService(settings, encoder=encoder) for _ in range(2)]
    [review] = corrected(engine, QUESTION, "Fever, cough and aching muscles.")
    assert [service.answer(QUESTION).ranked for service in services] == [(), ()]
    approve(engine, review)
    for service in services:
        answer = service.answer("what are the  symptoms of FLU?")
        assert [(of.text, of.origin.source, of.origin.title) for of in answer.ranked] == [
            ("Fever, cough and aching muscles.", "corrections", "Corrected by an expert")
        ]
        assert answer.degraded == {}
    with transaction(engine) as connection:
        withdraw_review(connection, 1, reviewer="ann")
    assert [service.answer(QUESTION).ranked for service in services] == [(), ()]
    for service in services:
        service.close()


def test_nearly_the_same_question(settings: Settings, engine: Engine, encoder: TextEncoder) -> None:
    """Other words for the same question find it; a question about something else does not, however near."""
    approve(engine, *corrected(engine, "What are the symptoms of type 1 diabetes?", "Thirst and losing weight."))
    source = CorrectionsSource(settings, encoder)
    assert texts(source, "type 1 diabetes symptoms") == ["Thirst and losing weight."]
    assert texts(source, "Please tell me the signs of type 1 diabetes.") == ["Thirst and losing weight."]
    for other in (
        "What are the symptoms of type 2 diabetes?",
        "What are the treatments of type 1 diabetes?",
        "What are not the symptoms of type 1 diabetes?",
        "What are the symptoms of type 1 diabetes in children?",
        "",
    ):
        assert texts(source, other) == []


def test_the_same_question_first_and_its_newest_correction(
    settings: Settings, engine: Engine, encoder: TextEncoder
) -> None:
    """Of one question the correction that was approved last comes first; nearly the same questions follow."""
    near = corrected(engine, "flu symptoms", "Of the near question.")
    same = corrected(engine, QUESTION, "First approved.", "Approved last.", "Refused.")
    again = corrected(engine, QUESTION, "First approved.", reviewer="bob")
    approve(engine, *near, *again, *same[:2])
    approve(engine, same[2], approved=False)
    source = CorrectionsSource(settings, encoder)
    assert texts(source, QUESTION) == ["Approved last.", "First approved.", "Of the near question."]
    assert texts(source, QUESTION, limit=1) == ["Approved last."]


def test_only_what_was_approved(settings: Settings, engine: Engine) -> None:
    """What nobody decided about is not given, nor what was changed after it was approved."""
    reviews = corrected(engine, QUESTION, "Undecided.", "Changed later.")
    approve(engine, reviews[1])
    with transaction(engine) as connection:
        connection.exec_driver_sql(f"UPDATE rlhf_reviews SET correction = 'Anything.' WHERE id = {reviews[1]}")
    assert texts(CorrectionsSource(settings, None), QUESTION) == []


def test_a_readers_correction_is_named_so(settings: Settings, engine: Engine) -> None:
    """Also an end user's correction may be approved; it does not pass for an expert's."""
    approve(engine, *corrected(engine, QUESTION, "Fever.", role="end_user"))
    [passage] = CorrectionsSource(settings, None).search(QUESTION, limit=5)
    assert passage.title == "Corrected by a reader, approved by an expert"
    assert (passage.whole, passage.verbatim) == (True, True)


def test_without_an_encoder_only_the_same(settings: Settings, engine: Engine) -> None:
    """Case and white space do not matter; everything else does."""
    approve(engine, *corrected(engine, QUESTION, "Fever."))
    source = CorrectionsSource(settings, None)
    assert texts(source, " WHAT are the symptoms of  flu?") == ["Fever."]
    assert texts(source, "flu symptoms") == []


def test_the_database_is_looked_at_now_and_then(settings: Settings, engine: Engine) -> None:
    """Within two seconds nobody asks it again."""
    clock = Clock()
    source = CorrectionsSource(settings, None, clock=clock)
    assert texts(source, QUESTION) == []
    approve(engine, *corrected(engine, QUESTION, "Fever."))
    clock.now = 1.9
    assert texts(source, QUESTION) == []
    clock.now = 2.0
    assert texts(source, QUESTION) == ["Fever."]


def test_nothing_is_embedded_without_corrections(settings: Settings, encoder: TextEncoder) -> None:
    """Whoever has none does not pay for them."""
    before = encoder.computed + encoder.remembered
    source = CorrectionsSource(settings, encoder)
    source.warm_up()
    assert texts(source, "A question that nobody asked before?") == []
    assert encoder.computed + encoder.remembered == before


def test_questions_are_embedded_once(settings: Settings, engine: Engine, encoder: TextEncoder) -> None:
    """Another approval costs the vector of its own question only."""
    clock = Clock()
    source = CorrectionsSource(settings, encoder, clock=clock)
    approve(engine, *corrected(engine, "What is gout?", "Crystals in a joint."))
    assert texts(source, "Tell me about gout.") == ["Crystals in a joint."]
    approve(engine, *corrected(engine, "What is shingles?", "A rash."))
    clock.now = 5.0
    asked: list[Sequence[str]] = []
    encode = encoder.encode_whole

    class Counting:
        dimension, as_near = encoder.dimension, encoder.as_near

        def encode_whole(self, given: Sequence[str]) -> Any:
            asked.append(list(given))
            return encode(given)

    source._encoder = Counting()  # type: ignore[assignment]
    assert texts(source, "Tell me about shingles.") == ["A rash."]
    assert asked == [["What is shingles?"], ["Tell me about shingles."]]


def test_many_at_once_are_embedded_beside(
    settings: Settings, engine: Engine, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where many are new nobody waits: the same questions are found at once, the near ones as they are embedded."""
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    reviews = [corrected(engine, f"What is disease {n}?", f"Answer {n}.")[0] for n in range(7)]
    approve(engine, *reviews)
    threads: list[threading.Thread] = []
    monkeypatch.setattr(module, "start_thread", lambda task, name: threads.append(threading.Thread(target=task)))
    source = CorrectionsSource(settings, encoder)
    assert texts(source, "what is disease 6?") == ["Answer 6."]
    assert texts(source, "disease 6") == []
    [thread] = threads
    thread.start()
    thread.join()
    assert [texts(source, f"disease {n}") for n in range(7)] == [[f"Answer {n}."] for n in range(7)]


def test_a_database_that_is_down(
    encoder: TextEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs only this source; the reason in the log names the database, what is shown does not."""
    (tmp_path / "folder").mkdir()
    url = f"sqlite:///{tmp_path / 'folder'}"
    settings = Settings(database_url=url, sources=("corrections",), outbox_path=tmp_path / "outbox.db")
    with caplog.at_level(logging.ERROR), pytest.raises(SourceError, match="cannot be read; the log says why") as error:
        CorrectionsSource(settings, None).search(QUESTION, limit=5)
    assert str(tmp_path) not in str(error.value)
    assert str(tmp_path) in caplog.text


def test_what_was_known_is_not_given_while_the_database_is_down(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could tell whether it was withdrawn; when the database is back, so are the corrections."""
    clock = Clock()
    source = CorrectionsSource(settings, None, clock=clock)
    approve(engine, *corrected(engine, QUESTION, "Fever."))
    assert texts(source, QUESTION) == ["Fever."]

    def down(_: Engine) -> None:
        raise module.DatabaseError("It is down.")

    clock.now = 3.0
    with monkeypatch.context() as patched:
        patched.setattr(module, "approved_stamp", down)
        for _ in range(2):
            with pytest.raises(SourceError):
                source.search(QUESTION, limit=5)
    assert texts(source, QUESTION) == ["Fever."]


def test_a_long_correction_is_given_whole(settings: Settings, engine: Engine, encoder: TextEncoder) -> None:
    """An expert's words are not cut to what fits best, as a passage is."""
    text = " ".join(f"Sentence number {n} of a long answer about influenza." for n in range(100))
    approve(engine, *corrected(engine, QUESTION, text))
    service = AnswerService(settings, encoder=encoder)
    assert [of.text for of in service.answer(QUESTION).ranked] == [text]
    service.close()
