from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from forked_process import context

from rlhf_loop.domain import Question
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.encoders.tuned import TunedLayers
from rlhf_loop.errors import ModelFileError
from rlhf_loop.reward import RECIPES, RewardModel, model_file, recipe_named
from rlhf_loop.reward.classifier import Scorer
from rlhf_loop.reward.model_file import load, save, sum_file, weights_file, weights_of
from rlhf_loop.training.train import TrainingReport
from tools.noisy_layers import noisy

ENCODER = "an encoder"


def model(number: float = 1.0, *, recipe: str = "passages", tuned: TunedLayers | None = None) -> RewardModel:
    """A model that is known by its intercept."""
    size = len(recipe_named(recipe).feature_names())
    return RewardModel(
        recipe=recipe,
        recipe_version=recipe_named(recipe).version,
        tuned=tuned,
        encoder=ENCODER,
        scorer=Scorer(
            coef=np.random.default_rng(0).normal(size=size),
            intercept=number,
            low=np.full(size, -np.inf),
            high=np.ones(size),
            slope=1.5,
            offset=-0.5,
        ),
        card={"run_id": "r1", "metrics": {"auc": 0.9}},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reward_model.joblib"


def intercept(path: Path) -> float:
    return load(path, encoder=ENCODER).model.scorer.intercept


def sealed(path: Path, content: bytes) -> None:
    """Write a file with its right sum beside it."""
    path.write_bytes(content)
    sum_file(path).write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")


def resealed(path: Path, **changes: Any) -> None:
    """Change values of a saved model, and its sum with them; None takes a value out."""
    values = {**joblib.load(path), **changes}
    buffer = io.BytesIO()
    joblib.dump({name: value for name, value in values.items() if value is not None}, buffer)
    sealed(path, buffer.getvalue())


def values(scorer: Scorer | None) -> list[Any]:
    assert scorer is not None
    return list(asdict(scorer).values())


@pytest.mark.parametrize("recipe", RECIPES)
def test_round_trip(path: Path, recipe: str) -> None:
    """A saved model comes back with every number, under 50 KB, and save returns the sum of the file."""
    saved = model(recipe=recipe)
    saved = replace(saved, pointwise=replace(saved.scorer, intercept=0.5))
    total = save(saved, path)
    loaded = load(path, encoder=ENCODER)
    assert loaded.sha256 == total == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.version == f"{recipe}-{total[:12]}"
    assert replace(loaded.model, scorer=saved.scorer, pointwise=saved.pointwise) == saved
    for kept, read in ((saved.scorer, loaded.model.scorer), (saved.pointwise, loaded.model.pointwise)):
        assert [np.array_equal(*both) for both in zip(values(kept), values(read), strict=True)] == [True] * 6
    assert path.stat().st_size < 50_000


def test_a_trained_model_is_small_and_scores_the_same(
    path: Path, trained: tuple[RewardModel, TrainingReport], encoder: TextEncoder
) -> None:
    """A model from a training survives the file, and its scores do not change in the last bit."""
    question = Question("How do I treat a burn?", ("Cool it with water for 20 minutes.", "Burns are common."))
    save(trained[0], path)
    loaded = load(path, encoder=encoder.id).model
    assert (loaded.score([question], encoder)[0] == trained[0].score([question], encoder)[0]).all()
    assert path.stat().st_size < 50_000


def test_the_sum_is_what_sha256sum_reads(path: Path) -> None:
    """`sha256sum -c` in the folder of the model says that it is whole, and only then."""
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("sha256sum is not installed")
    save(model(), path)
    check = [tool, "-c", sum_file(path).name]
    assert subprocess.run(check, cwd=path.parent, capture_output=True).returncode == 0
    path.write_bytes(path.read_bytes() + b" ")
    assert subprocess.run(check, cwd=path.parent, capture_output=True).returncode == 1


def test_folders_are_made_and_names_may_be_foreign(tmp_path: Path) -> None:
    """A folder that is not there is made, and a name need not be ASCII."""
    path = tmp_path / "größe" / "modèle [1].joblib"
    save(model(2.0), path)
    assert intercept(path) == 2.0
    assert not list(path.parent.glob(".*joblib.?*[!k]"))  # but for the lock, no scratch file stays


def test_others_may_read(path: Path) -> None:
    """A service under another user can read the model and its sum."""
    save(model(), path)
    assert [file.stat().st_mode & 0o444 for file in (path, sum_file(path))] == [0o444, 0o444]


class Bomb:
    """What a malicious file would hold: unpickling it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("lines", ["", f"{'0' * 64}  reward_model.joblib\n", "no sum at all\n", None])
def test_what_has_not_its_sum_is_never_unpickled(path: Path, tmp_path: Path, lines: str | None) -> None:
    """A malicious file with a wrong sum, or with none, does not get to run its code."""
    target = tmp_path / "exploded"
    joblib.dump(Bomb(target), path)
    if lines is not None:
        sum_file(path).write_text(lines)
    with pytest.raises(ModelFileError, match="sha256"):
        load(path, encoder=ENCODER)
    assert not target.exists()
    joblib.load(path)
    assert target.exists()  # the bomb was a live one


def test_each_altered_byte_is_noticed(path: Path) -> None:
    """Whichever byte is altered, the file is refused, and the error has both sums."""
    save(model(), path)
    content = path.read_bytes()
    for index in range(0, len(content), 97):
        altered = bytearray(content)
        altered[index] ^= 1
        path.write_bytes(altered)
        with pytest.raises(ModelFileError, match=hashlib.sha256(content).hexdigest()):
            load(path, encoder=ENCODER)


def test_a_truncated_file_is_refused(path: Path) -> None:
    """Half a file is refused by its sum, and where even the sum was made to fit, as unreadable."""
    save(model(), path)
    half = path.read_bytes()[:300]
    path.write_bytes(half)
    with pytest.raises(ModelFileError, match="altered or damaged"):
        load(path, encoder=ENCODER)
    for content in (half, b""):
        sealed(path, content)
        with pytest.raises(ModelFileError, match="not a reward model"):
            load(path, encoder=ENCODER)


@pytest.mark.parametrize("foreign", [[1, 2], {"model": 1}, "text", None, np.arange(3), {"format": "other"}])
def test_a_foreign_pickle_is_refused(path: Path, foreign: object) -> None:
    """A file that holds something else is refused, although its sum is right."""
    buffer = io.BytesIO()
    joblib.dump(foreign, buffer)
    sealed(path, buffer.getvalue())
    with pytest.raises(ModelFileError, match="not a reward model"):
        load(path, encoder=ENCODER)


class Runs:
    """Unpickling it would run code."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._trace),)


def test_a_foreign_file_runs_nothing_even_under_a_right_sum(path: Path, tmp_path: Path) -> None:
    """Whoever can write both the file and its sum still cannot make it run code."""
    trace = tmp_path / "ran"
    buffer = io.BytesIO()
    joblib.dump({"format": "rlhf-loop reward model", "coef": Runs(trace)}, buffer)
    sealed(path, buffer.getvalue())
    with pytest.raises(ModelFileError, match="asks for"):
        load(path, encoder=ENCODER)
    assert not trace.exists()


@pytest.mark.parametrize("form", ["{sum} *{name}\n", "{sum}\n", "{upper}  {name}\n"])
def test_other_forms_of_a_sum_are_understood(path: Path, form: str) -> None:
    """Sums as other tools write them are sums too."""
    total = save(model(), path)
    sum_file(path).write_text(form.format(sum=total, upper=total.upper(), name=path.name))
    assert intercept(path) == 1.0


def _size() -> int:
    return len(RECIPES["passages"].feature_names())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format version 2"),
        ({"format_version": None}, "format_version"),
        ({"recipe": "magic"}, "recipe magic"),
        ({"recipe_version": 99}, "recipe passages 99"),
        ({"encoder": "another"}, "another, but an encoder is in use"),
        ({"coef": [0.0] * 3}, r"coef \(3,\)"),
        ({"low": [0.0] * 3}, r"low \(3,\)"),
        ({"low": [2.0] * _size()}, "above the high one"),
        ({"high": [np.nan] * _size()}, "above the high one"),
        ({"coef": [np.nan] * _size()}, "coefficients"),
        ({"coef": [np.inf] * _size()}, "coefficients"),
        ({"coef": "many"}, "not a whole reward model"),
        ({"coef": None}, "coef"),
        ({"slope": float("nan")}, "not finite"),
        ({"offset": float("-inf")}, "not finite"),
        ({"intercept": "much"}, "not a whole reward model"),
        ({"card": None}, "card"),
    ],
)
def test_what_does_not_fit_is_refused(path: Path, changes: dict[str, Any], message: str) -> None:
    """Another format, recipe or encoder, and numbers that cannot be used, are refused; the error says which."""
    save(model(), path)
    resealed(path, **changes)
    with pytest.raises(ModelFileError, match=message):
        load(path, encoder=ENCODER)


def test_there_is_no_file(path: Path) -> None:
    """Without a file the error says where it would be and how to make one."""
    with pytest.raises(ModelFileError, match=r"reward_model\.joblib\. Train a new one: rlhf-loop train"):
        load(path, encoder=ENCODER)


@pytest.mark.parametrize("which", ["model", "sum"])
def test_a_folder_in_its_place_is_an_error_of_ours(path: Path, which: str) -> None:
    """Where a folder stands in place of one of the files, the error is a ModelFileError."""
    save(model(), path)
    place = path if which == "model" else sum_file(path)
    place.unlink()
    place.mkdir()
    with pytest.raises(ModelFileError, match="Cannot read"):
        load(path, encoder=ENCODER)
    with pytest.raises(ModelFileError, match="RLHF_MODEL_PATH"):
        save(model(), path)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A place that cannot be written to is an error that names the setting."""
    (tmp_path / "file").touch()
    with pytest.raises(ModelFileError, match="RLHF_MODEL_PATH"):
        save(model(), tmp_path / "file" / "reward_model.joblib")


class FailingReplace:
    """`os.replace` that fails at its n-th call, as a full disk or a kill would have it."""

    def __init__(self, step: int) -> None:
        self.step = step
        self._replace = os.replace

    def __call__(self, source: Any, target: Any) -> None:
        self.step -= 1
        if self.step == 0:
            raise OSError(28, "No space left on device")
        self._replace(source, target)


@pytest.mark.parametrize(("step", "expected"), [(1, 1.0), (2, 1.0), (3, 2.0)])
def test_an_interrupted_save_leaves_a_model(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: int, expected: float
) -> None:
    """Whichever of the three steps fails, the old model or the new one can be loaded, and saved over."""
    save(model(1.0), path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", FailingReplace(step))
        with pytest.raises(ModelFileError, match="No space left"):
            save(model(2.0), path)
    assert intercept(path) == expected
    assert {file.name for file in path.parent.iterdir()} <= {path.name, sum_file(path).name, f".{path.name}.lock"}
    save(model(3.0), path)
    assert intercept(path) == 3.0
    assert len(sum_file(path).read_text().splitlines()) == 1


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_first_save_that_is_interrupted_leaves_none(path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Where there was no model, there is none or the new one, and another save works."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", FailingReplace(step))
        with pytest.raises(ModelFileError, match="No space left"):
            save(model(1.0), path)
    assert path.exists() == (step == 3)
    assert not path.exists() or intercept(path) == 1.0
    save(model(2.0), path)
    assert intercept(path) == 2.0


@pytest.mark.parametrize("step", [1, 2])
def test_an_altered_file_does_not_become_trusted(path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A save that was interrupted over an altered file leaves it refused."""
    save(model(1.0), path)
    path.write_bytes(path.read_bytes() + b"altered")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", FailingReplace(step))
        with pytest.raises(ModelFileError, match="No space left"):
            save(model(2.0), path)
    with pytest.raises(ModelFileError, match="altered or damaged"):
        load(path, encoder=ENCODER)


def test_threads_that_save_at_once(path: Path) -> None:
    """Of saves at the same time one wins, and the sum is its."""
    with ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(lambda number: save(model(number), path), range(24)))
    assert load(path, encoder=ENCODER).sha256 in sums
    assert len(sum_file(path).read_text().splitlines()) == 1


def save_several(path: Path, start: int) -> list[str]:
    return [save(model(float(number)), path) for number in range(start, start + 10)]


def test_processes_that_save_at_once(path: Path) -> None:
    """The same between processes."""
    with ProcessPoolExecutor(2, mp_context=context()) as pool:
        sums = [value for values in pool.map(save_several, [path, path], [0, 10]) for value in values]
    assert load(path, encoder=ENCODER).sha256 in sums
    assert len(sum_file(path).read_text().splitlines()) == 1


def test_readers_never_see_a_save(path: Path) -> None:
    """While models are saved one after the other, every load succeeds and none sees an older model than before."""
    save(model(0.0), path)
    done, seen = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            seen.append(intercept(path))

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            for number in range(1, 60):
                save(model(float(number)), path)
        finally:
            done.set()
        reader.result()
    assert seen == sorted(seen)
    assert intercept(path) == 59.0


def test_a_model_keeps_the_language_that_it_learned_in(
    tmp_path: Path, quick: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file says it where it is not English; ranking then reads by it, whatever the settings say."""
    seen: list[str] = []

    def features(self: object, questions: Sequence[Question], encoder: TextEncoder) -> np.ndarray:
        seen.append(encoder.language.code)
        return np.zeros((sum(len(question.responses) for question in questions), columns))

    monkeypatch.setattr(type(RECIPES["passages"]), "features", features)
    columns = len(RECIPES["passages"].feature_names())
    for language in ("en", "de"):
        save(replace(model(), language=language), tmp_path / "m.joblib")
        load(tmp_path / "m.joblib", encoder=ENCODER).model.score([Question("Was?", ("Das.",))], quick)
        assert (b"language" in (tmp_path / "m.joblib").read_bytes()) == (language == "de")
    assert seen == ["en", "de"]


# --- Tuned layers ----------------------------------------------------------------------------------------------------


def tuned(number: float = 1.0, *, encoder: str = ENCODER) -> RewardModel:
    """A model with layers of its own."""
    layers = noisy({"encoder.layer.1.a": np.full(3, number)}, encoder, first=1, width=4)
    return model(number, recipe="transformer", tuned=layers)


def beside(path: Path) -> Path:
    """Return the file with the layers of the model at `path`."""
    return weights_file(path, joblib.load(path)["weights"]["sha256"])


def test_tuned_layers_stand_beside_the_model(path: Path) -> None:
    """A model with tuned layers comes back with them; they are in a file that is named by its sum, for all to read."""
    saved = tuned()
    save(saved, path)
    loaded = load(path, encoder=ENCODER)
    assert saved.tuned is not None
    assert loaded.model.tuned is not None
    assert loaded.model.tuned.to_bytes() == saved.tuned.to_bytes()
    assert beside(path).name == f"{saved.tuned.sha256}.safetensors"
    assert hashlib.sha256(beside(path).read_bytes()).hexdigest() == weights_of(path) == saved.tuned.sha256
    assert beside(path).stat().st_mode & 0o777 == 0o644
    assert path.stat().st_size < 50_000
    save(model(), path)
    assert weights_of(path) is None
    assert load(path, encoder=ENCODER).model.tuned is None


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _huge(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(10 * 2**30)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (Path.unlink, "needs its tuned layers, and there is no"),
        (_flip, "altered or damaged"),
        (_huge, "altered or damaged"),
        (lambda file: file.write_bytes(b""), "altered or damaged"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "altered or damaged"),
        (lambda file: (file.unlink(), file.mkdir()), "cannot be read: Is a directory"),
    ],
    ids=["missing", "altered", "10 GB", "empty", "truncated", "a folder"],
)
def test_layers_that_are_not_those_of_the_model_are_refused(
    path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    """Whatever is wrong with the file beside it, the model is not loaded, and the message says what to do."""
    save(tuned(), path)
    spoil(beside(path))
    with pytest.raises(ModelFileError, match=said) as error:
        load(path, encoder=ENCODER)
    assert "rlhf-loop train" in str(error.value)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (None, "names no tuned layers"),
        ({"sha256": "../../../etc/passwd", "bytes": 1}, "not a valid file of such"),
        ({"sha256": "0" * 64, "bytes": 10**13}, "not a valid file of such"),
        ({"sha256": "0" * 64, "bytes": True}, "not a valid file of such"),
        ({"sha256": ["0"], "bytes": 5}, "not a valid file of such"),
        ("0" * 64, "not a valid file of such"),
        ({"sha256": "0" * 64, "bytes": 5}, "there is no"),
    ],
)
def test_names_of_layers_are_checked(path: Path, weights: object, said: str) -> None:
    """A model can name nothing but a file in its own folder, of a size that can be served."""
    save(tuned(), path)
    resealed(path, weights=weights)
    with pytest.raises(ModelFileError, match=said):
        load(path, encoder=ENCODER)


def test_layers_of_another_kind_are_refused(path: Path) -> None:
    """Layers with the right name that are not such layers, those of another encoder, and those of another recipe."""
    save(tuned(), path)
    named = joblib.load(path)["weights"]
    content = b"no layers"
    other = hashlib.sha256(content).hexdigest()
    weights_file(path, other).write_bytes(content)
    resealed(path, weights={"sha256": other, "bytes": len(content)})
    with pytest.raises(ModelFileError, match="not whole"):
        load(path, encoder=ENCODER)
    save(tuned(encoder="another"), path)
    with pytest.raises(ModelFileError, match="are those of the encoder another, and not of an encoder"):
        load(path, encoder=ENCODER)
    save(model(), path)
    resealed(path, weights=named)
    with pytest.raises(ModelFileError, match="of recipe passages and names tuned layers"):
        load(path, encoder=ENCODER)


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("old", [model(5.0), tuned(5.0)], ids=["small", "tuned"])
def test_model_is_old_or_new_at_each_step(
    path: Path, old: RewardModel, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whichever step a save ends, killed or the disk full, the model that is there is whole, with its layers."""
    save(old, path)
    write, steps = model_file.write_whole, iter(range(10))

    def full(*args: Any, **options: Any) -> None:
        if next(steps) == step:
            raise OSError(28, "No space left on device")
        write(*args, **options)

    monkeypatch.setattr(model_file, "write_whole", full)
    with pytest.raises(ModelFileError, match="No space left on device"):
        save(tuned(6.0), path)
    loaded = load(path, encoder=ENCODER).model
    expected = tuned(6.0) if step == 3 else old
    assert loaded.scorer.intercept == expected.scorer.intercept
    assert (loaded.tuned and loaded.tuned.sha256) == (expected.tuned and expected.tuned.sha256)
