from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from quick_encoder import QuickRuntime
from tokenizers import Tokenizer

from rlhf_loop.cli import main
from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, Ranking
from rlhf_loop.encoders import TextEncoder, Vectors
from rlhf_loop.encoders.tokenizer import load_tokenizer
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.encoders.weights import find_model_folder
from rlhf_loop.errors import ImportFileError, MissingExtraError, ModelFileError, RlhfLoopError
from rlhf_loop.exchange import bulk_scoring, candidate_files
from rlhf_loop.exchange.bulk_scoring import ScoreReport, score_dataset
from rlhf_loop.ranking import Ranker, incoming_order, off_marker, rerank_candidates
from rlhf_loop.reward import RECIPES, RewardModel
from rlhf_loop.reward.classifier import Scorer
from rlhf_loop.reward.model_file import save

Rows = list[dict[str, Any]]
Score = Callable[..., ScoreReport]

#: Of each question five candidates, one behind the other of another question.
ROWS: Rows = [
    {
        "id": place,
        "question": f"What helps against {what}?",
        "text": f"Take {'rest ' * number}and {what} {number}, twice.",
    }
    for place, (number, what) in enumerate((n, w) for n in range(5) for w in ("hiccups", "colds", "gout", "acne"))
]


def put_model(settings: Settings, *, slope: float = 1.0) -> None:
    """Save a model that prefers some features, so that candidates have different scores."""
    size = len(RECIPES["passages"].feature_names())
    coef = np.linspace(-1, 1, size)
    scorer = Scorer(coef, 0.0, np.full(size, -10.0), np.full(size, 10.0), slope=slope)
    save(RewardModel.of(scorer, recipe="passages", encoder="quick"), settings.model_path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(model_path=tmp_path / "live" / "model.joblib", cache_dir=tmp_path / "cache")
    put_model(settings)
    return settings


@pytest.fixture
def make_ranker(tokenizer: Tokenizer, tmp_path: Path) -> Callable[[Settings], Ranker]:
    encoder = TextEncoder(QuickRuntime(), tokenizer, VectorCache(tmp_path / "vectors.db"))
    return lambda settings: Ranker(settings, encoder=encoder)


@pytest.fixture
def score(settings: Settings, make_ranker: Callable[[Settings], Ranker], tmp_path: Path) -> Score:
    def call(source: Path | str, **options: Any) -> ScoreReport:
        options = {"settings": settings, "workers": 1, "part_rows": 6, "make_ranker": make_ranker, **options}
        return score_dataset(source, options.pop("output", tmp_path / "out"), **options)

    return call


def as_jsonl(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_csv(path: Path, rows: Rows) -> Path:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    path.write_text(text.getvalue())
    return path


def as_parquet(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def scored(folder: Path) -> Rows:
    rows: Rows = pq.read_table(folder).to_pylist()
    return sorted(rows, key=lambda row: int(row["id"]))


def bad_rows(folder: Path) -> Rows:
    return [json.loads(line) for line in (folder / bulk_scoring.BAD_ROWS_FILE).read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "write"),
    [("in.jsonl", as_jsonl), ("in.csv", as_csv), ("in.parquet", as_parquet)],
    ids=["jsonl", "csv", "parquet"],
)
def test_scores_are_those_of_rerank_candidates(
    name: str,
    write: Callable[[Path, Rows], Path],
    score: Score,
    settings: Settings,
    make_ranker: Callable[[Settings], Ranker],
    tmp_path: Path,
) -> None:
    """Of any format each row gets the score and rank of `rerank_candidates`, though a question's rows lie apart."""
    report = score(write(tmp_path / name, ROWS))
    assert (report.rows, report.known_rows, report.bad_rows) == (20, 0, 0)
    assert report.parts > 1
    ranker, found = make_ranker(settings), scored(tmp_path / "out")
    assert [row["text"] for row in found] == [row["text"] for row in ROWS]
    for question in {row["question"] for row in ROWS}:
        given = [row for row in ROWS if row["question"] == question]
        for ranked in rerank_candidates(question, given, ranker=ranker):
            row = found[ranked["id"]]
            assert (row["score"], row["rank"]) == (ranked["score"], ranked["rank"])
            assert row["model_version"] == ranker.model_version
    assert len({row["score"] for row in found}) > 10


def test_a_row_a_question(
    score: Score, settings: Settings, make_ranker: Callable[[Settings], Ranker], tmp_path: Path
) -> None:
    """A list of texts or of objects gets lists of scores and ranks in its order, and the rows keep theirs."""
    rows: Rows = [
        {"id": 0, "question": "What helps?", "candidates": ["Rest helps a lot.", {"text": "Water helps.", "n": 7}]},
        {"id": 1, "question": "And then?", "candidates": []},
        {"id": 2, "question": "What helps now?", "candidates": ["Walk."]},
    ]
    assert score(as_jsonl(tmp_path / "in.jsonl", rows), part_rows=1).parts == 3
    found = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["id"] for row in found] == [0, 1, 2]
    assert found[0]["candidates"][1] == {"text": "Water helps.", "n": 7}
    ranked = rerank_candidates("What helps?", ["Rest helps a lot.", "Water helps."], ranker=make_ranker(settings))
    by_text = {each["text"]: (each["score"], each["rank"]) for each in ranked}
    pairs = list(zip(found[0]["score"], found[0]["rank"], strict=True))
    assert pairs == [by_text["Rest helps a lot."], by_text["Water helps."]]
    assert (found[1]["score"], found[1]["rank"]) == ([], [])


def test_groups_part_what_asks_the_same(score: Score, tmp_path: Path) -> None:
    """One question asked twice is two rankings where a group says so, and one without it."""
    rows = [{**row, "question": "What helps?", "visit": row["id"] % 2} for row in ROWS[:8]]
    path = as_jsonl(tmp_path / "in.jsonl", rows)
    score(path, columns={"group": "visit"})
    assert sorted(row["rank"] for row in scored(tmp_path / "out")) == [1, 1, 2, 2, 3, 3, 4, 4]
    score(path, output=tmp_path / "all")
    assert sorted(row["rank"] for row in scored(tmp_path / "all")) == [*range(1, 9)]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "in.jsonl",
            b'{"id":1,"question":"q","text":"a"}\nno\n\n{"id":2,"question":" ","text":"a"}\n{"id":3,"question":"q"}\n'
            b'{"id":8,"question":["q"],"text":"b"}\n{"id":4,"question":"q","text":"\\ud800"}\n'
            b'{"id":5,"question":"q","text":7}\n[1]\n{"id":6,"question":"q","text":"c\xff"}\n',
            {
                2: "is not JSON",
                4: "its question is not a text",
                5: "it has no text",
                6: "its 'question' is \"['q']\", and no text",
                7: "its 'text' is not UTF-8",
                8: "its 'text' is '7'",
                9: "not a JSON object",
                10: "not UTF-8",
            },
        ),
        (
            "in.csv",
            b'id,question,text\n1,q,a\n2,q\n3,q,"b\nc"\n4,,d\n5,q,\xff\n6,q, \n',
            {3: "the row has 2 columns", 6: "it has no question", 7: "not UTF-8", 8: "it has no text"},
        ),
    ],
)
def test_bad_rows_go_aside(name: str, content: bytes, expected: dict[int, str], score: Score, tmp_path: Path) -> None:
    """A row that cannot be scored stands in a side file with its line and the reason, and the others are scored."""
    (tmp_path / name).write_bytes(content)
    report = score(tmp_path / name)
    found = bad_rows(tmp_path / "out")
    assert sorted(each["line"] for each in found) == sorted(expected)
    for each in found:
        assert expected[each["line"]] in each["reason"]
        assert each["file"] == str(tmp_path / name)
    assert report.bad_rows == len(expected)
    assert report.rows == len(scored(tmp_path / "out")) == (1 if name == "in.jsonl" else 2)


def test_bad_rows_of_parquet(score: Score, tmp_path: Path) -> None:
    """In Parquet a bad row is named by its number."""
    as_parquet(tmp_path / "in.parquet", [*ROWS[:2], {**ROWS[2], "text": None}, ROWS[3]])
    assert score(tmp_path / "in.parquet").rows == 3
    assert [(each["line"], each["reason"]) for each in bad_rows(tmp_path / "out")] == [(3, "it has no text")]


def test_broken_texts_of_parquet(score: Score, tmp_path: Path) -> None:
    """In Parquet a row is bad if what is needed of it is not UTF-8, and other columns may hold anything."""
    broken = pa.array([b"a", b"\xff", b"c", b"d", b"e"]).view(pa.string())
    for name in ("question", "text", "group", "other"):
        columns = {of: pa.array(["a", "b", "c", "d", "e"]) for of in ("question", "text", "group")} | {name: broken}
        pq.write_table(pa.table(columns), tmp_path / "in.parquet")
        assert score(tmp_path / "in.parquet", output=tmp_path / name).rows == (5 if name == "other" else 4)
        if name != "other":
            assert [(each["line"], each["reason"]) for each in bad_rows(tmp_path / name)] == [
                (2, f"its {name!r} is not UTF-8")
            ]


@pytest.mark.parametrize(
    "values",
    [
        [5, "x1", None, "7"],
        [{"a": 1}, {"a": "s"}, {"b": [1, "c"]}, {}],
        [[1], ["a"], {"a": 1}, 2**70],
        [1.0, 1, True, "1"],
    ],
)
@pytest.mark.parametrize("chunk", [1, 100])
def test_values_of_several_kinds(
    values: list[Any], chunk: int, score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column of JSON that is only carried along leaves no row out, whatever it holds, and a bad row tells no type."""
    monkeypatch.setattr(candidate_files, "_CHUNK", chunk)
    bad: Rows = [{"question": ["q"], "text": "a"}, {"question": 5, "text": "a"}, {"question": "q", "text": {"a": 1}}]
    rows = [{"id": id, "question": "q", "text": f"t{id}", "of": value} for id, value in enumerate(values)]
    report = score(as_jsonl(tmp_path / "in.jsonl", [*bad, *rows]), part_rows=2)
    assert (report.rows, report.bad_rows) == (4, 3)
    found = scored(tmp_path / "out")
    assert sorted(row["rank"] for row in found) == [1, 2, 3, 4]
    for row, value in zip(found, values, strict=True):
        if isinstance(row["of"], str):
            expected = [value] if isinstance(value, str) else [json.dumps(value), json.dumps(value).replace(".0", "")]
            assert row["of"] in expected
        elif row["of"] is not None:
            assert {name: each for name, each in row["of"].items() if each is not None} == {
                name: each if isinstance(each, str) else json.dumps(each) if name == "a" else ["1", "c"]
                for name, each in value.items()
            }


@pytest.mark.parametrize("chunk", [1, 100])
def test_candidates_of_several_kinds(chunk: int, score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of texts and of objects with whatever else may be mixed; what is no candidate is a bad row."""
    monkeypatch.setattr(candidate_files, "_CHUNK", chunk)
    lists: list[Any] = ["no", [7], ["a", "b"], [{"text": "c", "n": 1}, "d"], [{"text": "e", "n": "x"}], [{"n": 1}], []]
    rows = [{"id": id, "question": f"q{id}", "candidates": each} for id, each in enumerate(lists)]
    report = score(as_jsonl(tmp_path / "in.jsonl", rows))
    assert [each["line"] for each in bad_rows(tmp_path / "out")] == [1, 2, 6]
    assert report.rows == 4
    found = [[each["text"] for each in row["candidates"]] for row in scored(tmp_path / "out")]
    assert found == [["a", "b"], ["c", "d"], ["e"], []]


@pytest.mark.parametrize(
    ("groups", "ranks"),
    [
        ([pa.array([1, 2]), pa.array([1.0, None]), pa.array([2, 1], pa.uint8())], [1, 1, 1, 2, 2, 3]),
        ([pa.array(["None", None]), pa.array(["None", None])], [1, 1, 2, 2]),
        ([pa.array([1, 2]), pa.array([Decimal("1.00"), Decimal("2.00")])], [1, 1, 2, 2]),
    ],
    ids=["whole and broken", "none", "decimal"],
)
def test_groups_of_several_types(groups: list[Any], ranks: list[int], score: Score, tmp_path: Path) -> None:
    """Equal groups are one group though files have other types for them, in whatever part; none at all is another."""
    (tmp_path / "in").mkdir()
    for place, group in enumerate(groups):
        for copy in range(4):  # of so many questions that there are several parts
            table = pa.table({"question": [f"q{copy}"] * 2, "text": [f"a{place}", f"b{place}"], "group": group})
            pq.write_table(table, tmp_path / "in" / f"{place}-{copy}.parquet")
    assert score(tmp_path / "in", part_rows=1).parts > 1
    assert sorted(row["rank"] for row in pq.read_table(tmp_path / "out").to_pylist()) == sorted(ranks * 4)


def test_groups_of_json(score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number is one group in JSON, too, whole or not, and the text of it, where there are texts."""
    monkeypatch.setattr(candidate_files, "_CHUNK", 2)
    groups = [1, 1, 1.0, 2.5, True, "1", "x", None]
    rows = [{"id": id, "question": "q", "text": f"t{id}", "group": group} for id, group in enumerate(groups)]
    score(as_jsonl(tmp_path / "in.jsonl", rows), part_rows=1)
    assert sorted(row["rank"] for row in scored(tmp_path / "out")) == [1, 1, 1, 1, 1, 2, 3, 4]


def test_a_group_that_comes_late(score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rows of JSONL, and of its files, need not have what others are grouped by."""
    monkeypatch.setattr(candidate_files, "_CHUNK", 2)
    groups = [None, None, None, "x", "y", "y", None]
    rows = [
        {"id": id, "question": "q", "text": f"t{id}"} | ({"group": group} if group else {})
        for id, group in enumerate(groups)
    ]
    as_jsonl(tmp_path / "in" / "a.jsonl", rows[:6])
    as_jsonl(tmp_path / "in" / "b.jsonl", rows[6:])
    score(tmp_path / "in", part_rows=1)
    ranks = [row["rank"] for row in scored(tmp_path / "out")]
    assert (sorted([*ranks[:3], ranks[6]]), ranks[3], sorted(ranks[4:6])) == ([1, 2, 3, 4], 1, [1, 2])


def test_an_input_out_of_reach(score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the input that is named, not the output."""

    def unreachable(place: candidate_files.Place) -> Any:
        raise OSError("AWS Error NETWORK_CONNECTION during HeadObject operation")

    monkeypatch.setattr(bulk_scoring, "input_files", unreachable)
    with pytest.raises(ImportFileError, match=r"in.jsonl' cannot be read or written: AWS Error NETWORK_CONNECTION"):
        score(tmp_path / "in.jsonl")


def test_columns_keep_their_types(score: Score, tmp_path: Path) -> None:
    """Parquet's columns come out as they went in, whole and broken numbers of JSON as numbers, and old scores go."""
    table = pa.table(
        {
            "question": pa.array(["q", "q"]).dictionary_encode(),
            "text": pa.array(["a", "b"], pa.large_string()),
            "id": pa.array([1, 2], pa.uint8()),
            "when": pa.array([0, 1], pa.timestamp("ns", "UTC")),
            "score": ["old", "old"],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    score(tmp_path / "in.parquet")
    (part,) = (tmp_path / "out").glob("part-*")
    found = pq.read_table(part)
    assert found.select(["question", "text", "id", "when"]).equals(table.select(["question", "text", "id", "when"]))
    assert found.schema.types[-3:] == [pa.float64(), pa.int32(), pa.string()]
    rows = [{"id": place, "question": "q", "text": "t", "n": n} for place, n in enumerate([None, 1, 2.5])]
    score(as_jsonl(tmp_path / "in.jsonl", [*rows, {**rows[0], "id": 3, "n": {}}]), output=tmp_path / "mixed")
    assert [row["n"] for row in scored(tmp_path / "mixed")] == [None, 1.0, 2.5, None]


def test_a_folder(score: Score, tmp_path: Path) -> None:
    """A folder's files are one input, those in its folders too, packed ones too; hidden and other files are not."""
    as_parquet(tmp_path / "in" / "a" / "1.parquet", ROWS[:7])
    as_parquet(tmp_path / "in" / "b.parquet", [{**row, "more": 1.5} for row in ROWS[7:]])
    for other in ("_metadata.parquet", ".hidden.parquet", "README.md"):
        (tmp_path / "in" / other).write_text("none")
    assert score(tmp_path / "in").rows == 20
    assert [row["more"] for row in scored(tmp_path / "out")] == [None] * 7 + [1.5] * 13


def test_an_address(score: Score, tmp_path: Path) -> None:
    """Input and output may be addresses that pyarrow knows."""
    as_jsonl(tmp_path / "in.jsonl", ROWS)
    assert score((tmp_path / "in.jsonl").as_uri(), output=(tmp_path / "out").as_uri()).rows == 20
    assert len(scored(tmp_path / "out")) == 20


def test_a_run_goes_on(score: Score, settings: Settings, tmp_path: Path) -> None:
    """What a stopped run has finished is not done again, a part that is cut is; a whole run is left as it is."""
    path = as_jsonl(tmp_path / "in.jsonl", ROWS)
    whole = score(path, output=tmp_path / "whole", part_rows=2)
    told: list[tuple[str, int, int]] = []

    def stop(what: str, unit: str) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            if what == "Scoring" and done >= 10:
                raise KeyboardInterrupt

        return report

    with pytest.raises(KeyboardInterrupt):
        score(path, part_rows=2, progress=stop)
    there = sorted((tmp_path / "out").glob("part-*"))
    assert 0 < len(there) < whole.parts
    before = there[0].stat().st_mtime_ns
    there[1].write_bytes(there[1].read_bytes()[:100])
    report = score(path, progress=lambda what, unit: lambda done, total: told.append((what, done, total)))
    assert 0 < report.known_rows < 20
    assert [what for what, _, _ in told] == ["Scoring"] * len(told)
    assert (told[0][1], told[-1][1:]) == (report.known_rows, (20, 20))
    assert there[0].stat().st_mtime_ns == before
    assert scored(tmp_path / "out") == scored(tmp_path / "whole")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(
        file.name for file in (tmp_path / "whole").iterdir()
    )
    assert score(path).known_rows == 20


def test_another_input_or_model_is_refused(score: Score, settings: Settings, tmp_path: Path) -> None:
    """A result is of one input, of the same columns, and of one model; what is asked of another one is refused."""
    path = as_jsonl(tmp_path / "in.jsonl", ROWS)
    score(path)
    with pytest.raises(ImportFileError, match="begun with the columns"):
        score(path, columns={"text": "question"})
    put_model(settings, slope=2.0)
    with pytest.raises(ImportFileError, match=r"begun with the model passages-.* live now"):
        score(path)
    put_model(settings)
    assert score(path).known_rows == 20
    times = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace("twice", "often"))
    os.utime(path, ns=(times, times + 1))
    with pytest.raises(ImportFileError, match=r"not the one .* begun with: 'in.jsonl' is new, gone or was written"):
        score(path)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, {}, "There is no file or folder"),
        ({"in.txt": "a"}, {}, "does not tell the format"),
        ({"in/a.txt": "a"}, {}, "holds no file of candidates"),
        ({"in/a.csv": "a", "in/b.jsonl": "{}"}, {}, r"several formats \(csv, jsonl\)"),
        (
            {"in.csv": "a,b\n1,2\n"},
            {},
            r"has no column for question\. Its columns are: a, b\. .*--column question=NAME",
        ),
        ({"in.csv": "question,b\n1,2\n"}, {}, "has no column for text.*candidates=NAME"),
        ({"in.csv": "question,text\n1,2\n"}, {"columns": {"text": "c"}}, "has no column 'c'"),
        ({"in.csv": "question,text\n1,2\n"}, {"columns": {"x": "text"}}, "There is no field 'x'"),
        ({"in.csv": "question,score\n1,2\n"}, {"columns": {"text": "score"}}, "'score' cannot be the text: the result"),
        ({"in.csv": "question,text,rank\n1,2,3\n"}, {"columns": {"group": "rank"}}, "'rank' cannot be the group"),
        ({"in.csv": "question,text,text\n1,2,3\n"}, {}, "Two columns have the name 'text'"),
        ({"in.csv": "question,text\n"}, {}, r"Nothing in .* can be scored \(0 bad rows\)"),
        ({"in.jsonl": "x\n"}, {}, r"can be scored \(1 bad rows, the first: the line is not JSON"),
        ({"in.jsonl": '{"question":"q","text":"a","candidates":["a"]}'}, {}, "Say which one holds the candidates"),
        ({"in/a.csv": "question,text\n1,2\n", "in/b.csv": ""}, {}, r"in/b.csv' cannot be read. The file is empty"),
        ({"in.parquet": "PAR1"}, {}, "in.parquet' cannot be read or written"),
        ({"in.jsonl": "PAR1"}, {}, "is Parquet"),
        ({"in.csv": "question,text\n1,2\n", "out": "a"}, {}, "is a file. The result is a folder"),
        ({"in.csv": "question,text\n1,2\n", "out/mine.txt": "a"}, {}, "is not empty, and no run of this: 'mine.txt'"),
        ({"in/a.csv": "question,text\n1,2\n"}, {"output": "in/out"}, "lie in each other"),
        ({"in.csv": "question,text\n1,2\n"}, {"output": ""}, "An empty text names no"),
        (
            {"in.csv": "question,text\n1,2\n"},
            {"output": "nonsense://me:word@a/b"},
            r"'nonsense://\*\*\*@a/b' is not a valid address",
        ),
    ],
)
def test_what_is_refused(
    files: dict[str, str],
    options: dict[str, Any],
    message: str,
    score: Score,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What cannot be read or written is an error that says what to do."""
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    source = next((name.split("/")[0] for name in files), "in.csv")
    with pytest.raises(ImportFileError, match=message):
        score(source, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "spark"}, "engine='spark' is not a valid engine"),
        ({"address": "auto"}, "Add engine='ray'"),
        ({"workers": -1}, "workers=-1"),
        ({"part_rows": 0}, "part_rows=0"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str, score: Score, tmp_path: Path) -> None:
    """A wrong argument is a ValueError that names it."""
    with pytest.raises(ValueError, match=message):
        score(tmp_path, **options)


def test_without_a_model(score: Score, settings: Settings, tmp_path: Path) -> None:
    """Without a model, or while it is off, nothing is scored, or by the prior where the settings say so."""
    path = as_jsonl(tmp_path / "in.jsonl", ROWS)
    off_marker(settings.model_path).touch()
    with pytest.raises(ModelFileError, match="is switched off"):
        score(path)
    off_marker(settings.model_path).unlink()
    settings.model_path.unlink()
    with pytest.raises(ModelFileError, match=r"There is no reward model at .*RLHF_RERANK_WITHOUT_MODEL=prior"):
        score(path)
    by_prior = replace(settings, rerank_without_model="prior")
    assert score(path, settings=by_prior, make_ranker=PriorRanker).model_version == "prior-test"
    assert {row["score"] for row in scored(tmp_path / "out")} == {0.5}


class PriorRanker(Ranker):
    """A ranker whose prior likes everything equally."""

    def ranking_by_prior(self, query: str, candidates: Sequence[Candidate], *, pointwise: bool = False) -> Ranking:
        return Ranking(tuple(replace(each, score=0.5) for each in incoming_order(candidates)), "prior-test")


def test_one_run_at_a_time(score: Score, tmp_path: Path) -> None:
    """Into one folder one run writes at a time."""
    path = as_jsonl(tmp_path / "in.jsonl", ROWS)

    def again(what: str, unit: str) -> Callable[[int, int], None]:
        with pytest.raises(ImportFileError, match="Another run writes to"):
            score(path)
        return lambda done, total: None

    assert score(path, progress=again).rows == 20


def test_a_promotion_changes_nothing(score: Score, settings: Settings, tmp_path: Path) -> None:
    """A model that becomes live meanwhile scores none of the rest."""
    path = as_jsonl(tmp_path / "in.jsonl", ROWS)
    report = score(path, progress=lambda what, unit: lambda done, total: put_model(settings, slope=3.0))
    assert {row["model_version"] for row in scored(tmp_path / "out")} == {report.model_version}


def test_another_run_meanwhile(score: Score, tmp_path: Path) -> None:
    """A run stops once another machine has begun one in its folder, and takes no part of another run for its own."""
    path = as_jsonl(tmp_path / "in.jsonl", ROWS)
    run = tmp_path / "out" / bulk_scoring.RUN_FILE

    def other(what: str, unit: str) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            if done and what == "Scoring":
                run.write_text(json.dumps(json.loads(run.read_text()) | {"run": "another"}))

        return report

    with pytest.raises(ImportFileError, match="Another run writes to"):
        score(path, part_rows=2, progress=other)
    assert len(list((tmp_path / "out").glob("part-*"))) == 1
    assert score(path).known_rows == 0


def test_switched_off_meanwhile(score: Score, settings: Settings, tmp_path: Path) -> None:
    """A model that is switched off scores no further part, and once it is on again the run goes on."""
    path = as_jsonl(tmp_path / "in.jsonl", ROWS)
    marker = off_marker(settings.model_path)
    with pytest.raises(ModelFileError, match="is switched off"):
        score(path, part_rows=2, progress=lambda what, unit: lambda done, total: marker.touch() if done else None)
    assert len(list((tmp_path / "out").glob("part-*"))) == 1
    marker.unlink()
    assert 0 < score(path).known_rows < 20
    assert len(scored(tmp_path / "out")) == 20


def test_workers_get_no_secrets(
    score: Score, settings: Settings, make_ranker: Callable[[Settings], Ranker], tmp_path: Path
) -> None:
    """Of passwords and keys nothing goes to the workers."""
    given: list[Settings] = []

    def noting(of_worker: Settings) -> Ranker:
        given.append(of_worker)
        return make_ranker(of_worker)

    secrets = {"secret_key": "hush-1" * 8, "llm_api_key": "hush-2", "alarm_webhook": "http://hush-3"}
    settings = replace(settings, database_url="postgresql://me:hush-4@there/here", **secrets)
    score(as_jsonl(tmp_path / "in.jsonl", ROWS[:2]), settings=settings, make_ranker=noting)
    assert b"hush" not in pickle.dumps(given)


def test_staging_has_bounded_memory(score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are written to their parts whenever a buffer is full, and come back in the input's order."""
    monkeypatch.setattr(candidate_files, "_BUFFER", 1)
    monkeypatch.setattr(candidate_files, "_CHUNK", 3)
    rows = [{**row, "extra": None if place < 9 else [place]} for place, row in enumerate(ROWS)]
    score(as_jsonl(tmp_path / "in.jsonl", rows))
    assert [row["extra"] for row in scored(tmp_path / "out")] == [row["extra"] for row in rows]
    for part in (tmp_path / "out").glob("part-*"):
        numbers = pq.read_table(part)["id"].to_pylist()
        assert numbers == sorted(numbers)


class BatchedRuntime(QuickRuntime):
    """Makes vectors that depend on how many texts there are, as products of matrices do in their last digits."""

    def encode(self, texts: Any) -> Vectors:
        vectors: Vectors = (super().encode(texts) * (1 + len(texts) / 1000)).astype(np.float32)
        return vectors


def test_vectors_do_not_depend_on_the_batch(tokenizer: Tokenizer) -> None:
    """An encoder that takes texts singly gives each the vector that it has alone, whatever else is asked for."""
    encoder = TextEncoder(BatchedRuntime(), tokenizer)
    texts = ["one text", "another one", "a third"]
    alone = [encoder.encode([text])[0] for text in texts]
    assert not np.array_equal(encoder.encode(texts), alone)
    assert np.array_equal(encoder.singly().encode(texts), alone)


@pytest.mark.slow
def test_processes_score_the_same(tmp_path: Path, settings: Settings) -> None:
    """Two processes write what one does, to the last bit; a process that is lost is told plainly."""
    path = as_parquet(tmp_path / "in.parquet", ROWS)
    options: dict[str, Any] = {"settings": settings, "part_rows": 6}
    score_dataset(path, tmp_path / "one", workers=1, make_ranker=quick_ranker, **options)
    score_dataset(path, tmp_path / "two", workers=2, make_ranker=quick_ranker, **options)
    assert pq.read_table(tmp_path / "one").equals(pq.read_table(tmp_path / "two"))
    with pytest.raises(RlhfLoopError, match=r"A process that scored ended .*the same command goes on"):
        score_dataset(path, tmp_path / "three", workers=2, make_ranker=lost_ranker, **options)


def quick_ranker(settings: Settings) -> Ranker:
    """Make a ranker without weights, in whatever process."""
    tokenizer = load_tokenizer(find_model_folder() / "tokenizer.json")
    return Ranker(settings, encoder=TextEncoder(QuickRuntime(), tokenizer))


def lost_ranker(settings: Settings) -> Ranker:
    """Make a ranker in the first process, and end any other as if it had been killed."""
    if multiprocessing.parent_process() is not None:
        os._exit(9)
    return quick_ranker(settings)


def test_ray_is_an_extra(score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray its engine names the extra, and what was read is kept."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlhf-loop\[ray\]'"):
        score(as_jsonl(tmp_path / "in.jsonl", ROWS), engine="ray")
    assert score(tmp_path / "in.jsonl").rows == 20


def test_the_command(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`rlhf-loop score` says what was scored, how fast, and what was left out, for people and programs."""
    monkeypatch.setattr(score_dataset, "__kwdefaults__", {**score_dataset.__kwdefaults__, "make_ranker": quick_ranker})
    monkeypatch.setenv("RLHF_MODEL_PATH", str(settings.model_path))
    monkeypatch.setenv("RLHF_CACHE_DIR", str(tmp_path))
    as_jsonl(tmp_path / "in.jsonl", [*ROWS, {"id": 20, "question": "q"}])
    out = str(tmp_path / "out")
    command = ["score", str(tmp_path / "in.jsonl"), out, "--workers", "1"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "Scoring: 20 of 20 rows, " in result.stderr
    assert " a second." in result.stderr
    assert "20 rows scored by passages-" in result.stdout
    assert f"1 bad row left out; {out}/_bad_rows.jsonl says which" in result.stdout
    again = CliRunner().invoke(main, [*command, "--json"])
    assert json.loads(again.stdout)["known_rows"] == 20
    refused = CliRunner().invoke(main, [*command, "--address", "here"])
    assert refused.exit_code == 2
    assert "Add engine='ray'" in refused.stderr
