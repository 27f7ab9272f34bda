"""Files as people have them: from spreadsheets, in other encodings, with numbers, days and words of other countries."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import openpyxl
import pytest
from click.testing import CliRunner
from openpyxl.worksheet.cell_range import CellRange
from sqlalchemy import Engine

from rlhf_loop.cli import main
from rlhf_loop.domain import Rating
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.formats.base import Labels, NumberScale
from rlhf_loop.exchange.transfer import export_ratings, import_ratings, preview_ratings, ratings
from rlhf_loop.store.engine import reading
from rlhf_loop.utils import rows as files

Rows = Sequence[Sequence[object]]
TEXTS = {
    "cp1252": ("Frage;Antwort", "Was hilft gegen Übelkeit?;Ingwer, kühle Getränke und größere Pausen."),
    "cp1250": (
        "pytanie;odpowiedź",
        "Co pomaga na ból głowy?;Odpoczynek, świeże powietrze, jeśli ból trwa: iść do lekarza.",
    ),
    "cp1251": ("question;answer", "Что помогает от головной боли?;Отдых, вода и свежий воздух."),
    "cp932": ("question;answer", "頭痛に効くものは何ですか;休息と水分補給が役に立ちます。痛みが続く場合は医師に。"),
    "utf-16": ("question;answer", "Was hilft?;Tee für alle"),
    "utf-16-le": ("question;answer", "Was hilft?;Tee für alle"),
}


def stored(engine: Engine) -> list[Rating]:
    with reading(engine) as connection:
        return list(ratings(connection))


def write_workbook(
    path: Path, rows: Rows, *, hidden: Rows = (), far: tuple[int, int] | None = None, merged: Sequence[str] = ()
) -> Path:
    """Write what a spreadsheet would, behind a hidden sheet; what begins with = is a formula that nobody computed."""
    book = openpyxl.Workbook()
    book.active.sheet_state = "hidden"
    for sheet, of_it in ((book.active, hidden), (book.create_sheet("S"), rows)):
        for row in of_it:
            sheet.append(row)
    if far:
        sheet.cell(*far, value=1)
    sheet.merged_cells.ranges.update(map(CellRange, merged))  # and not merge_cells(), which empties what is beneath
    book.active = 1
    book.save(path)
    return path


@pytest.mark.parametrize(
    "row",
    [
        b"q,one broken \xff byte,4",
        b"q,caf\xc3\xa9 \xe9t\xe9,4",
        "q,żółw,4".encode("cp1250"),
        "q,Übelkeit,4".encode("cp850"),
    ],
)
def test_what_little_tells_is_not_guessed(sqlite_engine: Engine, tmp_path: Path, row: bytes) -> None:
    """A few odd bytes, or a mixture, refuse the row, and the message says what to do."""
    (tmp_path / "a.csv").write_bytes(b"question,answer,rating\n" + row + b"\n")
    with pytest.raises(ImportFileError, match=r"line 2: .*not UTF-8.*with --encoding"):
        import_ratings(sqlite_engine, tmp_path / "a.csv")


@pytest.mark.parametrize("row", ["q,ß,4", "¿Qué ayuda?,Más agua señor,4", "Que faire ?,Boire de l’eau ; déjà bu,4"])
def test_western_letters_are_enough(sqlite_engine: Engine, tmp_path: Path, row: str) -> None:
    """However few they are, what has no others is read as Windows writes it in Western Europe."""
    (tmp_path / "a.csv").write_bytes(f"question,answer,rating\n{row}\n".encode("cp1252"))
    import_ratings(sqlite_engine, tmp_path / "a.csv")
    assert stored(sqlite_engine)[0].ai_response == row.split(",")[1]


@pytest.mark.parametrize("encoding", TEXTS)
def test_the_letters_tell_the_encoding(sqlite_engine: Engine, tmp_path: Path, encoding: str) -> None:
    """A text of another encoding is read as it was written, and the report says as what."""
    header, row = TEXTS[encoding]
    (tmp_path / "a.csv").write_bytes(f"{header}\r\n{row}\r\n".encode(encoding))
    report = import_ratings(sqlite_engine, tmp_path / "a.csv")
    (found,) = stored(sqlite_engine)
    assert f"{found.user_prompt};{found.ai_response}" == row
    assert report.encoding == encoding


@pytest.mark.parametrize(
    ("name", "encoding", "bad"),
    [
        ("a.csv", "utf-16", "b\ud800"),
        ("a.csv", "utf-16-le", "\udc00b"),
        ("a.jsonl", "utf-16-be", "b\ud83d"),
        ("a.json", "utf-16", "b\udc00"),
        ("a.csv", "utf-32", "b\ud800"),
        ("a.csv", "cp932", "b\udc81"),
        ("a.csv", "cp1251", "b\udc98"),
        ("a.csv", "ascii", "b\udcff"),
    ],
)
def test_a_bad_character_costs_its_row(
    sqlite_engine: Engine, tmp_path: Path, name: str, encoding: str, bad: str
) -> None:
    """Half a character, or bytes that the encoding does not have, refuse their row alone, and it is named."""
    rows = [("q", "a", 4), ("q", bad, 4), ("q", "c", 4)]
    if name == "a.csv":
        text = "question,answer,rating\n" + "".join(f"{q},{a},{r}\n" for q, a, r in rows)
    else:
        each = [f'{{"question": "{q}", "answer": "{a}", "rating": {r}}}' for q, a, r in rows]
        text = "[" + ",\n".join(each) + "]" if name == "a.json" else "\n".join(each)
    errors = "surrogatepass" if encoding.startswith("utf") else "surrogateescape"
    (tmp_path / name).write_bytes(text.encode(encoding, errors))
    with pytest.raises(ImportFileError, match=f"1 of 3 rows .* not {encoding}"):
        import_ratings(sqlite_engine, tmp_path / name, encoding=encoding)
    report = import_ratings(sqlite_engine, tmp_path / name, encoding=encoding, skip_invalid=True)
    assert (report.added, len(report.invalid)) == (2, 1)
    assert [each.ai_response for each in stored(sqlite_engine)] == ["a", "c"]


def test_an_encoding_can_be_given(sqlite_engine: Engine, tmp_path: Path) -> None:
    """It is believed; one that there is not, or that the file is not in, is refused."""
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"question": "q", "answer": "p\u00e2t\u00e9"}\n'.encode("mac-roman"))
    import_ratings(sqlite_engine, path, encoding="macintosh")
    assert stored(sqlite_engine)[0].ai_response == "pâté"
    for name in ("none-such", "base64", ""):
        with pytest.raises(ImportFileError, match="not the name of an encoding"):
            import_ratings(sqlite_engine, path, encoding=name)
    with pytest.raises(ImportFileError, match=r"not in utf-16: .*Give the encoding that it has"):
        import_ratings(sqlite_engine, path, encoding="utf-16")


def test_what_a_german_spreadsheet_saves(sqlite_engine: Engine, tmp_path: Path) -> None:
    """With the line sep=, decimal commas, days with dots and words for yes and no it is read without any option."""
    (tmp_path / "a.csv").write_bytes(
        "sep=;\r\nFrage;Antwort;Bewertung;Kommentar;Bewertet am;Gutachter;Score;Harmful\r\n"
        "Was hilft?;Tee für alle;4,0;gut;31.01.2026 14:05;Dr. Weiß;0,125;nein\r\n"
        "Was hilft?;Nichts;nein;;1.2.2026;Dr. Weiß;;ja\r\n"
        "Was hilft?;Kaffee;9;;;;;\r\n".encode("cp1252")
    )
    with pytest.raises(ImportFileError, match=r"first line 5: rating is 9.*import it with --scale 1,10"):
        import_ratings(sqlite_engine, tmp_path / "a.csv")
    report = import_ratings(sqlite_engine, tmp_path / "a.csv", skip_invalid=True)
    assert (report.rows, report.rated, report.reviewers) == (3, 2, 1)
    tea, nothing = stored(sqlite_engine)
    assert (tea.rating, tea.feedback_comment, tea.score, tea.harmful) == (4, "gut", 0.125, False)
    assert (tea.rated_at, tea.reviewer) == (datetime(2026, 1, 31, 14, 5, tzinfo=UTC), "Dr. Weiß")
    assert (nothing.rating, nothing.harmful, nothing.rated_at) == (1, True, datetime(2026, 2, 1, tzinfo=UTC))


@pytest.mark.parametrize("before", ["\n", ";;\r\n\r\n"])
def test_what_stands_before_the_header(sqlite_engine: Engine, tmp_path: Path, before: str) -> None:
    """Lines without anything are passed over, and signs within quotation marks part nothing."""
    text = f'{before}Frage;Antwort;Bewertung;"Note (1,2,3,4,5)"\nWas hilft?;Tee;5;1\nWas hilft?;Nichts;6;1\n'
    (tmp_path / "a.csv").write_text(text, newline="")
    report = import_ratings(sqlite_engine, tmp_path / "a.csv", skip_invalid=True)
    assert (report.rated, report.ignored) == (1, ("Note (1,2,3,4,5)",))
    assert report.invalid[0].line == text[: text.index("Nichts")].count("\n") + 1


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        (("1/31/2026", "2/3/2026 10:00"), ["2026-01-31T00:00", "2026-02-03T10:00"]),
        (("3/2/2026", "31/01/2026 10:00"), ["2026-02-03T00:00", "2026-01-31T10:00"]),
        (("3/2/2026", "2/3/2026"), "each may have either first"),
        (("31/1/2026", "1/31/2026"), "some have the day first and others the month"),
    ],
)
def test_the_whole_column_tells_the_order_of_days(
    sqlite_engine: Engine, tmp_path: Path, days: Sequence[str], expected: list[str] | str
) -> None:
    """Days with slashes are read in the only order that fits all of them, and refused where none or both do."""
    path = tmp_path / "a.csv"
    path.write_text("question,answer,rating,rated_at\n" + "".join(f"q,a{n},5,{day}\n" for n, day in enumerate(days)))
    if isinstance(expected, str):
        with pytest.raises(ImportFileError, match=expected):
            import_ratings(sqlite_engine, path)
        return
    import_ratings(sqlite_engine, path)
    assert [f"{each.rated_at:%Y-%m-%dT%H:%M}" for each in stored(sqlite_engine)] == expected


def test_a_workbook(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The first sheet with rows is read, wherever they begin, with its numbers and times; a bad row is named."""
    when = datetime(2026, 1, 31, 12)
    rows = [
        [],
        ["Question ", "Answer", "Rating", "Rated at", "Reviewer", None],
        ["q", "a", 4, when, 17, None],
        ["q", 5, 2.5],
        ["q", 7, True],
    ]
    path = write_workbook(tmp_path / "a.xlsx", rows)
    with pytest.raises(ImportFileError, match=r"first line 4: rating is 2\.5.*--scale 0\.5,5"):
        import_ratings(sqlite_engine, path)
    report = import_ratings(sqlite_engine, path, labels=Labels(scale=NumberScale(0.5, 5)))
    assert (report.rows, report.rated, report.encoding, report.ignored) == (3, 3, None, ())
    assert [(each.ai_response, each.rating, each.reviewer) for each in stored(sqlite_engine)] == [
        ("a", 4, "17"),
        ("5", 3, "anonymous"),
        ("7", 5, "anonymous"),
    ]
    assert stored(sqlite_engine)[0].rated_at == when.replace(tzinfo=UTC)


def test_cells_without_a_value_are_no_ratings(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A row with an error, or with a formula that nobody computed, is refused; a second sheet with rows is named."""
    rows = [["question", "answer", "rating"], ["q", "a", "#N/A"], ["q", "b", "=2+2"], ["q", "c", 4]]
    path = write_workbook(tmp_path / "a.xlsx", rows, hidden=[["question", "answer", "rating"], ["secret", "x", 1]])
    book = openpyxl.load_workbook(path)
    book.create_sheet("Empty")
    book.create_sheet("Second").append(["question"])
    book.save(path)
    report = import_ratings(sqlite_engine, path, skip_invalid=True)
    assert report.ignored == ("sheet 'Second'",)
    assert [(error.line, error.reason[:26]) for error in report.invalid] == [
        (2, "a cell of the row is #N/A"),
        (3, "a formula of the row has n"),
    ]
    assert [each.ai_response for each in stored(sqlite_engine)] == ["c"]


def test_a_workbook_with_a_cell_far_out(sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sheet is read row by row, not unfolded up to its last cell."""
    rows = [["question", "answer", "rating"], ["q", "a", 4]]
    far = write_workbook(tmp_path / "far.xlsx", rows, far=(1_000_000, 16_384))
    report = import_ratings(sqlite_engine, far, skip_invalid=True)
    assert (report.added, [error.line for error in report.invalid]) == (1, [1_000_000])
    monkeypatch.setattr(files, "_LAST_LINE", 1000)
    with pytest.raises(ImportFileError, match=r"rows after line 1,000, the last of any"):
        import_ratings(sqlite_engine, far, skip_invalid=True)


@pytest.mark.parametrize(
    ("rows", "areas", "found"),
    [
        pytest.param(
            [["question", "answer", "rating"], ["q", "a", 4], [None, "b", 2], ["r", "c", 1], [None, "d", 5]],
            ["A2:A3", "A4:A5"],
            [("q", "a", 4), ("q", "b", 2), ("r", "c", 1), ("r", "d", 5)],
            id="a question over several answers",
        ),
        pytest.param(
            [["question", "answer", "rating"], ["q", "a", 4], ["q", "b"], ["q", "c"], ["q", "d"]],
            ["C2:C4"],
            [("q", "a", 4), ("q", "b", 4), ("q", "c", 4), ("q", "d", None)],
            id="a rating over several answers",
        ),
        pytest.param(
            [["question", "answer", "rating", "reviewer"], ["q", "a", 4, "ann"], [None, None, 2, "bob"], ["r", "b", 1]],
            ["A2:A3", "B2:B3"],
            [("q", "a", 4), ("q", "a", 2), ("r", "b", 1)],
            id="an answer over several reviews",
        ),
        pytest.param(
            [["question", "answer", "rating"], ["q", "a", 4], [], [], ["r", "b", 2]],
            ["A2:A4", "B2:B4", "C2:C4"],
            [("q", "a", 4), ("r", "b", 2)],
            id="a whole row over several",
        ),
        pytest.param(
            [["question", "answer", "comment", "rating"], ["q", "a", "beneath", 4], ["beneath", "b", "", 5]],
            ["A2:A3", "B2:C2"],
            [("q", "a", 4), ("q", "b", 5)],
            id="what is beneath is not shown",
        ),
        pytest.param(
            [["question", "answer", "rating"], [], ["q", "a", 4]],
            ["A1:A2", "B1:B2", "C1:C2"],
            [("q", "a", 4)],
            id="names over two lines",
        ),
        pytest.param(
            [["question", "answer", "rating"], [None, None, "ann"], ["q", "a", 4]],
            ["A1:A2", "B1:B2"],
            "names of the columns reach over lines 1 to 2",
            id="other names below the names",
        ),
        pytest.param(
            [["question", "answer", "rating", None], ["q", "a", 4, 2]],
            ["C1:D1"],
            "Two columns have the name 'rating'",
            id="a name over two columns",
        ),
        pytest.param(
            [["question", "answer", "rating"], ["q", "a", "=2+2"], ["q", "b"]],
            ["C2:C3"],
            "2 of 2 rows",
            id="a formula without a value",
        ),
    ],
)
def test_merged_cells(
    sqlite_engine: Engine, tmp_path: Path, rows: Rows, areas: Sequence[str], found: list[object] | str
) -> None:
    """What is in merged cells is in each row that they reach over, as whoever looks at the sheet reads it."""
    path = write_workbook(tmp_path / "a.xlsx", rows, merged=areas)
    if isinstance(found, str):
        with pytest.raises(ImportFileError, match=found):
            import_ratings(sqlite_engine, path)
        return
    import_ratings(sqlite_engine, path)
    ratings = stored(sqlite_engine)
    assert [(each.user_prompt, each.ai_response, each.rating) for each in ratings] == found
    assert not any(each.feedback_comment for each in ratings)


def test_a_workbook_leaves_the_warnings_of_others_alone(tmp_path: Path) -> None:
    """While one is read, what others warn of is heard, and the filters are those of before."""
    path = write_workbook(tmp_path / "a.xlsx", [["question", "answer"], ["q", "a"]])
    before = list(warnings.filters)
    with path.open("rb") as stream:
        records = files.read_records(path, stream, format="xlsx")
        next(records)
        assert list(warnings.filters) == before
        with pytest.warns(UserWarning, match="of another thread"):
            warnings.warn("of another thread", stacklevel=1)
        records.close()


def test_rows_of_a_workbook_may_end_early(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A program that writes row by row does not say how wide its sheet is; names that are formulas are refused."""
    for header, said in ((["question", "answer", "rating"], ""), (["=A9", "=B9"], "formulas without a value")):
        book = openpyxl.Workbook(write_only=True)
        sheet = book.create_sheet()
        for row in (header, ["q", "a"], ["q", "b", 4]):
            sheet.append(row)
        book.save(tmp_path / "a.xlsx")
        if said:
            with pytest.raises(ImportFileError, match=said):
                import_ratings(sqlite_engine, tmp_path / "a.xlsx")
        else:
            assert import_ratings(sqlite_engine, tmp_path / "a.xlsx").rated == 1


def test_a_workbook_that_cannot_be_read(sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one, one that unpacks to more than memory should be asked for, and a damaged one are refused."""
    path = write_workbook(tmp_path / "a.xlsx", [])
    with pytest.raises(ImportFileError, match="workbook is empty"):
        import_ratings(sqlite_engine, path)
    whole = path.read_bytes()
    for damaged in (whole[:-40], whole.replace(b"PK\x01\x02", b"PK\x01\x03"), b"version https://git-lfs.github.com"):
        path.write_bytes(damaged)
        with pytest.raises(ImportFileError, match=r"workbook cannot be read|pointer of Git LFS"):
            import_ratings(sqlite_engine, path)
    with pytest.raises(ImportFileError, match="Files of xlsx are only read"):
        export_ratings(sqlite_engine, path)
    merged = write_workbook(tmp_path / "b.xlsx", [["question", "answer"], ["q", "a"]], merged=["A2:A4", "B2:B4"])
    for limit, most, words in (
        ("_MOST_MERGED", 1, "more than 1 merged cells"),
        ("_MOST_REACHING", 1, "over too many columns"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(files, limit, most)
            with pytest.raises(ImportFileError, match=words):
                import_ratings(sqlite_engine, merged)
    monkeypatch.setattr(files, "_WORKBOOK_BYTES", 1000)
    large = write_workbook(path, [["question", "answer"], ["q", "a" * 1000]])
    # Its texts are more than that, and not more than such a file may unpack to.
    assert import_ratings(sqlite_engine, large).added == 1
    monkeypatch.setattr(files, "_WORKBOOK_TIMES", 0)
    with pytest.raises(ImportFileError, match="at most 1,000 are read"):
        import_ratings(sqlite_engine, large)


def test_a_dry_run_shows_and_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the columns, the first rows and all counts, opens no database, and reads from standard input, too."""
    monkeypatch.chdir(tmp_path)
    text = "Frage;Antwort;Bewertung;Station\nWas hilft?;Tee;5;3\nWas hilft?;Nichts;;3\nWas hilft?;Bier;7;3\n"
    found = CliRunner().invoke(main, ["ratings", "import", "-", "--dry-run"], input=text)
    assert found.exit_code == 2  # as the import would
    for words in (
        "Frage → user_prompt",
        "Tee",
        "line 4: rating is 7",
        "3 rows: 1 unrated, 1 invalid.",
        "1 rating by 1 reviewer.",
        "Not used: Station.",
        "--column reviewer=Station",
        "mend these rows, or say --skip-invalid",
    ):
        assert words in found.output
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.csv").write_text(text)
    preview = preview_ratings(tmp_path / "a.csv")
    assert [row.rating.ai_response for row in preview.first if row.rating] == ["Tee", "Nichts"]
    assert preview_ratings(tmp_path / "a.csv", most=1).report.rows == 2
    array = '[\n {"question": "q", "answer": "a", "rating": 4}\n]'
    found = CliRunner().invoke(main, ["ratings", "import", "-", "--dry-run"], input=array)
    assert (found.exit_code, "1 rating by 1 reviewer." in found.output) == (0, True)
    assert (
        CliRunner().invoke(main, ["ratings", "import", "-", "--dry-run", "--skip-invalid"], input=text).exit_code == 0
    )


def test_each_line_of_json_has_its_own_places(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The order of days is looked for by the names of each line; a day that there is not says nothing of it."""
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"question": "q", "answer": "a", "rated_at": "3/2/2026", "rating": 4}\n'
        '{"rated_at": "1/31/2026", "rating": 4, "question": "q", "answer": "b"}\n'
        '{"question": "q", "answer": "c", "rated_at": "13/13/2026", "rating": 4}\n'
    )
    report = import_ratings(sqlite_engine, path, skip_invalid=True)
    assert [error.line for error in report.invalid] == [3]
    assert [f"{each.rated_at:%m-%d}" for each in stored(sqlite_engine)] == ["03-02", "01-31"]


@pytest.mark.parametrize(("one", "none"), [("1,0", "0,0"), ("1", "0"), ("1.0", "0.0"), ("1", "yes")])
def test_thumbs_in_any_writing(sqlite_engine: Engine, tmp_path: Path, one: str, none: str) -> None:
    """Ones and noughts alone may be thumbs, also with a decimal comma, and a one beside words."""
    (tmp_path / "a.csv").write_text(f"question;answer;rating\nq;a;{one}\nq;b;{none}\n")
    with pytest.raises(ImportFileError, match="these may be thumbs"):
        import_ratings(sqlite_engine, tmp_path / "a.csv", skip_invalid=True)
