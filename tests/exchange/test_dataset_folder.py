from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from databases import sqlite_database
from patience import PATIENCE_S
from sqlalchemy import Engine

from rlhf_loop.cli import main
from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.dataset import DatasetOptions, export_dataset, split_of
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.store.engine import make_engine, transaction
from rlhf_loop.store.interactions import put_preference, rate, record
from rlhf_loop.training import data as training_data

QUESTIONS = 60
# What `datasets` finds in a folder, in a process of its own: it takes a second to load, and would fetch what it lacks.
LOADER = """
import json, sys
from datasets import get_dataset_config_names, load_dataset
found = {}
for name in get_dataset_config_names(sys.argv[1]):
    every = load_dataset(sys.argv[1], name)
    found[name] = {
        split: {"rows": part.num_rows, "features": {key: str(kind) for key, kind in part.features.items()}}
        for split, part in every.items()
    }
found["default"] = sorted(load_dataset(sys.argv[1])["train"].column_names)
print(json.dumps(found))
"""


def filled(engine: Engine, *, questions: int = QUESTIONS) -> None:
    """Two rated answers to each question, one unrated; a preference, a correction, an end user."""
    ratings = [
        Rating(
            f"Frage {n}? 🙂", f"{text} {n}", source="s", external_id=f"ticket-{n}-{text}", candidate_group=f"case-{n}"
        )
        for n in range(questions)
        for text in ("gut", "schlecht", "offen")
    ]
    ids = record(engine, ratings)
    for place in range(0, len(ids), 3):
        rate(engine, ids[place], reviewer="ann@example.org", rating=5, comment="Ja.")
        rate(engine, ids[place + 1], reviewer="ann@example.org", rating=1, correction="Besser.")
    rate(engine, ids[0], reviewer="visitor:1", rating=2, role=ReviewerRole.END_USER)
    with transaction(engine) as connection:
        put_preference(connection, ids[0], ids[2], reviewer="ann@example.org")


def rows(folder: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a configuration, by split."""
    return {file.name.split("-")[0]: pq.read_table(file).to_pylist() for file in sorted((folder / name).iterdir())}


def prompts(parts: Sequence[dict[str, Any]]) -> set[str]:
    return {row.get("user_prompt") or row["prompt"] for row in parts}


@pytest.fixture(autouse=True)
def encoder_at_hand(monkeypatch: pytest.MonkeyPatch, quick: TextEncoder) -> None:
    """An encoder that need not be loaded for each export."""
    monkeypatch.setattr("rlhf_loop.exchange.dataset.load_encoder", lambda settings: quick)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ratings"


@pytest.mark.slow
def test_the_datasets_library_reads_it(sqlite_engine: Engine, folder: Path) -> None:
    """All configurations and splits, with TRL's columns and their types; nothing is fetched, nothing warned of."""
    if importlib.util.find_spec("datasets") is None and not os.environ.get("CI"):
        pytest.skip("datasets is not installed, so there is nothing to load the folder with")
    filled(sqlite_engine)
    export_dataset(sqlite_engine, folder)
    place = {**os.environ, "HF_HOME": str(folder.parent / "home"), "HF_HUB_OFFLINE": "1"}
    place["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOADER, str(folder)],
        capture_output=True,
        text=True,
        env=place,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = json.loads(done.stdout)
    assert sorted(found) == ["default", "preference", "ratings", "unpaired"]
    assert "user_prompt" in found["default"]
    for name in ("ratings", "preference", "unpaired"):
        assert list(found[name]) == ["train", "validation", "test"]
    text = "Value('string')"
    # As https://huggingface.co/docs/trl/dataset_formats has them.
    assert found["preference"]["train"]["features"] == {"prompt": text, "chosen": text, "rejected": text}
    assert found["unpaired"]["train"]["features"] == {"prompt": text, "completion": text, "label": "Value('bool')"}
    assert found["ratings"]["train"]["features"]["rating"] == "Value('int64')"
    assert found["ratings"]["train"]["features"]["created_at"] == "Value('timestamp[us, tz=UTC]')"
    # Three answers to each question, one of them with two reviews.
    assert sum(part["rows"] for part in found["ratings"].values()) == 3 * QUESTIONS + 1
    assert sum(part["rows"] for part in found["unpaired"].values()) == 2 * QUESTIONS
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"| `unpaired` | {found['unpaired']['train']['rows']} |" in card


def test_a_conversation_has_messages(engine: Engine, folder: Path) -> None:
    """TRL's other form: lists of messages with a role and a content."""
    filled(engine, questions=4)
    export_dataset(engine, folder, options=DatasetOptions(conversational=True))
    [first, *_] = [row for part in rows(folder, "unpaired").values() for row in part]
    assert [message["role"] for message in (*first["prompt"], *first["completion"])] == ["user", "assistant"]


def test_a_question_is_in_one_split_and_stays_there(engine: Engine, folder: Path) -> None:
    """In all configurations, and after more questions have come; what is frozen is in the test split."""
    filled(engine)
    export_dataset(engine, folder)
    before = {split: prompts(part) for split, part in rows(folder, "data").items()}
    assert set.union(*before.values()) == {f"Frage {n}? 🙂" for n in range(QUESTIONS)}
    assert sum(map(len, before.values())) == QUESTIONS
    for name in ("preference", "unpaired"):
        for split, part in rows(folder, name).items():
            assert prompts(part) <= before[split]
    record(engine, [Rating(f"Neu {n}?", "a") for n in range(40)])
    export_dataset(engine, folder)
    after = {split: prompts(part) for split, part in rows(folder, "data").items()}
    assert all(before[split] <= after[split] for split in before)
    assert split_of([" FRAGE 1? 🙂"]) == split_of(["Frage 1? 🙂"])


def test_about_one_question_in_five_is_for_tests() -> None:
    """And one in ten for validation; no frozen question is anywhere else."""
    found = split_of(f"Question {n}?" for n in range(5000))
    assert 0.18 < found.count("test") / 5000 < 0.22
    assert 0.08 < found.count("validation") / 5000 < 0.12
    assert max(share for _, share in training_data.STEPS) == 0.20


def test_nobody_is_named(engine: Engine, folder: Path) -> None:
    """Raters, ids and groups have pseudonyms: with a key the same each time, without one new ones; unless asked."""
    filled(engine, questions=4)

    def exported(**options: Any) -> list[dict[str, Any]]:
        export_dataset(engine, folder, options=DatasetOptions(**options))
        return [row for part in rows(folder, "data").values() for row in part]

    first, again, other = exported(key="k"), exported(key="k"), exported()
    text = str(first)
    assert not any(name in text for name in ("ann@", "visitor", "ticket", "case-"))
    assert first == again
    raters = [{row["reviewer"] for row in found if row["reviewer"]} for found in (first, other)]
    assert [len(names) for names in raters] == [2, 2]
    assert not raters[0] & raters[1]
    # Who said what of which answer can still be told.
    groups = {(row["candidate_group"], row["user_prompt"]) for row in first}
    assert len(groups) == len({group for group, _ in groups}) == 4
    assert {row["reviewer"] for row in exported(names=True)} == {None, "ann@example.org", "visitor:1"}
    assert "as they are in the database" in (folder / "README.md").read_text(encoding="utf-8")


def test_what_goes_out_with_names_comes_back(sqlite_engine: Engine, folder: Path) -> None:
    """The ratings are files of one's own; an import of them changes nothing."""
    filled(sqlite_engine, questions=6)
    export_dataset(sqlite_engine, folder, options=DatasetOptions(names=True))
    for file in (folder / "data").iterdir():
        report = import_ratings(sqlite_engine, file)
        assert (report.added, report.updated, report.invalid_count) == (0, 0, 0)


def test_nothing_to_write(sqlite_engine: Engine, folder: Path) -> None:
    """An empty database makes a card without configurations."""
    assert [config.rows for config in export_dataset(sqlite_engine, folder)] == [0, 0, 0]
    assert "configs:" not in (folder / "README.md").read_text(encoding="utf-8")


def test_it_replaces_its_own_and_nothing_else(sqlite_engine: Engine, folder: Path) -> None:
    """An earlier export or an empty folder; a folder of somebody else's and a file stay as they are."""
    filled(sqlite_engine, questions=1)
    folder.mkdir()
    for _ in range(2):
        export_dataset(sqlite_engine, folder)
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
    others = folder.parent / "others"
    others.mkdir()
    (others / "README.md").write_text("mine")
    with pytest.raises(ImportFileError, match="not from an earlier export"):
        export_dataset(sqlite_engine, others)
    with pytest.raises(ImportFileError, match="is a file, and this format is a folder"):
        export_dataset(sqlite_engine, others / "README.md")
    assert (others / "README.md").read_text() == "mine"
    with pytest.raises(ImportFileError, match="cannot be written"):
        export_dataset(sqlite_engine, folder.parent / "no" / "such")


def test_what_somebody_added_stays(sqlite_engine: Engine, folder: Path) -> None:
    """Other files, a clone's folder, the licence in the card's first lines, a text after its end."""
    export_dataset(sqlite_engine, folder)
    (folder / "LICENSE").write_text("CC BY 4.0")
    (folder / ".git" / "refs").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (folder / "data").mkdir()
    (folder / "data" / "notes.txt").write_text("mine")
    (folder / "data" / "train-00001-of-00002.parquet").write_text("of an earlier export")
    (folder / "link").symlink_to("LICENSE")
    card = folder / "README.md"
    ours = card.read_text(encoding="utf-8")
    assert "None is set." in ours
    edited = ours.replace("---\n", "---\nlicense: cc-by-4.0\nlanguage:\n- de\n", 1).replace("- rlhf\n", "- medical\n")
    card.write_text(edited + "\n## Mine\n\nCollected in Graz 🙂.\n", encoding="utf-8")
    filled(sqlite_engine)
    for _ in range(2):
        export_dataset(sqlite_engine, folder)
        assert (folder / "LICENSE").read_text() == (folder / "link").read_text() == "CC BY 4.0"
        assert (folder / "link").is_symlink()
        assert (folder / ".git" / "HEAD").read_text() == "ref: refs/heads/main"
        assert (folder / ".git" / "refs").is_dir()
        assert sorted(path.name for path in (folder / "data").iterdir()) == [
            "notes.txt",
            *(f"{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")),
        ]
        found = card.read_text(encoding="utf-8")
        header = yaml.safe_load(found.split("---\n")[1])
        assert (header["license"], header["language"]) == ("cc-by-4.0", ["de"])
        assert header["tags"] == ["medical", "human-feedback", "reward-model"]
        assert [config["config_name"] for config in header["configs"]] == ["ratings", "preference", "unpaired"]
        assert found.endswith("-->\n\n## Mine\n\nCollected in Graz 🙂.\n")
        assert "None is set." not in found


@pytest.mark.parametrize("moment", ["while it was written", "between two names"])
def test_after_one_that_was_killed(sqlite_engine: Engine, folder: Path, moment: str) -> None:
    """The next one finds the earlier folder again, with what somebody added, and takes away what was begun."""
    export_dataset(sqlite_engine, folder)
    (folder / "LICENSE").write_text("CC BY 4.0")
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    begun = folder.with_name(f".ratings.{done.stdout.strip()}.tmp")
    begun.mkdir()
    (begun / "README.md").write_text("half")
    if moment == "between two names":
        folder.rename(begun.with_suffix(".old"))
    filled(sqlite_engine, questions=1)
    export_dataset(sqlite_engine, folder)
    assert (folder / "LICENSE").read_text() == "CC BY 4.0"
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".ratings")] == []


def test_one_that_fails_leaves_the_earlier_one(folder: Path, tmp_path: Path) -> None:
    """Whatever goes wrong on the way: the folder that was there is there as it was."""
    engine = make_engine(sqlite_database(tmp_path / "a.db"))
    filled(engine, questions=1)
    export_dataset(engine, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_dataset(engine, folder, progress=stop)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".ratings")] == []
    engine.dispose()


def test_the_command(tmp_path: Path) -> None:
    """It says what it wrote, and how long the pseudonyms last."""
    url = sqlite_database(tmp_path / "a.db")
    engine = make_engine(url)
    filled(engine, questions=3)
    engine.dispose()
    arguments = ["ratings", "export", str(tmp_path / "out"), "--format", "hf-dataset"]
    result = CliRunner().invoke(main, arguments, env={"RLHF_DATABASE_URL": url})
    assert result.exit_code == 0
    assert result.output.startswith("ratings: 10 rows (")
    assert "of this export only. Set RLHF_SECRET_KEY" in result.output
    key = {"RLHF_DATABASE_URL": url, "RLHF_SECRET_KEY": "0123456789abcdef0123456789abcdef"}
    assert "of this export only" not in CliRunner().invoke(main, arguments, env=key).output
