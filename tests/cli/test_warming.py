from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer

from rlhf_loop import sample
from rlhf_loop.cli import main, warming
from rlhf_loop.cli.warming import warm
from rlhf_loop.config import Settings
from rlhf_loop.encoders import DIMENSION, Shape, TextEncoder, Vectors
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.errors import EncoderError, ImportFileError, ModelFileError
from rlhf_loop.ranking import Ranker, rerank_candidates
from rlhf_loop.reward import RECIPES, RewardModel
from rlhf_loop.reward.classifier import Scorer
from rlhf_loop.reward.model_file import save

ROWS = [json.loads(line) for line in sample.RATINGS_FILE.read_text("utf-8").splitlines()]
ANSWERS = [row["ai_response"] for row in ROWS]


class CountingRuntime:
    """Makes up vectors, and remembers for which texts."""

    id = "counting"
    shape = Shape()

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.asked += texts
        vectors = np.ones((len(texts), DIMENSION), dtype=np.float32)
        vectors[:, 0] = [len(text) for text in texts]
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


@pytest.fixture
def runtime() -> CountingRuntime:
    return CountingRuntime()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(model_path=tmp_path / "reward_model.joblib", cache_dir=tmp_path / "cache")


@pytest.fixture
def encoder(runtime: CountingRuntime, tokenizer: Tokenizer, settings: Settings) -> TextEncoder:
    return TextEncoder(runtime, tokenizer, VectorCache(settings.cache_dir / "vectors.db"))


def put_live(settings: Settings, recipe: str) -> None:
    """Save a model of the recipe that gives everything the same score."""
    nothing = np.zeros(len(RECIPES[recipe].feature_names()))
    save(RewardModel.of(Scorer(nothing, 0.0, nothing, nothing), recipe=recipe, encoder="counting"), settings.model_path)


@pytest.mark.parametrize("recipe", RECIPES)
def test_after_warming_nothing_is_computed(
    recipe: str, settings: Settings, encoder: TextEncoder, runtime: CountingRuntime
) -> None:
    """Whatever the live recipe, ranking the answers to the questions of the file needs no call of the encoder."""
    put_live(settings, recipe)
    report = warm(sample.RATINGS_FILE, settings, encoder=encoder)
    assert report.answers == len(ROWS)
    assert report.new > 0
    runtime.asked.clear()
    ranker = Ranker(settings, encoder=encoder)
    for row in ROWS[::4]:
        answers = [other["ai_response"] for other in ROWS if other["user_prompt"] == row["user_prompt"]]
        assert len(rerank_candidates(row["user_prompt"], answers, ranker=ranker)) == len(answers)
    assert runtime.asked == []


@pytest.mark.parametrize("name", ["answers.txt", "answers.TXT.gz", "answers"])
def test_answers_alone(
    name: str, settings: Settings, encoder: TextEncoder, runtime: CountingRuntime, tmp_path: Path
) -> None:
    """A text file has an answer a line; ranking them for any question computes what belongs to the question only."""
    path = tmp_path / name
    content = ("\ufeff" + "\r\n\n".join(ANSWERS[:100]) + "\n").encode()
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert warm(path, settings, format=None if "." in name else "txt", encoder=encoder).answers == 100
    put_live(settings, "passages")
    runtime.asked.clear()
    rerank_candidates("Is it contagious?", ANSWERS[:100], ranker=Ranker(settings, encoder=encoder))
    assert runtime.asked == ["Is it contagious?", "contagious"]


def test_again_everything_is_known(settings: Settings, encoder: TextEncoder, runtime: CountingRuntime) -> None:
    """A file that was warmed before is looked up and not computed, and the report says so."""
    first = warm(sample.RATINGS_FILE, settings, encoder=encoder)
    count = len(runtime.asked)
    second = warm(sample.RATINGS_FILE, settings, encoder=encoder)
    assert len(runtime.asked) == count
    assert (second.new, second.known) == (0, first.new + first.known)
    assert second.seconds > 0


def test_a_stop_keeps_what_is_done(settings: Settings, encoder: TextEncoder, runtime: CountingRuntime) -> None:
    """Ctrl-C ends the warming; the next one starts where it stopped."""

    def stop(done: int, size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        warm(sample.RATINGS_FILE, settings, encoder=encoder, progress=stop)
    done = list(runtime.asked)
    assert done
    runtime.asked.clear()
    warm(sample.RATINGS_FILE, settings, encoder=encoder)
    assert runtime.asked
    assert set(runtime.asked) & set(done) == set()


def test_progress_reaches_the_end(settings: Settings, encoder: TextEncoder) -> None:
    """The progress counts bytes up to the size of the file, chunk by chunk."""
    seen: list[tuple[int, int]] = []
    warm(sample.RATINGS_FILE, settings, encoder=encoder, progress=lambda done, size: seen.append((done, size)))
    size = sample.RATINGS_FILE.stat().st_size
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)


def test_columns_by_other_names(settings: Settings, encoder: TextEncoder, tmp_path: Path) -> None:
    """Columns are found and mapped as in an import; no rating is needed; a row without an answer is left out."""
    path = tmp_path / "answers.csv"
    path.write_text("frage,text\nWhat is it?,A cold.\nWhat is it?,\n,A cough.\n")
    report = warm(path, settings, columns={"user_prompt": "frage"}, encoder=encoder)
    assert (report.answers, report.invalid_count) == (1, 2)
    assert [row.line for row in report.invalid] == [3, 4]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", b"", "has no answer that can be used"),
        ("blank.txt", b"\n \n", "has no answer"),
        ("latin.txt", "größe".encode("latin-1"), r"1 invalid row.*line 1: byte 3 of the line is not UTF-8"),
        ("cut.txt.gz", gzip.compress(b"A text that is cut.\n" * 100, mtime=0)[:-9], "damaged"),
        ("answers.csv", b"a,b\n1,2\n", "has no column for user_prompt.*--column"),
        ("answers.docx", b"", "is a document, and ratings are rows"),
        ("pointer.txt", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
    ],
)
def test_a_bad_file_is_refused(
    name: str, content: bytes, message: str, settings: Settings, encoder: TextEncoder, tmp_path: Path
) -> None:
    """A file that cannot be used is an error that names it and says what is wrong."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImportFileError, match=message):
        warm(tmp_path / name, settings, encoder=encoder)


def test_a_file_that_is_not_there(settings: Settings, encoder: TextEncoder, tmp_path: Path) -> None:
    """A missing file is an error with its name."""
    with pytest.raises(ImportFileError, match=r"none\.txt.*cannot be read"):
        warm(tmp_path / "none.txt", settings, encoder=encoder)


def test_text_in_another_encoding(settings: Settings, encoder: TextEncoder, tmp_path: Path) -> None:
    """What Windows calls Unicode is read as well."""
    (tmp_path / "a.txt").write_text("Größe.\nFarbe.\n", encoding="utf-16")
    assert warm(tmp_path / "a.txt", settings, encoder=encoder).answers == 2


def test_text_has_no_columns(settings: Settings, encoder: TextEncoder, tmp_path: Path) -> None:
    """A column of a text file is refused."""
    with pytest.raises(ImportFileError, match="no columns"):
        warm(tmp_path / "answers.txt", settings, columns={"user_prompt": "a"}, encoder=encoder)


def test_answers_alone_do_not_help_the_joint_recipe(settings: Settings, encoder: TextEncoder, tmp_path: Path) -> None:
    """Where question and answer are embedded as one text, a file of answers is refused."""
    put_live(settings, "joint")
    (tmp_path / "answers.txt").write_text("An answer.\n")
    with pytest.raises(ImportFileError, match=r"joint.*user_prompt"):
        warm(tmp_path / "answers.txt", settings, encoder=encoder)


def test_a_damaged_model_is_an_error(settings: Settings, encoder: TextEncoder) -> None:
    """A live model that cannot be trusted stops the warming: nobody knows what it would look up."""
    settings.model_path.write_bytes(b"damaged")
    with pytest.raises(ModelFileError):
        warm(sample.RATINGS_FILE, settings, encoder=encoder)


def test_only_the_first_bad_rows_are_listed(settings: Settings, encoder: TextEncoder, tmp_path: Path) -> None:
    """All invalid rows are counted, the first are listed."""
    path = tmp_path / "answers.txt"
    path.write_bytes(b"good\n" + b"\xff\n" * 200)
    report = warm(path, settings, encoder=encoder)
    assert (report.answers, report.invalid_count, len(report.invalid)) == (1, 200, warming.LISTED_ROWS)


def test_the_command(encoder_cache: Path, model_folder: Path, tmp_path: Path) -> None:
    """`rlhf-loop warm` says how many texts were new or known, and lists what it left out."""
    path = tmp_path / "answers.csv"
    path.write_text("question,answer\nWhat is warmed?,This answer is warmed by the command.\nAnd this?,\n")
    environment = {
        "RLHF_CACHE_DIR": str(encoder_cache),
        "RLHF_ENCODER_THREADS": "1",
        "RLHF_ENCODER_PATH": str(model_folder),
        "RLHF_MODEL_PATH": str(tmp_path / "none.joblib"),
    }
    first, second = (CliRunner().invoke(main, ["warm", str(path)], env=environment) for _ in range(2))
    assert first.exit_code == second.exit_code == 0
    assert first.stdout.startswith("1 answer: 4 texts new, 0 known, in ")
    assert "1 invalid row left out" in first.stdout
    assert first.stderr.startswith("line 3: ai_response")
    assert second.stdout.startswith("1 answer: 0 texts new, ")


def test_ctrl_c_of_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C says that what is done is kept, and ends with the exit code of an interrupt."""

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(warming, "warm", interrupted)
    stopped = CliRunner().invoke(main, ["warm", str(tmp_path / "any.txt")])
    assert stopped.exit_code == 130
    assert "is kept" in stopped.stderr


def test_a_cache_that_keeps_nothing_is_no_success(settings: Settings, encoder: TextEncoder, tmp_path: Path) -> None:
    """Warming is for the cache: one that cannot be written is an error, although serving would go on without it."""
    (settings.cache_dir / "vectors.db").mkdir(parents=True)
    (tmp_path / "answers.txt").write_text("Bread and butter.\n", encoding="utf-8")
    with pytest.raises(EncoderError, match=r"does not keep what it is given.*RLHF_CACHE_DIR"):
        warm(tmp_path / "answers.txt", settings, encoder=encoder)
