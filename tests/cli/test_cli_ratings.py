from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from databases import sqlite_database

from rlhf_loop import __version__
from rlhf_loop.cli import main
from rlhf_loop.exchange import transfer
from rlhf_loop.store import audit
from rlhf_loop.store.engine import make_engine


@pytest.fixture
def database(tmp_path: Path) -> str:
    return sqlite_database(tmp_path / "rlhf.db")


def call(database: str, *arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], env={"RLHF_DATABASE_URL": database})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def csv_file(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "ratings.csv"
    path.write_text("\n".join(["prompt,answer,rating", *rows]) + "\n")
    return path


def test_version_and_help() -> None:
    """The version is the package's, and every command explains itself."""
    assert __version__ in call("sqlite://", "--version").output
    for command in ([], ["init"], ["ratings"], ["ratings", "import"], ["ratings", "export"], ["ratings", "stats"]):
        result = call("sqlite://", *command, "--help")
        assert result.exit_code == 0
        assert "Usage: main" in result.output


LONG = "x" * 4_000
#: What cannot be the name of a file, of a user, of a version, and of nothing; the last one is not UTF-8.
FILES, USERS, VERSIONS = (("", LONG, "a\0b"), ("", ".", "..", "-", "a/b", LONG), ("", "..", "../x", LONG, "\u200b"))


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("ratings import NAME", FILES),
        ("ratings export NAME --format csv", FILES),
        ("ratings export NAME --format hf-dataset", (*FILES, "/", "..")),
        ("report NAME", (*FILES, "..")),
        ("warm NAME", FILES),
        ("index add NAME", FILES),
        ("train --learning-curve NAME", FILES),
        ("users add NAME --role rater --link", USERS),
        ("users set NAME --inactive", USERS),
        ("tokens add it --user NAME --scope rerank", USERS),
        ("models show NAME", VERSIONS),
        ("models promote NAME --force --reason it", VERSIONS),
        ("models compare NAME 1", VERSIONS),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str, command: str, names: tuple[str, ...]
) -> None:
    """Empty, of dots, with slashes or NUL, of 4,000 characters: exit code 2 and a message, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for name in names:
        result = call(database, *(name if word == "NAME" else word for word in command.split()))
        assert (result.exit_code, bool(result.output)) == (2, True), (name[:20], result.output)
        assert "Traceback" not in result.output
    assert [path for path in sorted(tmp_path.rglob("*")) if not path.name.startswith("rlhf.db")] == [
        path for path in before if not path.name.startswith("rlhf.db")
    ]


def test_names_that_are_not_utf_8_are_taken_and_shown(tmp_path: Path, database: str) -> None:
    """A file's name may be any bytes: it is written, read back, audited, and printed with an escape."""
    file = tmp_path / "\udcff.csv"
    csv_file(tmp_path, "q,a,3").rename(file)
    assert call(database, "ratings", "import", file).exit_code == 0
    assert "\\udcff.csv" in call(database, "ratings", "export", file).output
    assert "?.csv" in call(database, "audit").output
    assert call(database, "audit", "--actor", "\udcff", "--action", "a\0b").output == ""


def test_init_can_run_twice(database: str) -> None:
    """init makes the database and says so, a second time as well."""
    for _ in range(2):
        result = call(database, "init")
        assert (result.exit_code, "is ready" in result.output) == (0, True)


def test_import_stats_and_export(database: str, tmp_path: Path) -> None:
    """A file goes in, is counted and comes out."""
    path = csv_file(tmp_path, *(f"q{n},a{n},{1 + n % 5}" for n in range(60)))
    result = call(database, "ratings", "import", path)
    assert (result.exit_code, result.output) == (
        0,
        "60 rows: 60 added, 0 updated, 0 unchanged.\n60 ratings by 1 reviewer.\n"
        "To take it back: rlhf-loop ratings undo 1\n",
    )
    stats = call(database, "ratings", "stats").output
    assert "60 rated, enough to train." in stats
    assert "█" in stats
    result = call(database, "ratings", "export", tmp_path / "out.jsonl")
    assert (result.exit_code, len((tmp_path / "out.jsonl").read_text().splitlines())) == (0, 60)


def test_stats_tell_how_many_are_needed(database: str, tmp_path: Path) -> None:
    """Below fifty rated answers the way to go is shown, without any too."""
    assert "0 of 50 rated" in call(database, "ratings", "stats").output
    call(database, "ratings", "import", csv_file(tmp_path, "q,a,4"))
    assert "1 of 50 rated" in call(database, "ratings", "stats").output


def test_stats_tell_what_end_users_said(database: str, tmp_path: Path) -> None:
    """In a line of its own, and only if they said something."""
    path = tmp_path / "ratings.csv"
    path.write_text("prompt,answer,rating,reviewer,role\nq,a,4,dr,expert\nq,a,1,p1,end_user\nq,a,2,p2,end_user\n")
    assert "end users" not in call(database, "ratings", "stats").output
    call(database, "ratings", "import", path)
    stats = call(database, "ratings", "stats").output
    assert "1 review by 1 reviewer." in stats
    assert "Apart from these, end users gave 2 ratings to 1 answer." in stats


def test_invalid_rows_are_printed_and_nothing_is_stored(database: str, tmp_path: Path) -> None:
    """Each bad row is on stderr, twenty at most; the exit code is 2 and --skip-invalid is offered."""
    path = csv_file(tmp_path, "q,a,4", *(f"q,b{n},9" for n in range(25)))
    result = call(database, "ratings", "import", path)
    assert result.exit_code == 2
    assert (
        "line 3: rating is 9, not a whole number from 1 to 5; if that is right, import it with --scale 1,10\n"
        in result.stderr
    )
    assert "... and 5 more" in result.stderr
    assert "Nothing was stored" in result.stderr
    assert "--skip-invalid" in result.stderr
    assert "0 answers" in call(database, "ratings", "stats").output
    result = call(database, "ratings", "import", path, "--skip-invalid")
    assert (result.exit_code, result.stdout) == (
        0,
        "26 rows: 1 added, 0 updated, 0 unchanged, 25 invalid and left out.\n1 rating by 1 reviewer.\n"
        "To take it back: rlhf-loop ratings undo 1\n",
    )


def test_columns_are_named_on_the_command_line(database: str, tmp_path: Path) -> None:
    """--column maps a field, and a mapping of another form is refused with an example."""
    path = tmp_path / "a.csv"
    path.write_text("frage,answer,mood\nq,a,sunny\n")
    result = call(database, "ratings", "import", path, "--column", "user_prompt=frage")
    assert (result.exit_code, "Not used: mood." in result.output) == (0, True)
    result = call(database, "ratings", "import", path, "--column", "frage")
    assert (result.exit_code, "FIELD=NAME" in result.stderr) == (2, True)


def test_tags_are_named_on_the_command_line(database: str, tmp_path: Path) -> None:
    """--map says which answer a tag of Label Studio shows; files without tags have no use for it."""
    stars = {"from_name": "stars", "to_name": "txt-2", "type": "rating", "value": {"rating": 4}}
    task = {"data": {"prompt": "q", "answer1": "a", "answer2": "b"}, "annotations": [{"id": 1, "result": [stars]}]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps([task]))
    command = ("ratings", "import", "--from", "label-studio", path)
    assert "--map txt-2=answer1" in call(database, *command).stderr
    assert "2 added" in call(database, *command, "--map", "txt-2=answer2").output
    assert "TAG=FIELD" in call(database, *command, "--map", "txt-2").stderr
    assert "has no tags" in call(database, "ratings", "import", path, "--map", "txt-2=answer2").stderr


@pytest.mark.parametrize(
    ("database_url", "arguments", "message"),
    [("mysql://h/d", ["init"], "not supported"), ("sqlite://", ["ratings", "import", "absent.csv"], "cannot be read")],
)
def test_a_deliberate_error_is_a_message_and_exit_code_2(database_url: str, arguments: list[str], message: str) -> None:
    """What goes wrong is one line on stderr, without a traceback."""
    result = call(database_url, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")


@pytest.mark.parametrize(
    ("format", "name"),
    [("trl-preference", "p.jsonl"), ("trl-unpaired", "u.csv"), ("argilla", "a.json"), ("langfuse", "l.jsonl.gz")],
)
def test_the_formats_of_other_tools(database: str, tmp_path: Path, format: str, name: str) -> None:
    """What goes out in another tool's format comes in by the same option, and a second time changes nothing."""
    call(database, "ratings", "import", csv_file(tmp_path, "q,a,5", "q,b,1"))
    result = call(database, "ratings", "export", tmp_path / name, "--format", format)
    rows = 1 if format == "trl-preference" else 2
    assert result.output == f"{rows} row{'s'[: rows - 1]} written to {tmp_path / name}.\n"
    other = f"sqlite:///{tmp_path / 'other.db'}"
    result = call(other, "ratings", "import", tmp_path / name, "--format", format, "--reviewer", "ann")
    said = "comparison" if "preference" in format else "rating"
    by = f"{rows} {said}{'s'[: rows - 1]} by 1 reviewer.\n"
    back = "To take it back: rlhf-loop ratings undo 1\n"
    assert result.output == f"{rows} row{'s'[: rows - 1]}: {rows} added, 0 updated, 0 unchanged.\n{by}{back}"
    result = call(other, "ratings", "import", tmp_path / name, "--format", format, "--reviewer", "ann")
    assert result.output == f"{rows} row{'s'[: rows - 1]}: 0 added, 0 updated, {rows} unchanged.\n{by}"


def test_role_and_labels_are_options(database: str, tmp_path: Path) -> None:
    """End users' ratings are kept apart; a label may stand for another rating; a bad mapping is refused."""
    call(database, "ratings", "import", csv_file(tmp_path, "q,a,4"), "--role", "end-user")
    assert "0 rated" in call(database, "ratings", "stats").output
    path = tmp_path / "u.csv"
    path.write_text("prompt,completion,label\nq,b,true\n")
    call(database, "ratings", "import", path, "--format", "trl-unpaired", "--good", "4")
    assert "1 rated" in call(database, "ratings", "stats").output
    result = call(database, "ratings", "import", path, "--format", "trl-unpaired", "--good", "2")
    assert (result.exit_code, "Good are 4 and 5" in result.stderr) == (2, True)


def test_an_import_is_listed_and_taken_back(database: str, tmp_path: Path) -> None:
    """The list has its number; a dry run says what would go; the second time the command says so and succeeds."""
    assert "There is no import yet" in call(database, "ratings", "imports").output
    call(database, "ratings", "import", csv_file(tmp_path, "q,a,4", "q,b,5"))
    listed = call(database, "ratings", "imports").output
    assert re.search(r"1 +\d{4}-.*ratings\.csv +cli:\S+ +csv +2 +0 +0", listed)
    gone = "2 answers and 2 reviews and preferences removed, 0 as before.\n"
    tried = call(database, "ratings", "undo", "1", "--dry-run")
    assert tried.output == f"{gone}Nothing was changed. Take it back without --dry-run.\n"
    assert call(database, "ratings", "undo", "1").output == gone
    assert re.search(r"1: taken back on \d{4}-.* by cli:", call(database, "ratings", "imports").output)
    again = call(database, "ratings", "undo", "1")
    assert (again.exit_code, "was taken back before" in again.output) == (0, True)
    assert "0 answers" in call(database, "ratings", "stats").output
    unknown = call(database, "ratings", "undo", "2")
    assert (unknown.exit_code, "There is no import 2" in unknown.stderr) == (2, True)


def test_a_tools_file_without_any_rating_is_refused(database: str, tmp_path: Path) -> None:
    """Unless --unrated is said; the message names what was not used, and a dry run says the same."""
    score = {"name": "helpful", "value": 4, "dataType": "NUMERIC", "source": "API"}
    path = tmp_path / "traces.json"
    path.write_text(json.dumps([{"id": "t", "input": "q", "output": "a", "scores": [score]}]))
    arguments = ("ratings", "import", "--from", "langfuse", path)
    said = "was understood as a rating, in 1 answer. Not used: score helpful."
    tried, refused = call(database, *arguments, "--dry-run"), call(database, *arguments)
    assert (tried.exit_code, said in tried.stdout, "Import it" in tried.stdout) == (2, True, False)
    assert (refused.exit_code, said in refused.stderr) == (2, True)
    assert "There is no import yet" in call(database, "ratings", "imports").output
    assert "1 added" in call(database, *arguments, "--unrated").output
    path.write_text(json.dumps([{"id": "t2", "input": "q", "output": "a", "scores": ["s-1"]}]))
    assert "1 added" in call(database, *arguments).output, "its scores come in a file of their own"
    path.write_text("[]")
    assert call(database, *arguments).exit_code == 0


def test_an_import_is_audited_with_who_ran_it(database: str, tmp_path: Path) -> None:
    """The audit log names whoever is signed in to the machine."""
    call(database, "ratings", "import", csv_file(tmp_path, "q,a,4"))
    [entry] = audit.entries(make_engine(database), action="ratings.imported")
    assert entry.actor.startswith("cli:")
    assert entry.target == "file:ratings.csv"


OPENWEBUI = {
    "id": "f1",
    "user_id": "u-1",
    "type": "rating",
    "data": {"rating": 1, "model_id": "llama3.2", "comment": "Ja."},
    "meta": {"chat_id": "c", "message_id": "a"},
    "snapshot": {
        "chat": {
            "chat": {
                "history": {
                    "messages": {
                        "q": {"id": "q", "parentId": None, "role": "user", "content": "Was hilft? 🤕"},
                        "a": {"id": "a", "parentId": "q", "role": "assistant", "content": "Ruhe."},
                    }
                }
            }
        }
    },
}


def test_from_names_the_tool(database: str, tmp_path: Path) -> None:
    """--from is --format; whose word it is by default, and what thumbs become, can be said otherwise."""
    path = tmp_path / "feedback.json"
    path.write_text(json.dumps([OPENWEBUI]))
    for added in (1, 0):
        result = call(database, "ratings", "import", "--from", "openwebui", path)
        said = f"1 row: {added} added, 0 updated, {1 - added} unchanged.\n1 rating by 1 reviewer.\n"
        assert result.output == said + "To take it back: rlhf-loop ratings undo 1\n" * added
    assert "0 rated" in call(database, "ratings", "stats").output
    call(database, "ratings", "import", "--from", "openwebui", path, "--role", "expert", "--good", "4")
    path = tmp_path / "again.csv"
    call(database, "ratings", "export", path)
    assert ",4,Ja.," in path.read_text()


def test_a_scale_is_two_numbers(database: str, tmp_path: Path) -> None:
    """The lowest first; thumbs have none; what is beside it is named with its line."""
    path = tmp_path / "annotations.json"
    control = {"from_name": "rating", "to_name": "answer", "type": "rating", "value": {"rating": 9}}
    task = {"data": {"prompt": "q", "answer": "a"}, "annotations": [{"id": 1, "completed_by": 1, "result": [control]}]}
    path.write_text(json.dumps([task]))
    arguments = ("ratings", "import", "--from", "label-studio", path)
    for options, words in (
        ((), "first line 1: rating is 9, not a whole number from 1 to 5"),
        (("--scale", "1,5"), "first line 1: rating is 9, not on the scale from 1 to 5"),
        (("--scale", "10"), "'10' is not of the form MIN,MAX"),
        (("--scale", "10,1"), "A scale from 10 to 1 has no steps"),
        (("--scale", "1,10", "--thumbs"), "Leave out --thumbs or --scale"),
    ):
        result = call(database, *arguments, *options)
        assert (result.exit_code, words in result.stderr) == (2, True), result.stderr
    assert "1 added" in call(database, *arguments, "--scale", "1,10").output
    assert "1 rated" in call(database, "ratings", "stats").output


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_stop_of_an_import_is_one_sentence(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException, code: int
) -> None:
    """Ctrl-C and SIGTERM end it with their exit codes, and whatever the stop breaks on its way out says nothing."""

    def stopped(*arguments: object, **options: object) -> None:
        raise stop

    monkeypatch.setattr(transfer, "import_ratings", stopped)
    result = call(database, "ratings", "import", csv_file(tmp_path, "q,a,5"))
    said = "Stopped. The file is stored as a whole or not at all; import it again.\n"
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", said)


def test_a_rating_that_was_taken_back_is_told(database: str, tmp_path: Path) -> None:
    """The command says how many, as it says what else has changed."""
    message = {"q": {"role": "user", "content": "Why?"}, "a": {"role": "assistant", "content": "So.", "parentId": "q"}}
    record = {"type": "rating", "user_id": "u", "meta": {"message_id": "a"}, "updated_at": 1769851800}
    record["snapshot"] = {"chat": {"history": {"messages": message}}}
    file = tmp_path / "feedback.json"
    for rating, said in (
        (1, "1 added"),
        (0, "1 updated, 0 unchanged.\n1 rating taken back.\n0 ratings by 0 reviewers.\n"),
    ):
        file.write_text(json.dumps([record | {"data": {"rating": rating}}]))
        assert said in call(database, "ratings", "import", "--from", "openwebui", file).stdout


def test_a_language_with_a_typing_mistake_is_not_passed_over(database: str, tmp_path: Path) -> None:
    """Whatever ranks says so, with a model or without one."""
    environ = {"RLHF_DATABASE_URL": database, "RLHF_LANGUAGE": "xx", "RLHF_MODEL_PATH": str(tmp_path / "none")}
    result = CliRunner().invoke(main, ["rerank", "Why?", "So.", "Because."], env=environ)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: RLHF_LANGUAGE='xx' is not a known language. Choose one of ")
