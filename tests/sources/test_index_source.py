"""The vector database as a source: diverse sections whose re-ranking embeds nothing but the question."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_loop.config import Settings
from rlhf_loop.domain import Question
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.errors import VectorStoreError
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.recipes import PassagesRecipe
from rlhf_loop.sources.index import VectorStore, indexing, open_store
from rlhf_loop.sources.index.store import IndexSource
from rlhf_loop.sources.source import Source
from rlhf_loop.training.train import TrainingReport

QUESTION = "How can hiccups be stopped?"
DOCUMENTS = {
    "What helps against hiccups?": "".join(
        f"Hiccups stop by themselves, mostly within {minutes} minutes. Hold your breath for a while. "
        for minutes in range(2, 50)
    ),
    "Why do we sneeze?": "Sneezing clears the nose of dust. The muscles of the chest work together.",
    "What is a cold?": "A cold is an infection of the nose and throat by a virus. It goes away in a week.",
    "How does the heart beat?": "A small node in the heart gives the beat. It is faster in a fever.",
}


@pytest.fixture(params=["lancedb", "pgvector"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, model_folder: Path, encoder_cache: Path) -> Settings:
    """Settings of each vector database; the vector cache is this test's own, the encoder's graph all tests'."""
    url = "sqlite://" if request.param == "lancedb" else request.getfixturevalue("empty_postgres_url")
    return Settings(database_url=url, index_path=tmp_path / "index", encoder_path=model_folder, cache_dir=encoder_cache)


@pytest.fixture
def store(settings: Settings) -> Iterator[VectorStore]:
    """An empty vector database."""
    store = open_store(settings)
    yield store
    store.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Four documents, one of them long."""
    path = tmp_path / "facts.jsonl"
    rows = [{"text": text, "title": title, "url": "https://e.org"} for title, text in DOCUMENTS.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def uncached(encoder: TextEncoder) -> TextEncoder:
    """The same encoder with nothing in memory and no cache: what it has to compute shows in `computed`."""
    return TextEncoder(encoder._runtime, encoder._tokenizer, None)


def test_an_empty_index_finds_nothing(store: VectorStore, encoder: TextEncoder) -> None:
    """Nobody has to index anything: then this source has no candidates."""
    source: Source = IndexSource(store, encoder)
    assert source.name == "index"
    assert list(source.search(QUESTION, limit=5)) == []


def test_each_document_comes_once_before_any_comes_twice(store: VectorStore, encoder: TextEncoder, file: Path) -> None:
    """The best section of each document, and further ones only where there are not enough documents."""
    indexing.index_files([file], store=store, encoder=encoder)
    source = IndexSource(store, encoder)
    few = source.search(QUESTION, limit=3)
    assert len({passage.title for passage in few}) == 3
    assert few[0].title == "What helps against hiccups?"
    assert few[0].url == "https://e.org"
    assert few[0].retrieved_at is not None
    many = source.search(QUESTION, limit=6)
    assert len({passage.title for passage in many[:4]}) == 4
    assert [passage.title for passage in many[4:]] == ["What helps against hiccups?"] * 2
    assert len({passage.text for passage in many}) == 6


def test_found_sections_are_ranked_without_embedding_them(
    store: VectorStore, settings: Settings, encoder: TextEncoder, file: Path
) -> None:
    """Once the question is known, nothing has to be computed: passages are lent, titles are in the cache."""
    indexing.index_files([file], store=store, encoder=encoder)
    fresh = load_encoder(settings)  # as in another process: its memory is empty, the cache's file is there
    PassagesRecipe().features([Question(QUESTION, ("",))], fresh)
    before = fresh.computed
    texts = tuple(passage.text for passage in IndexSource(store, fresh).search(QUESTION, limit=5))
    features = PassagesRecipe().features([Question(QUESTION, texts)], fresh.only_known())
    assert len(features) == len(texts) == 5
    assert fresh.computed == before


def test_a_text_comes_once(store: VectorStore, encoder: TextEncoder, tmp_path: Path) -> None:
    """Documents that say the same are one candidate."""
    path = tmp_path / "same.jsonl"
    rows = [{"text": "Hold your breath.", "title": title} for title in "abc"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    indexing.index_files([path], store=store, encoder=encoder)
    assert len(IndexSource(store, encoder).search(QUESTION, limit=5)) == 1


def test_stored_vectors_give_the_very_same_scores(
    store: VectorStore, encoder: TextEncoder, file: Path, trained: tuple[RewardModel, TrainingReport]
) -> None:
    """What was computed for the index and what is read from it are equal in every bit, and so are the scores."""

    class Recording:
        """The encoder, keeping what it computes for the index."""

        def __init__(self) -> None:
            self.id = encoder.id
            self.language = encoder.language
            self.kept: dict[str, object] = {}

        def passages_to_keep(self, texts: list[str]) -> list[object]:
            made = encoder.passages_to_keep(texts)
            self.kept.update(zip(texts, made, strict=True))
            return made  # type: ignore[return-value]

        def encode_whole(self, texts: list[str], *, passages: list[str]) -> object:
            return encoder.encode_whole(texts, passages=passages)

    recording = Recording()
    indexing.index_files([file], store=store, encoder=recording)  # type: ignore[arg-type]
    direct, through = uncached(encoder), uncached(encoder)
    texts = tuple(passage.text for passage in IndexSource(store, through).search(QUESTION, limit=5))
    direct.lend_passages(texts, [recording.kept[text] for text in texts])  # type: ignore[misc]
    scores = [trained[0].score([Question(QUESTION, texts)], each)[0] for each in (direct, through)]
    assert len(scores[0]) == 5
    assert scores[0].tobytes() == scores[1].tobytes()


def test_vectors_of_another_precision_are_not_lent(store: VectorStore, encoder: TextEncoder, file: Path) -> None:
    """They find as well, but a score is that of the encoder that ranks."""

    class Other(TextEncoder):
        @property
        def id(self) -> str:
            return encoder.id + ".other"

    other = Other(encoder._runtime, encoder._tokenizer, None)
    indexing.index_files([file], store=store, encoder=other)
    reader = uncached(encoder)
    (found,) = IndexSource(store, reader).search(QUESTION, limit=1)
    before = reader.computed
    reader.encode_passages([found.text])
    assert reader.computed == before + 1


def test_vectors_of_another_model_are_refused(store: VectorStore, encoder: TextEncoder, file: Path) -> None:
    """The question's vector says nothing about them, and no order is better than a wrong one."""

    class Other(TextEncoder):
        @property
        def id(self) -> str:
            return "another-model/fp32"

    indexing.index_files([file], store=store, encoder=Other(encoder._runtime, encoder._tokenizer, None))
    with pytest.raises(VectorStoreError, match="holds vectors of another-model/fp32"):
        IndexSource(store, encoder).search(QUESTION, limit=3)
