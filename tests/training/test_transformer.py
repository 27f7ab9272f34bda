from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from quick_encoder import QuickCross
from sqlalchemy import Engine

from rlhf_loop import registry
from rlhf_loop.adapters.ranked import ranked
from rlhf_loop.config import Settings
from rlhf_loop.domain import Example, Question, Rating
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.encoders.tuned import TunedLayers
from rlhf_loop.errors import EncoderError, MissingExtraError
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.monitoring.worker import Worker
from rlhf_loop.ranking import Ranker
from rlhf_loop.registry.contest import compare_models
from rlhf_loop.registry.runs import runs
from rlhf_loop.registry.training_run import run_training
from rlhf_loop.reward import recipe_named
from rlhf_loop.store.interactions import record
from rlhf_loop.training import transformer
from rlhf_loop.training.comparison import predict
from rlhf_loop.training.data import JudgedAnswer, assemble, is_frozen, prompt_hash
from rlhf_loop.training.train import TrainingResult, _unheld, _unrated, train
from rlhf_loop.training.transformer import RatedCandidates, Reading, Tuning, forget, tuned_scores
from tests.encoders import tiny_encoders

TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not TORCH, reason="torch is not installed (extra [torch]); make tuning has it")
#: Sentences of the tiny encoder's few words: an answer is good if it says what the question asks for.
THINGS, PLACES = ("cat", "dog"), ("mat", "passage")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TextEncoder]:
    """Give encoders of eight numbers by their kind."""

    def loaded(kind: str) -> TextEncoder:
        folder = tmp_path_factory.mktemp(kind)
        tiny_encoders.write(folder / kind, kind)
        return load_encoder(Settings(encoder=str(folder / kind), cache_dir=folder / "cache"))

    return loaded


@pytest.fixture(scope="module")
def bert(tiny: Callable[[str], TextEncoder]) -> TextEncoder:
    return tiny("bert")


def examples() -> list[Example]:
    """Return twelve questions with four answers each, by the numbers in them no two of them the same."""
    found = []
    for number in range(12):
        thing, place = THINGS[number % 2], PLACES[number // 2 % 2]
        prompt = f"the {thing} sat on a {place} {number}"
        for rank, (what, rating) in enumerate((("cat", 5), ("dog", 1), ("a", 2), ("query", 4))):
            good = rating if thing == "cat" else 6 - rating
            # The last one is an answer to several questions.
            told = f"{what} on the {place}" if what == "query" else f"{what} on the {place} . {number} {rank}"
            found.append(Example(prompt, told, good, str(number), rank + 1))
        found.append(Example(prompt, f"query query {number}", None, str(number), 5))
    return found


def trained(encoder: TextEncoder, options: Tuning | None = None, **more: object) -> TrainingResult:
    of = more.pop("examples", None) or examples()
    return train(of, encoder=encoder, recipe="transformer", min_samples=10, tuning=options or Tuning(threads=1), **more)  # type: ignore[arg-type]


def layers(of: TrainingResult) -> TunedLayers:
    assert of.model.tuned is not None
    return of.model.tuned


def test_torch_is_named_where_it_is_missing(bert: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch the message says which extra brings it."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlhf-loop\[torch\]'"):
        trained(bert)


@needs_torch
def test_an_encoder_without_such_layers_is_named(tiny: Callable[[str], TextEncoder]) -> None:
    """Layers that cannot be trained here are an error that names the encoder."""
    encoder = tiny("mpnet")
    with pytest.raises(EncoderError, match=encoder.id):
        trained(encoder)


@needs_torch
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_what_serves_scores_as_what_was_trained(kind: str, tiny: Callable[[str], TextEncoder]) -> None:
    """The model, run without torch, gives held-out answers the very probabilities that the training reports."""
    encoder = tiny(kind)
    result = trained(encoder)
    held = np.isfinite(result.probability) & ~result.data.seen(result.fitted)
    assert held.sum() == len(result.data.row) - result.report.trained_on, "what it was fitted on is known by its hash"
    served = predict(result.model, result.data, held, encoder)
    assert held.sum() >= 4
    np.testing.assert_allclose(served[held], result.probability[held], atol=2e-3)
    assert result.report.documents
    assert result.report.documents.recurring
    assert result.report.documents.unseen is None, "the layers have seen these documents"
    assert layers(result).first == 1
    assert set(layers(result).tensors) == {
        name for name in tiny_encoders.bert() if name.startswith(("encoder.layer.1", "encoder.layer.2"))
    }


@needs_torch
def test_no_question_is_scored_by_layers_that_saw_its_ratings(bert: TextEncoder) -> None:
    """Other ratings of a question change the scores of others, and of its own answers and pairs not one."""
    questions, answers = 9, 4
    asked = [
        Question(f"the cat {number}", tuple(f"a mat {number} . {x}" for x in "ab.c")) for number in range(questions)
    ]
    pairs = [Question(each.prompt, each.responses[:2]) for each in asked]
    readings = Reading(), Reading()
    for reading, of in zip(readings, (asked, pairs), strict=True):
        reading.add(of, [[np.arange(1)] * len(each.responses) for each in of], bert)
    group = np.repeat(np.arange(questions), answers)
    held = group == 0

    def scores(rating: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = tuned_scores(
            RatedCandidates(np.arange(len(group)), rating, np.ones(len(group))),
            group,
            held,
            reading=readings[0],
            pairs=readings[1],
            pair_group=np.arange(questions),
            pair_held=np.arange(questions) == 0,
            encoder=bert,
            seed=0,
            options=Tuning(threads=1),
        )
        return found.candidates.reshape(questions, answers), found.pairs.reshape(questions, 2)

    usual = np.tile([5, 1, 2, 4], questions)
    before = scores(usual)
    assert not np.isnan(before[0]).any()
    for one in (0, 1, 5):
        # The same shares of correct answers, so that the folds are the same.
        changed = scores(np.where(group == one, np.tile([2, 4, 5, 1], questions), usual))
        same = [(old == new).all(axis=1) for old, new in zip(before, changed, strict=True)]
        assert same[0][one]
        assert same[1][one]
        assert same[0].all() == (one == 0), "what is held out teaches nothing, and all else teaches the others"
        assert (same[0] == same[1]).all()


@needs_torch
def test_a_seed_gives_one_result_and_less_at_once_the_same(bert: TextEncoder) -> None:
    """The same seed gives the same layers, another one others; half as many answers at once differ by rounding."""
    first, again, other = trained(bert), trained(bert), trained(bert, seed=1)
    assert layers(first).sha256 == layers(again).sha256 != layers(other).sha256
    half = trained(bert, Tuning(threads=1, at_once=4))
    np.testing.assert_allclose(half.probability, first.probability, atol=1e-3)
    assert np.abs(other.probability - first.probability).max() > 5e-3


@needs_torch
def test_an_adaptation_in_pieces_is_the_same(bert: TextEncoder) -> None:
    """Fewer questions and answers of a corpus that are read at a time change the result by rounding alone."""
    corpus = [(f"the {thing} {number}", f"a mat {number} . {thing}") for number in range(4) for thing in THINGS]
    whole, pieces = (layers(trained(bert, Tuning(threads=1, corpus=corpus, at_once=each))).tensors for each in (16, 1))
    plain = layers(trained(bert, Tuning(threads=1, at_once=1))).tensors

    def apart(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
        return float(np.mean([np.abs(one[name] - other[name]).mean() for name in one]))

    # The ratings are read in pieces as well, and Adam takes steps of one size however small a gradient is.
    assert apart(whole, pieces) < apart(whole, plain) / 5


@needs_torch
@pytest.mark.parametrize("steps", [1, 3, 5, 9])
def test_a_stopped_training_goes_on_where_it_was(bert: TextEncoder, tmp_path: Path, steps: int) -> None:
    """Stopped after any step, a second try takes only the steps since the last epoch, and ends with the same layers."""
    corpus = [("the cat sat", "a cat . the mat"), ("a dog sat", "the dog on a mat"), ("query", "passage . passage")]
    options = Tuning(threads=1, folder=tmp_path, corpus=corpus)
    whole = layers(trained(bert, replace(options, folder=None)))

    def stop(done: int, total: int) -> None:
        if total < 1000 and done == steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(bert, options, progress=stop)
    damaged = next(iter(tmp_path.glob("*.safetensors")), None)
    assert layers(trained(bert, options)).sha256 == whole.sha256
    if damaged is not None:
        damaged.write_bytes(damaged.read_bytes()[:100])
        assert layers(trained(bert, options)).sha256 == whole.sha256


@needs_torch
def test_a_state_that_cannot_be_kept_stops_nothing(
    bert: TextEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the disk takes no state, the training goes on, and the log says so."""
    (tmp_path / "file").write_text("no folder")
    result = trained(bert, Tuning(threads=1, folder=tmp_path / "file" / "tuning"))
    assert result.model.tuned is not None
    assert "Cannot keep the state of the tuning" in caplog.text


@needs_torch
def test_an_adaptation_needs_no_rating(bert: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the steps on a corpus, questions are nearer to their own answers, compared with others', than before."""
    # Large steps, as there are few, and ratings that count next to nothing.
    monkeypatch.setattr(transformer, "_RATE", 5e-3)
    pairs = [(f"the {thing} {place}", f"on a {thing} . {place}") for thing in THINGS for place in PLACES]
    asked = [Question(f"the cat sat {number}", ("a mat", "the dog", "passage", "query .")) for number in range(6)]
    reading = Reading()
    reading.add(asked, [[np.arange(1)] * 4] * 6, bert)

    def own_less_others(corpus: list[tuple[str, str]]) -> float:
        group = np.repeat(np.arange(6), 4)
        found = tuned_scores(
            RatedCandidates(np.arange(24), np.tile([5, 1, 2, 4], 6), np.full(24, 1e-12)),
            group,
            group == 0,
            reading=reading,
            pairs=Reading(),
            pair_group=np.empty(0, dtype=np.intp),
            pair_held=np.empty(0, dtype=np.bool_),
            encoder=bert,
            seed=0,
            options=Tuning(threads=1, corpus=corpus),
        )
        encoder = bert.tuned(found.layers)
        questions = encoder.encode_beginnings([question for question, _ in pairs], tokens=80)
        answers = encoder.encode_places([(answer, 0) for _, answer in pairs])
        near = questions @ answers.T
        return float(np.diag(near).mean() - near.mean())

    assert own_less_others(pairs) > own_less_others([]) + 0.01


@needs_torch
def test_a_measurement_out_of_fold_needs_no_last_fit(bert: TextEncoder) -> None:
    """Where nobody serves the layers, the scores are the same, and a fit on all ratings less is made."""
    asked = [Question(f"the cat sat {number}", ("a mat", "the dog", "passage", "query .")) for number in range(6)]
    reading, group = Reading(), np.repeat(np.arange(6), 4)
    reading.add(asked, [[np.arange(1)] * 4] * 6, bert)
    totals: list[int] = []

    def scores(options: Tuning) -> np.ndarray:
        return tuned_scores(
            RatedCandidates(np.arange(24), np.tile([5, 1, 2, 4], 6), np.ones(24)),
            group,
            np.zeros(24, dtype=np.bool_),
            reading=reading,
            pairs=Reading(),
            pair_group=np.empty(0, dtype=np.intp),
            pair_held=np.empty(0, dtype=np.bool_),
            encoder=bert,
            seed=0,
            options=options,
            progress=lambda _, total: totals.append(total),
        ).candidates

    np.testing.assert_array_equal(scores(Tuning(threads=1, serves=False)), scores(Tuning(threads=1)))
    assert totals[0] < totals[-1]


def rated_place(engine: Engine, folder: Path) -> Settings:
    """Store the ratings in the database; return the settings of a place that tunes a small encoder in this folder."""
    tiny_encoders.write(folder / "bert")
    record(engine, [Rating(each.prompt, each.response, each.rating, candidate_group=each.group) for each in examples()])
    return Settings(
        database_url=engine.url.render_as_string(hide_password=False),
        encoder=str(folder / "bert"),
        cache_dir=folder / "cache",
        model_path=folder / "models" / "reward_model.joblib",
        recipe="transformer",
    )


@needs_torch
def test_a_run_that_is_stopped_goes_on_and_leaves_a_version(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Stopped, it leaves its state and no model; the next one uses it, writes a version with layers, and clears up."""
    settings = rated_place(sqlite_engine, tmp_path)
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"question": "the dog sat", "answer": "a dog", "rating": 1.25}')
    import_ratings(sqlite_engine, labels, judge="m1")
    totals: list[int] = []

    def stop(done: int, total: int) -> None:
        totals.append(total)
        if len(set(totals)) > 1 and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(sqlite_engine, settings, min_samples=10, progress=stop)
    state = settings.models_folder / "tuning"
    assert list(state.iterdir())
    assert registry.versions(sqlite_engine) == []
    outcome = run_training(sqlite_engine, settings, min_samples=10)
    assert not state.exists()
    assert outcome.report.judge_labels == 1
    assert "- 1 answer with labels of judges" in registry.card_path(settings, outcome.version.version).read_text()
    loaded = registry.load(settings, outcome.version, encoder=load_encoder(settings).id)
    assert loaded.model.tuned is not None
    assert [(run.status, run.recipe) for run in runs(sqlite_engine)][-1] == ("failed", "transformer")
    assert "torch" in runs(sqlite_engine)[0].library_versions


@needs_torch
def test_a_worker_retrains_with_tuned_layers(
    sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RLHF_RECIPE is the recipe of its trainings; what they leave is compared, promoted and served as any other."""
    settings = rated_place(sqlite_engine, tmp_path)
    for name in ("database_url", "encoder", "cache_dir", "model_path", "recipe"):
        monkeypatch.setenv(f"RLHF_{name.upper()}", str(getattr(settings, name)))
    before = run_training(sqlite_engine, settings, recipe="passages", min_samples=10).version
    command = [sys.executable, "-m", "rlhf_loop", "train", "--min-samples", "10"]
    assert Worker(settings, retrain=command).once()
    after = registry.versions(sqlite_engine)[0]
    assert (after.recipe, before.recipe, len(after.weights_sha256 or "")) == ("transformer", "passages", 64)
    encoder = load_encoder(settings)
    contest = compare_models(sqlite_engine, settings, after.version, before.version, encoder=encoder)
    assert contest.answers > 0, "both have the same held-out questions"
    registry.promote(sqlite_engine, settings, after.version, actor="worker", force=True, reason="A test.")
    asked = Question("the cat sat on a mat 0", ("cat on the mat", "dog on the mat"))
    loaded = registry.load(settings, after, encoder=encoder.id).model
    kept = ranked(asked.prompt, list(asked.responses), ranker=Ranker(settings, encoder=encoder))
    (scores,) = loaded.score([asked], encoder)
    assert [of.score for of in sorted(kept, key=lambda of: of.index)] == pytest.approx(scores.tolist())


def test_neighbours_of_a_corpus_are_other_questions() -> None:
    """A question's other answers, as a document has several sections, are no neighbours; each has its turn."""
    angle = np.array([0.0, 0.0, 0.0, 0.3, 0.3, 0.5, 0.9, 1.2, 1.4, 1.5])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    same = np.array([0, 0, 0, 1, 1, 2, 3, 4, 5, 6])
    hoods = [transformer._nearest(vectors, same, one).tolist() for one in range(len(vectors))]
    assert hoods[:3] == [[0, 3, 5, 6, 7, 8], [1, 3, 5, 6, 7, 8], [2, 3, 5, 6, 7, 8]]
    assert hoods[3][:2] == [3, 5]
    assert hoods[4][:3] == [4, 5, 0]
    assert transformer._nearest(vectors[:3], same[:3], 1).tolist() == [1]


def test_what_is_judged_by_is_not_adapted_to() -> None:
    """Questions that are rated, and those that no training may be fitted on, are left out of a corpus."""
    data = assemble([Example("Is it rated?", "yes", 4, group="1"), Example("Or this?", "no", 1, group="2")])
    corpus = [("is it rated?", "yes"), ("Is it new?", "yes"), *((f"Number {number}?", "so") for number in range(200))]
    left = _unrated(Tuning(corpus=corpus), data, frozen_share=0.0).corpus
    assert left == corpus[1:]
    unfrozen = _unrated(Tuning(corpus=corpus), data, frozen_share=0.2).corpus
    asked = np.array([prompt_hash(question) for question, _ in unfrozen])
    assert 0 < len(unfrozen) < len(left)
    assert not is_frozen(asked, 0.2).any()


@needs_torch
def test_tuned_layers_and_a_cross_encoder_stand_beside_each_other(bert: TextEncoder) -> None:
    """The model has the columns of both, and what serves scores held-out answers as the training reports."""
    cross = QuickCross(lambda asked, passage: float(len(passage) % 7))
    encoder = copy.copy(bert)
    encoder._cross = cross
    result = trained(encoder)
    assert result.model.cross_encoder == "quick-cross"
    assert len(result.model.scorer.coef) == len(recipe_named("transformer", cross=True).feature_names()) == 41
    assert layers(result).sha256 == layers(trained(bert)).sha256, "they are tuned on the ratings alone"
    held = np.isfinite(result.probability) & ~result.data.seen(result.fitted)
    served = predict(result.model, result.data, held, encoder)
    np.testing.assert_allclose(served[held], result.probability[held], atol=2e-3)


def test_what_is_held_out_is_never_tuned_on_by_a_label() -> None:
    """Labels of judges on held-out and frozen questions, however these are spelt, are left out."""
    data = assemble([Example("Is it rated?", "yes", 4, group="1"), Example("Or this?", "no", 1, group="2")])
    held = data.prompt_hash == prompt_hash("Or this?")
    judged = [JudgedAnswer(f"Number {number}?", "so", 3.5) for number in range(200)]
    judged += [JudgedAnswer("IS IT  rated?", "no", 1.5), JudgedAnswer("or THIS?", "no", 4.5)]
    left = _unheld(Tuning(judged=judged), data, held, frozen_share=0.0).judged
    assert left == judged[:-1]
    left = _unheld(Tuning(judged=judged), data, held, frozen_share=0.2).judged
    assert 0 < len(left) < 200
    assert not is_frozen(np.array([prompt_hash(answer.prompt) for answer in left]), 0.2).any()
    assert _unheld(Tuning(), data, held, frozen_share=0.2).judged == []


@needs_torch
def test_labels_of_judges_tune_the_layers_alone(bert: TextEncoder) -> None:
    """They change the layers, on answers that are rated and on others; those on held-out questions change nothing."""
    plain = trained(bert)
    held = {each.prompt for each in examples()} - {
        each.prompt for each in examples() if np.isin(prompt_hash(each.prompt), plain.fitted)
    }
    assert held
    of_held = [JudgedAnswer(prompt, "cat on the mat", 4.5) for prompt in held]
    same = trained(bert, Tuning(threads=1, judged=of_held))
    assert layers(same).sha256 == layers(plain).sha256
    assert same.report.judge_labels == 0
    rated = next(each for each in examples() if each.prompt not in held and each.rating)
    for answers in ([JudgedAnswer("the dog sat", "a dog", 1.25)], [JudgedAnswer(rated.prompt, rated.response, 3.5)]):
        other = trained(bert, Tuning(threads=1, judged=[*answers, *of_held]))
        assert layers(other).sha256 != layers(plain).sha256
        assert other.report.judge_labels == 1
        assert prompt_hash(answers[0].prompt) in other.fitted
        assert (other.report.rated, other.report.trained_on) == (plain.report.rated, plain.report.trained_on)
        assert np.isfinite(other.probability).all() == np.isfinite(plain.probability).all()


@needs_torch
def test_no_question_is_scored_by_layers_that_saw_a_label_on_it(bert: TextEncoder) -> None:
    """Another label on an answer changes the scores of other questions, and of its own not one."""
    questions, answers = 9, 4
    told = [tuple(f"a mat {number} . {x}" for x in "ab.c") for number in range(questions)]
    asked = [Question(f"the cat {number}", responses) for number, responses in enumerate(told)]
    group = np.repeat(np.arange(questions), answers)
    reading = Reading()
    reading.add(asked, [[np.arange(1)] * answers for _ in asked], bert)
    reading.add([Question("the cat 3", ("a dog",)), Question("query", ("a cat",))], [[np.arange(1)]] * 2, bert)

    def scores(*label: float) -> np.ndarray:
        found = tuned_scores(
            RatedCandidates(np.arange(len(group)), np.tile([5, 1, 2, 4], questions), np.ones(len(group))),
            group,
            group == 0,
            reading=reading,
            pairs=Reading(),
            pair_group=np.empty(0, dtype=np.intp),
            pair_held=np.empty(0, dtype=np.bool_),
            encoder=bert,
            seed=0,
            options=Tuning(threads=1),
            judged=RatedCandidates(len(group) + np.arange(2), np.array(label), np.full(2, 0.5)),
            judged_group=np.array([3, -1]),
        )
        assert np.isnan(found.candidates[len(group) :]).all(), "nobody asks for these"
        return found.candidates[: len(group)].reshape(questions, answers)

    before = scores(4.5, 1.5)
    same = (scores(1.25, 1.5) == before).all(axis=1)
    assert same[3]
    assert not same.all()
    assert not (scores(4.5, 3.0) == before).all(axis=1).any()


def test_only_states_are_forgotten(tmp_path: Path) -> None:
    """What somebody else has in the folder stays, with the folder."""
    state, mine = tmp_path / f"{'0' * 32}.safetensors", tmp_path / "mine.safetensors"
    for file in (state, mine):
        file.write_bytes(b"x")
    forget(tmp_path)
    assert (state.exists(), mine.exists()) == (False, True)
    mine.unlink()
    forget(tmp_path)
    assert not tmp_path.exists()
