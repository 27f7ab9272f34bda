"""`rlhf-loop index` as a user meets it: what it says, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from loopback import json_page, site

from rlhf_loop.cli import main


@pytest.fixture(params=["lancedb", "pgvector"])
def environ(request: pytest.FixtureRequest, tmp_path: Path, model_folder: Path, encoder_cache: Path) -> dict[str, str]:
    """The settings of each vector database, as environment variables."""
    url = "sqlite://" if request.param == "lancedb" else request.getfixturevalue("empty_postgres_url")
    return {
        "RLHF_DATABASE_URL": url,
        "RLHF_INDEX_PATH": str(tmp_path / "index"),
        "RLHF_ENCODER_PATH": str(model_folder),
        "RLHF_CACHE_DIR": str(encoder_cache),
        "RLHF_ENCODER_THREADS": "1",
    }


def run(environ: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(main, ["index", *arguments], env=environ)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "facts.jsonl"
    rows = [{"text": f"Fact {number}.", "title": "A title", "set": "half"} for number in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_add_list_delete(environ: dict[str, str], file: str) -> None:
    """A file goes in once, is listed under its name, and goes out by it."""
    assert run(environ, "list").stdout == "The index is empty. Fill it with: rlhf-loop index add PATH...\n"
    first = run(environ, "add", file)
    assert first.exit_code == 0, first.output
    assert first.stdout.startswith("3 documents: 3 new (3 sections, 3 passages), 0 known, in ")
    assert run(environ, "add", file).stdout.startswith("3 documents: 0 new (0 sections, 0 passages), 3 known, in ")
    assert run(environ, "add", file, "--column", "source=set").exit_code == 0
    listed = run(environ, "list").stdout
    assert listed.startswith("facts.jsonl: 3 documents, 3 sections\nhalf: 3 documents, 3 sections\nThe vectors are")
    gone = run(environ, "delete", "facts.jsonl")
    assert (gone.exit_code, gone.stdout) == (0, "3 documents deleted.\n")
    missing = run(environ, "delete", "facts.jsonl")
    assert (missing.exit_code, missing.output) == (
        2,
        "Error: There is no source 'facts.jsonl' in the index. Its sources are: 'half'.\n",
    )


def test_replace(environ: dict[str, str], file: str) -> None:
    """With --replace the old version of a changed file goes."""
    run(environ, "add", file)
    Path(file).write_text('{"text": "Fact 1.", "title": "A title"}\n{"text": "New."}\n')
    assert "1 new (1 section, 1 passage), 1 known, 2 older deleted" in run(environ, "add", file, "--replace").stdout
    assert "facts.jsonl: 2 documents" in run(environ, "list").stdout
    Path(file).write_text('{"text": "New."}\nno json\n')
    kept = run(environ, "add", file, "--replace", "--skip-invalid")
    assert "Not replaced, as not all of it could be read: 'facts.jsonl'." in kept.output
    assert "facts.jsonl: 2 documents" in run(environ, "list").stdout
    Path(file).write_text('{"text": "New."}\n')
    said = run(environ, "add", file, "--replace").stdout
    assert "Replaced 'facts.jsonl': 1 document that these files do not hold deleted.\n" in said


def test_questions_are_written_and_adapted_to(environ: dict[str, str], file: str, tmp_path: Path) -> None:
    """Sections get questions of the language model, once; without documents or model it says what is missing."""
    made = str(tmp_path / "questions.jsonl")
    assert "The index is empty. Fill it with" in run(environ, "questions", made).output
    run(environ, "add", file)
    assert "RLHF_LLM_URL is not set" in run(environ, "questions", made).output
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "What fact?\nTell me."}}
    with site(
        json_page({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
    ) as llm:
        environ |= {"RLHF_LLM_URL": llm.url, "RLHF_LLM_MODEL": "m"}
        some = run(environ, "questions", made, "--most", "2")
        assert some.stdout.startswith(
            f"4 questions for 2 sections written to {made}. To adapt to them: rlhf-loop train"
        )
        assert run(environ, "questions", made).stdout.startswith("2 questions for 1 section written to")
        assert run(environ, "questions", made).stdout.startswith(f"0 questions for 0 sections written to {made}, 3 had")
        assert len(llm.seen) == 3
    assert len(Path(made).read_text(encoding="utf-8").splitlines()) == 6


def test_another_precision(environ: dict[str, str], file: str) -> None:
    """The list names all precisions and the way out, which renews the vectors."""
    for precision in ("int8", "fp32"):
        environ["RLHF_ENCODER_PRECISION"] = precision
        run(environ, "add", file, *(["--source", "half"] if precision == "fp32" else []))
    listed = run(environ, "list").stdout
    assert "The vectors are those of all-MiniLM-L6-v2/fp32 and all-MiniLM-L6-v2/int8" in listed
    assert "are computed anew at each ranking, as the encoder works in fp32 now. Add the same files again" in listed
    assert "0 known, 3 renewed in this precision, in" in run(environ, "add", file).stdout
    assert run(environ, "list").stdout.endswith("The vectors are those of all-MiniLM-L6-v2/fp32.\n")


def test_what_is_deleted_is_said_first(environ: dict[str, str], file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the index cannot be tidied afterwards."""
    from rlhf_loop.errors import VectorStoreError
    from rlhf_loop.sources.index.lancedb_store import LanceDbStore
    from rlhf_loop.sources.index.pgvector_store import PgVectorStore

    def fail(self: object) -> None:
        raise VectorStoreError("The disk is full.")

    run(environ, "add", file)
    for kind in (LanceDbStore, PgVectorStore):
        monkeypatch.setattr(kind, "optimize", fail)
    gone = run(environ, "delete", "facts.jsonl")
    assert (gone.exit_code, gone.output) == (2, "3 documents deleted.\nError: The disk is full.\n")


def test_a_file_that_changes_meanwhile(environ: dict[str, str], file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could be read at first and not later is no success."""
    from rlhf_loop.sources.index import indexing

    check = indexing._check

    def check_and_spoil(*arguments: object, **options: object) -> int:
        total = check(*arguments, **options)  # type: ignore[arg-type]
        with Path(file).open("a") as lines:
            lines.write("no json\n")
        return total

    monkeypatch.setattr(indexing, "_check", check_and_spoil)
    result = run(environ, "add", file)
    assert result.exit_code == 2
    assert "3 new (3 sections, 3 passages), 0 known, 1 invalid and left out" in result.output
    assert "Error: 1 of the rows and files changed while they were indexed" in result.output


def test_invalid_rows(environ: dict[str, str], file: str) -> None:
    """They are listed with their lines; nothing is stored, or all others are."""
    with Path(file).open("a") as lines:
        lines.write("no json\n" + '{"text": ""}\n' * 30)
    refused = run(environ, "add", file)
    assert refused.exit_code == 2
    assert "facts.jsonl line 4: the line is not JSON" in refused.output
    assert "... and 11 more\n" in refused.output
    assert "Error: 31 of 34 documents cannot be read" in refused.output
    assert "The index is empty" in run(environ, "list").stdout
    skipped = run(environ, "add", file, "--skip-invalid")
    assert skipped.exit_code == 0
    assert "3 new (3 sections, 3 passages), 0 known, 31 invalid and left out" in skipped.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["add"], "Missing argument"),
        (["add", "/no/such/file.txt"], "There is no file or folder '/no/such/file.txt'"),
        (["add", "{file}", "--column", "text"], "not of the form FIELD=NAME, e.g. text=abstract"),
        (["add", "{file}", "--column", "author=x"], "no field 'author'"),
        (["add", "{file}", "--source", " "], "the source's name ''"),
        (["add", "{file}", "--format", "odt"], "'odt' is not one of"),
        (["delete"], "Missing argument"),
    ],
)
def test_mistakes(arguments: list[str], expected: str, file: str, tmp_path: Path, model_folder: Path) -> None:
    """Exit code 2 and a sentence that says what to do."""
    environ = {"RLHF_INDEX_PATH": str(tmp_path / "index"), "RLHF_ENCODER_PATH": str(model_folder)}
    environ["RLHF_DATABASE_URL"] = "sqlite://"
    result = run(environ, *(argument.format(file=file) for argument in arguments))
    assert result.exit_code == 2
    assert expected in result.output
    assert not (tmp_path / "index").exists()
