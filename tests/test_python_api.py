from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rlhf_loop
from rlhf_loop import (
    Candidate,
    Ranker,
    Rating,
    RlhfLoopError,
    Settings,
    compare_models,
    export_ratings,
    import_ratings,
    model_versions,
    open_database,
    promote_model,
    rate,
    record,
    rerank_candidates,
    rollback_model,
    sample,
    train,
)
from rlhf_loop.encoders import TextEncoder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture
def settings(tmp_path: Path, encoder_cache: Path) -> Settings:
    return Settings(
        database_url=f"sqlite:///{tmp_path / 'rlhf.db'}",
        model_path=tmp_path / "reward_model.joblib",
        cache_dir=encoder_cache,
    )


@pytest.mark.slow
def test_the_loop_in_python(settings: Settings, encoder: TextEncoder, tmp_path: Path) -> None:
    """Ratings in, more by hand, two models, compared, promoted and rolled back, ratings out, all by exported names."""
    database = open_database(settings.database_url)
    assert import_ratings(database, str(sample.RATINGS_FILE)).added == 200
    (answer,) = record(database, [Rating("What helps against hiccups?", "Hold your breath.", source="shop")])
    assert rate(database, answer, rating=4, reviewer="anna") == 4

    first = train(database, settings, encoder=encoder)
    assert first.live
    second = train(database, settings, encoder=encoder, recipe="joint", seed=1)
    assert [each.version for each in model_versions(database)] == [second.version.version, first.version.version]
    nameless: Any = None
    with pytest.raises(ValueError, match="The actor None is not a valid name"):
        promote_model(database, settings, second.version, actor=nameless)
    with pytest.raises(ValueError, match=r"None is not a valid version\. Pass its name"):
        promote_model(database, settings, nameless, actor="anna")
    seen = list[tuple[int, int]]()
    contest = compare_models(
        database, settings, 2, first.version.version, encoder=encoder, progress=lambda *done: seen.append(done)
    )
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert (contest.first.version, contest.second.version) == (second.version.version, first.version.version)
    assert contest.questions > 0

    promote_model(database, settings, second.version, actor="anna", force=True, reason="To see it.")
    assert Ranker(settings, encoder=encoder).model_version == second.version.version
    rollback_model(database, settings, actor="anna")
    ranker = Ranker(settings, encoder=encoder)
    assert ranker.model_version == first.version.version
    texts = [candidate["text"] for candidate in sample.CANDIDATES]
    assert rerank_candidates(sample.QUESTION, texts, ranker=ranker)[0]["text"] == texts[3]
    assert ranker.ranking(sample.QUESTION, [Candidate(text) for text in texts]).candidates[0].position == 3
    assert export_ratings(database, str(tmp_path / "all.csv")) == 201
    with pytest.raises(RlhfLoopError, match="no version 'nine'"):
        compare_models(database, settings, "nine", "1", encoder=encoder)
    database.dispose()


def test_names_hide_no_module() -> None:
    """No exported name is one of a module: whoever imported that would change what the name means."""
    folder = Path(rlhf_loop.__file__).parent
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert modules & set(rlhf_loop.__all__) == set()


def test_names_are_listed_and_others_are_missed() -> None:
    """Editors see all names, also before their first use; an unknown one is an error like any other."""
    assert set(rlhf_loop.__all__) <= set(dir(rlhf_loop))
    with pytest.raises(AttributeError, match="module 'rlhf_loop' has no attribute 'trian'"):
        _ = rlhf_loop.trian  # type: ignore[attr-defined]


def test_a_name_costs_only_what_it_needs() -> None:
    """Whoever records answers waits for no library that trains."""
    code = "import sys; from rlhf_loop import open_database, record; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"sqlalchemy"} <= set(loaded)
    assert {"numpy", "sklearn", "onnxruntime"} & set(loaded) == set()


def test_the_ten_lines_are_typed() -> None:
    """README's ten lines are those that `make lint` checks with `mypy --strict`, beside a name that is misspelt."""
    (lines,) = re.findall(r"^```python\n(from rlhf_loop import Rating.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert sum(bool(line.strip()) for line in lines.splitlines()) <= 12
    assert lines in (ROOT / "tests" / "typed_lines.py").read_text("utf-8")
    assert re.search(
        r"^\t\$\(BIN\)/mypy .*tests/typed_lines\.py$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE
    )


def test_settings_are_values(settings: Settings) -> None:
    """Another database or model is a copy of the settings, as with any dataclass."""
    other = replace(settings, model_path=Path("other.joblib"))
    assert (other.database_url, other.model_path) == (settings.database_url, Path("other.joblib"))
