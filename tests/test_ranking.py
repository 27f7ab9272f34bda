from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
from patience import PATIENCE_S

import rlhf_reranker
from rlhf_loop import encoders, ranking, sample
from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate
from rlhf_loop.encoders import TextEncoder, Vectors
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.errors import ModelFileError
from rlhf_loop.ranking import Ranker, rerank_candidates
from rlhf_loop.reward import RECIPES, RewardModel
from rlhf_loop.reward.classifier import Scorer
from rlhf_loop.reward.model_file import save, sum_file
from rlhf_loop.training.train import TrainingReport

QUERY = "How do I treat a small burn?"
GOOD = (
    "Hold the burn under cool running water for 20 minutes, take off rings, and cover it loosely with cling film. "
    "See a doctor if it is larger than your hand, blistered on the face, or deep."
)
BAD = "The harbour museum opens at ten, and children get in free."


@pytest.fixture
def settings(tmp_path: Path, encoder_cache: Path) -> Settings:
    return Settings(model_path=tmp_path / "reward_model.joblib", cache_dir=encoder_cache)


@pytest.fixture
def ranker(settings: Settings, encoder: TextEncoder, reward_model: RewardModel) -> Ranker:
    """A ranker with a trained model."""
    save(reward_model, settings.model_path)
    return Ranker(settings, encoder=encoder)


def turned(model: RewardModel) -> RewardModel:
    """A model that ranks the other way round."""
    scorer = replace(model.scorer, coef=-model.scorer.coef, intercept=-model.scorer.intercept)
    return replace(model, scorer=scorer)


def texts(ranked: list[dict[str, Any]]) -> list[str]:
    return [entry["text"] for entry in ranked]


def test_the_best_answer_comes_first(ranker: Ranker) -> None:
    """Strings come back as dicts with text, score in [0, 1] and rank from 1, the best first."""
    ranked = rerank_candidates(QUERY, [BAD, GOOD, "Burns are common."], ranker=ranker)
    assert ranked[0]["text"] == GOOD
    assert [entry["rank"] for entry in ranked] == [1, 2, 3]
    scores = [entry["score"] for entry in ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(isinstance(score, float) and 0 <= score <= 1 for score in scores)
    assert all(set(entry) == {"text", "score", "rank"} for entry in ranked)


def test_other_keys_are_kept(ranker: Ranker) -> None:
    """Whatever else a candidate carries comes back with it; old scores and ranks are replaced; nothing is modified."""
    marker = object()
    candidates = [
        {"text": BAD, "id": 7, "score": 0.99, "rank": 1},
        MappingProxyType({"text": GOOD, "source": "web", "nested": marker}),
        "Burns are common.",
    ]
    before = [dict(candidate) if not isinstance(candidate, str) else candidate for candidate in candidates]
    ranked = rerank_candidates(QUERY, candidates, ranker=ranker)
    assert ranked[0]["source"] == "web"
    assert ranked[0]["nested"] is marker
    (bad,) = (entry for entry in ranked if entry["text"] == BAD)
    assert (bad["id"], bad["rank"] > 1, bad["score"] < 0.99) == (7, True, True)
    assert candidates == before
    ranked[0]["source"] = "changed"
    assert candidates[1]["source"] == "web"


def test_ties_keep_the_incoming_order(ranker: Ranker) -> None:
    """Candidates with the same text have the same score and stay in the order in which they came."""
    candidates = [{"text": text, "id": index} for index, text in enumerate([BAD, GOOD] * 20)]
    ranked = rerank_candidates(QUERY, candidates, ranker=ranker)
    assert [entry["id"] for entry in ranked] == [*range(1, 40, 2), *range(0, 40, 2)]
    assert len({entry["score"] for entry in ranked}) == 2


def test_the_incoming_order_does_not_matter(ranker: Ranker) -> None:
    """The same candidates in another order are ranked the same."""
    candidates = [entry["text"] for entry in sample.CANDIDATES]
    forward = rerank_candidates(sample.QUESTION, candidates, ranker=ranker)
    backward = rerank_candidates(sample.QUESTION, candidates[::-1], ranker=ranker)
    assert texts(forward) == texts(backward)
    assert [e["score"] for e in forward] == pytest.approx([e["score"] for e in backward], abs=1e-5)


def test_any_iterable_will_do(ranker: Ranker) -> None:
    """Candidates may come from a generator; none at all give an empty list."""
    assert len(rerank_candidates(QUERY, (text for text in (GOOD, BAD)), ranker=ranker)) == 2
    assert rerank_candidates(QUERY, [], ranker=ranker) == []
    assert rerank_candidates(QUERY, iter(()), ranker=ranker) == []


def test_without_a_model(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Without a model candidates keep their order, scores are None, and one warning says what to do."""
    ranker = Ranker(settings)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            ranked = rerank_candidates(QUERY, [{"text": BAD, "id": 1, "score": 0.5}, GOOD], ranker=ranker)
            assert ranked == [
                {"text": BAD, "id": 1, "score": None, "rank": 1},
                {"text": GOOD, "score": None, "rank": 2},
            ]
        assert ranker.model_version is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "rlhf-loop train" in caplog.text
    assert str(settings.model_path) in caplog.text


@pytest.mark.parametrize(
    ("query", "candidates", "message"),
    [
        ("", [GOOD], "query.*''"),
        (" \n", [GOOD], "query"),
        (None, [GOOD], "query.*None"),
        (7, [GOOD], "query.*7"),
        (QUERY, GOOD, "list of answers.*str"),
        (QUERY, b"bytes", "list of answers.*bytes"),
        (QUERY, {"text": GOOD}, "list of answers.*dict"),
        (QUERY, [GOOD, ""], "Candidate 1 has no text"),
        (QUERY, [GOOD, BAD, "  \t"], "Candidate 2 has no text"),
        (QUERY, [{"txt": GOOD}], "Candidate 0 has no text: None"),
        (QUERY, [GOOD, {"text": None}], "Candidate 1 has no text: None"),
        (QUERY, [GOOD, {"text": 5}], "Candidate 1 has no text: 5"),
        (QUERY, [GOOD, None], "Candidate 1 is a NoneType"),
        (QUERY, [GOOD, b"bytes"], "Candidate 1 is a bytes"),
        (QUERY, [["text"]], "Candidate 0 is a list"),
        ("", [], "query"),
    ],
)
def test_bad_input_names_its_position(settings: Settings, query: Any, candidates: Any, message: str) -> None:
    """Bad input is a ValueError that says where it is and what was seen, with a model or without."""
    with pytest.raises(ValueError, match=message):
        rerank_candidates(query, candidates, ranker=Ranker(settings))


def test_a_new_model_is_seen(settings: Settings, encoder: TextEncoder, reward_model: RewardModel) -> None:
    """A model that appears, or takes another's place, ranks from the next call on."""
    ranker = Ranker(settings, encoder=encoder)
    assert rerank_candidates(QUERY, [BAD, GOOD], ranker=ranker)[0]["score"] is None
    first = save(reward_model, settings.model_path)
    assert texts(rerank_candidates(QUERY, [BAD, GOOD], ranker=ranker)) == [GOOD, BAD]
    assert ranker.model_version == f"{reward_model.recipe}-{first[:12]}"
    second = save(turned(reward_model), settings.model_path)
    assert texts(rerank_candidates(QUERY, [BAD, GOOD], ranker=ranker)) == [BAD, GOOD]
    assert ranker.model_version == f"{reward_model.recipe}-{second[:12]}"


def test_damage_keeps_the_last_good_model(
    ranker: Ranker, settings: Settings, reward_model: RewardModel, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is damaged later is reported in the log once, and the model loaded before goes on serving."""
    expected = rerank_candidates(QUERY, [BAD, GOOD], ranker=ranker)
    settings.model_path.write_bytes(b"damaged")
    for _ in range(3):
        assert rerank_candidates(QUERY, [BAD, GOOD], ranker=ranker) == expected
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "altered or damaged" in caplog.text
    save(turned(reward_model), settings.model_path)
    assert texts(rerank_candidates(QUERY, [BAD, GOOD], ranker=ranker)) == [BAD, GOOD]


def test_a_restored_checksum_is_noticed(settings: Settings, encoder: TextEncoder, reward_model: RewardModel) -> None:
    """A model that came before its checksum is refused, and ranks as soon as the checksum is there."""
    save(reward_model, settings.model_path)
    line = sum_file(settings.model_path).read_text()
    sum_file(settings.model_path).unlink()
    ranker = Ranker(settings, encoder=encoder)
    for _ in range(2):
        with pytest.raises(ModelFileError, match="no checksum"):
            rerank_candidates(QUERY, [BAD, GOOD], ranker=ranker)
    sum_file(settings.model_path).write_text(line)
    assert texts(rerank_candidates(QUERY, [BAD, GOOD], ranker=ranker)) == [GOOD, BAD]


def test_a_deleted_model_goes_on_serving(ranker: Ranker, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """A model file that is deleted is reported, and the loaded model stays."""
    expected = rerank_candidates(QUERY, [BAD, GOOD], ranker=ranker)
    settings.model_path.unlink()
    for _ in range(2):
        assert rerank_candidates(QUERY, [BAD, GOOD], ranker=ranker) == expected
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_damage_from_the_start_is_an_error(settings: Settings, encoder: TextEncoder) -> None:
    """Where no good model was loaded before, a file that cannot be trusted is an error, at each call."""
    settings.model_path.write_bytes(b"damaged")
    sum_file(settings.model_path).write_text(f"{hashlib.sha256(b'good').hexdigest()}  reward_model.joblib\n")
    ranker = Ranker(settings, encoder=encoder)
    for _ in range(2):
        with pytest.raises(ModelFileError, match="altered or damaged"):
            rerank_candidates(QUERY, [GOOD], ranker=ranker)


def test_a_model_of_another_encoder_is_an_error(
    settings: Settings, encoder: TextEncoder, reward_model: RewardModel
) -> None:
    """A model that was trained with another encoder does not rank."""
    save(replace(reward_model, encoder="another"), settings.model_path)
    with pytest.raises(ModelFileError, match="trained with the encoder another"):
        rerank_candidates(QUERY, [GOOD], ranker=Ranker(settings, encoder=encoder))


class CountingLoader:
    """`load_encoder` that counts its calls, and takes as long as to let other threads in."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.calls = 0
        self._encoder = encoder

    def __call__(self, settings: Settings, *, serving: bool = False) -> TextEncoder:
        self.calls += 1
        time.sleep(0.05)
        return self._encoder


def test_threads_share_one_encoder(
    settings: Settings, encoder: TextEncoder, reward_model: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight threads that rank while models change get whole results, and the encoder is loaded once."""
    loader = CountingLoader(encoder)
    monkeypatch.setattr(encoders, "load_encoder", loader)
    save(reward_model, settings.model_path)
    ranker = Ranker(settings)

    def rank(number: int) -> list[str]:
        if number % 20 == 7:
            save(turned(reward_model) if number % 40 == 7 else reward_model, settings.model_path)
        ranked = rerank_candidates(QUERY, [BAD, GOOD], ranker=ranker)
        assert ranked[0]["score"] > ranked[1]["score"]
        return texts(ranked)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(rank, range(80)))
    assert loader.calls == 1
    assert {tuple(result) for result in results} == {(GOOD, BAD), (BAD, GOOD)}


def test_broken_characters_are_ranked(ranker: Ranker) -> None:
    """Lone surrogates and control characters in query or candidates come back as they were."""
    candidates = ["broken \ud800 text", "\udfff", "null \x00", GOOD]
    ranked = rerank_candidates("broken \udc80 query", candidates, ranker=ranker)
    assert sorted(texts(ranked)) == sorted(candidates)
    assert all(np.isfinite(entry["score"]) for entry in ranked)


def test_a_thousand_candidates(ranker: Ranker) -> None:
    """A thousand candidates are all ranked, each once."""
    candidates = [{"text": f"Note {index % 50}.", "id": index} for index in range(999)] + [{"text": GOOD, "id": 999}]
    ranked = rerank_candidates(QUERY, candidates, ranker=ranker)
    assert ranked[0]["id"] == 999
    assert sorted(entry["id"] for entry in ranked) == list(range(1000))
    assert [entry["rank"] for entry in ranked] == list(range(1, 1001))


@pytest.mark.parametrize("count", range(2, 8))
def test_equal_answers_have_equal_scores(ranker: Ranker, count: int) -> None:
    """The same text several times scores the same to the last bit, and keeps its order, alone or among rivals."""
    for rivals in ([], [BAD]):
        given = [{"text": GOOD, "place": place} for place in range(count)]
        ranked = [entry for entry in rerank_candidates(QUERY, [*given, *rivals], ranker=ranker) if "place" in entry]
        assert len({entry["score"] for entry in ranked}) == 1
        assert [entry["place"] for entry in ranked] == list(range(count))


@pytest.mark.parametrize("candidates", [None, 5, object()])
def test_what_is_no_list_is_refused(ranker: Ranker, candidates: Any) -> None:
    """Candidates that cannot be gone through are a ValueError like all bad input."""
    with pytest.raises(ValueError, match="must be a list"):
        rerank_candidates(QUERY, candidates, ranker=ranker)


def test_a_model_that_cuts_texts_is_announced(
    settings: Settings, encoder: TextEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """With a model of recipe joint live, the log says once that only the beginning of a text counts."""
    size = len(RECIPES["joint"].feature_names())
    nothing = np.zeros(size)
    save(
        RewardModel.of(Scorer(nothing, 0.0, nothing, nothing), recipe="joint", encoder=encoder.id), settings.model_path
    )
    ranker = Ranker(settings, encoder=encoder)
    for _ in range(2):
        rerank_candidates(QUERY, [GOOD, BAD], ranker=ranker)
    assert [record.message for record in caplog.records if "first 256 tokens" in record.message] != []
    assert len(caplog.records) == 1


@pytest.mark.slow
def test_a_very_long_text(ranker: Ranker) -> None:
    """A candidate of 100,000 characters is ranked and comes back whole; by its length alone it does not win."""
    long = "Nothing about it here. " * 4500
    ranked = rerank_candidates(QUERY, [long, GOOD], ranker=ranker)
    assert texts(ranked) == [GOOD, long]
    assert all(0 <= entry["score"] <= 1 for entry in ranked)


def test_the_default_ranker_follows_the_environment(
    settings: Settings, reward_model: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a ranker the process's own is used, made once from the RLHF_ variables."""
    for name in [name for name in os.environ if name.startswith("RLHF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RLHF_MODEL_PATH", str(settings.model_path))
    monkeypatch.setenv("RLHF_CACHE_DIR", str(settings.cache_dir))
    monkeypatch.setattr(ranking, "_default", None)
    save(reward_model, settings.model_path)
    ranked = rlhf_reranker.rerank_candidates(QUERY, [BAD, GOOD])
    assert texts(ranked) == [GOOD, BAD]
    assert ranking.default_ranker() is ranking.default_ranker()


def test_serving_loads_only_what_it_uses(settings: Settings, model_folder: Path, reward_model: RewardModel) -> None:
    """A process that ranks loads no library of training, of files or of the command line."""
    save(reward_model, settings.model_path)
    code = (
        "import sys\n"
        "from rlhf_reranker import rerank_candidates\n"
        "assert rerank_candidates('What helps against hiccups?', ['Hold your breath.', 'Bees.'])[0]['score']\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    done = run(code, settings, model_folder)
    heavy = {"sklearn", "scipy", "pyarrow", "onnx", "joblib", "sqlalchemy", "matplotlib", "rich", "click", "torch"}
    assert set(done.stdout.split()) & heavy == set()


class StoppedRuntime:
    """Stops at each new text until it is let go."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.id = encoder.id
        self.shape = encoder._runtime.shape
        self.asked, self.go = threading.Event(), threading.Event()
        self._runtime = encoder._runtime

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.asked.set()
        assert self.go.wait(timeout=PATIENCE_S)
        return self._runtime.encode(texts)


def test_known_candidates_do_not_wait_for_new_ones(
    settings: Settings, encoder: TextEncoder, reward_model: RewardModel
) -> None:
    """While one thread embeds a new text, others rank known candidates."""
    save(reward_model, settings.model_path)
    expected = rerank_candidates(QUERY, [BAD, GOOD], ranker=Ranker(settings, encoder=encoder))
    runtime = StoppedRuntime(encoder)
    slow = TextEncoder(runtime, encoder._tokenizer, VectorCache(settings.cache_dir / "vectors.db"))
    ranker = Ranker(settings, encoder=slow)
    with ThreadPoolExecutor(1) as pool:
        # Not even a run before, whose vectors `make test-fast` keeps.
        waiting = pool.submit(rerank_candidates, QUERY, [BAD, f"Nobody has seen {uuid4()} before."], ranker=ranker)
        assert runtime.asked.wait(timeout=PATIENCE_S)
        assert rerank_candidates(QUERY, [BAD, GOOD], ranker=ranker) == expected
        assert not waiting.done()
        runtime.go.set()
        assert len(waiting.result(timeout=PATIENCE_S)) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_ranker_survives_a_fork(settings: Settings, model_folder: Path, reward_model: RewardModel) -> None:
    """A child process ranks, even if a thread of its parent was just ranking, loading or embedding."""
    save(reward_model, settings.model_path)
    code = (
        "import os, sys, warnings\n"
        "from rlhf_loop.config import Settings\n"
        "from rlhf_loop.ranking import Ranker, rerank_candidates\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"  # that a fork with threads is risky: the very point
        "ranker = Ranker(Settings.from_env())\n"
        "first = rerank_candidates('What helps?', ['Sleep.', 'Bees.'], ranker=ranker)\n"
        "locks = ranker._lock, ranker._encoder._turn\n"
        "for lock in locks: lock.__enter__()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    same = rerank_candidates('What helps?', ['Sleep.', 'Bees.'], ranker=ranker) == first\n"
        "    new = rerank_candidates('What else helps?', [f'{os.getpid()} is new.'], ranker=ranker)\n"
        "    os._exit(0 if same and len(new) == 1 else 1)\n"
        "for lock in locks: lock.__exit__(None, None, None)\n"
        "print(os.waitpid(child, 0)[1], rerank_candidates('What helps?', ['Sleep.'], ranker=ranker)[0]['rank'])\n"
    )
    done = run(code, settings, model_folder)
    assert done.stdout == "0 1\n"


def test_ranking_goes_on_after_the_main_thread(
    settings: Settings, model_folder: Path, reward_model: RewardModel
) -> None:
    """A thread that still serves when the script has come to its last line ranks known and new candidates."""
    save(reward_model, settings.model_path)
    code = (
        "import threading\n"
        "from rlhf_reranker import rerank_candidates\n"
        "first = rerank_candidates('What helps?', ['Sleep.', 'Bees.'])\n"
        "def late():\n"
        "    threading.main_thread().join()\n"
        "    again = rerank_candidates('What helps?', ['Sleep.', 'Bees.'])\n"
        "    new = rerank_candidates('What helps?', ['The tide turns twice a day. ' * 99, *'abcdefgh'])\n"
        "    print(again == first, len(new))\n"
        "threading.Thread(target=late).start()\n"
    )
    done = run(code, settings, model_folder)
    assert (done.stdout, done.stderr) == ("True 9\n", "")


def run(code: str, settings: Settings, model_folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own that ranks with these settings."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_")}
    variables |= {
        "RLHF_MODEL_PATH": str(settings.model_path),
        "RLHF_CACHE_DIR": str(settings.cache_dir),
        "RLHF_ENCODER_THREADS": "1",
        "RLHF_ENCODER_PATH": str(model_folder),
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=variables,
        cwd=Path(__file__).parents[1],
        timeout=PATIENCE_S,
    )


def test_a_model_that_is_copied_before_its_sum(
    tmp_path: Path, encoder: TextEncoder, trained: tuple[RewardModel, TrainingReport]
) -> None:
    """A ranking between the two copies keeps the last good model; the next one after them has the new."""
    settings = Settings(model_path=tmp_path / "live.joblib")
    save(trained[0], settings.model_path)
    ranker = Ranker(settings, encoder=encoder)
    before = ranker.model_version
    new = tmp_path / "new.joblib"
    save(replace(trained[0], card={**trained[0].card, "note": "new"}), new)
    settings.model_path.write_bytes(new.read_bytes())
    assert ranker.model_version == before
    sum_file(settings.model_path).write_bytes(sum_file(new).read_bytes().replace(b"new.joblib", b"live.joblib"))
    assert ranker.model_version not in (None, before)


def test_arguments_that_are_something_else(tmp_path: Path) -> None:
    """A table, a path in place of a ranker, texts in place of candidates: each is named, with what to pass."""
    table = pd.DataFrame({"text": ["one", "two"]})
    wrong: Any = table
    with pytest.raises(ValueError, match=r"are a table \(DataFrame\)\. Pass the column"):
        rerank_candidates("q", wrong)
    wrong = "m.joblib"
    with pytest.raises(ValueError, match=r"The ranker is a str\. Pass Ranker\(settings\)"):
        rerank_candidates("q", ["a"], ranker=wrong)
    with pytest.raises(ValueError, match=r"The settings are a str\. Pass Settings"):
        Ranker(wrong)
    ranker = Ranker(Settings(model_path=tmp_path / "none"))
    assert len(ranker.ranking("q", (Candidate(text) for text in "ab")).candidates) == 2  # type: ignore[arg-type]
    wrong = None
    with pytest.raises(ValueError, match="The candidates are a NoneType"):
        ranker.ranking("q", wrong)
    wrong = ["a"]
    with pytest.raises(ValueError, match=r"Candidate 0 is a str\. Pass Candidate"):
        ranker.ranking("q", wrong)
    with pytest.raises(ValueError, match="Candidate 1 has no text: ' '"):
        ranker.rank("q", [Candidate("a"), Candidate(" ")])
    with pytest.raises(ValueError, match="The query must be a text that is not empty"):
        ranker.rank("", [Candidate("a")])
    assert [each["text"] for each in rerank_candidates("q", table["text"], ranker=ranker)] == ["one", "two"]
