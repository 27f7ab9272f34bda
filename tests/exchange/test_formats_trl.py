from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from databases import memory_database
from rating_files import counts, reasons, write_csv, write_jsonl
from sqlalchemy import Engine, text

from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.formats.base import Labels
from rlhf_loop.exchange.formats.messages import answer_messages, question_messages
from rlhf_loop.exchange.transfer import ExportOptions, export_ratings, import_ratings
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import put_preference, rate, record, stats
from rlhf_loop.training.data import examples
from rlhf_loop.training.pairs import training_pairs

# The examples of https://huggingface.co/docs/trl/dataset_formats, in its forms.
STANDARD = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
IMPLICIT = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
ASKED = {"role": "user", "content": "What color is the sky?"}
BLUE, GREEN = ({"role": "assistant", "content": f"It is {color}."} for color in ("blue", "green"))
CONVERSATION = {"prompt": [ASKED], "chosen": [BLUE], "rejected": [GREEN]}
IMPLICIT_CONVERSATION = {"chosen": [ASKED, BLUE], "rejected": [ASKED, GREEN]}


def preferences(engine: Engine) -> list[tuple[Any, ...]]:
    """Return prompt, better answer, worse answer, reviewer and role of each preference."""
    wanted = """
        SELECT a.user_prompt, CASE p.preferred WHEN 'first' THEN a.ai_response ELSE b.ai_response END AS better,
            CASE p.preferred WHEN 'first' THEN b.ai_response ELSE a.ai_response END AS worse, p.reviewer, p.role
        FROM rlhf_preferences p
            JOIN rlhf_interactions a ON a.id = p.first_id JOIN rlhf_interactions b ON b.id = p.second_id
        ORDER BY p.id
    """
    with transaction(engine) as connection:
        return [tuple(row) for row in connection.execute(text(wanted))]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("row", "prompt", "better", "worse"),
    [
        (STANDARD, "The sky is", " blue.", " green."),
        (IMPLICIT, "The sky is", "blue.", "green."),
        (CONVERSATION, "What color is the sky?", "It is blue.", "It is green."),
        (IMPLICIT_CONVERSATION, "What color is the sky?", "It is blue.", "It is green."),
        (
            {**CONVERSATION, "prompt": [{"role": "system", "content": "Be brief."}, ASKED]},
            "What color is the sky?",
            "It is blue.",
            "It is green.",
        ),
        (
            {**CONVERSATION, "prompt": [ASKED, BLUE, {"role": "user", "content": "Always?"}]},
            "user: What color is the sky?\n\nassistant: It is blue.\n\nuser: Always?",
            "It is blue.",
            "It is green.",
        ),
        (
            {**CONVERSATION, "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "Blue."}]}]},
            "What color is the sky?",
            "Blue.",
            "It is green.",
        ),
        (
            {"prompt": "What color is the sky?", "chosen": [ASKED, BLUE], "rejected": [ASKED, GREEN]},
            "What color is the sky?",
            "It is blue.",
            "It is green.",
        ),
        (
            {"prompt": "The sky is", "chosen": "The sky is blue.", "rejected": "The sky is green."},
            "The sky is",
            "blue.",
            "green.",
        ),
        (
            {
                "conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Sky?"}],
                "chosen": {"from": "gpt", "value": "Blue."},
                "rejected": {"from": "gpt", "value": "Green."},
            },
            "Sky?",
            "Blue.",
            "Green.",
        ),
    ],
)
def test_each_form_of_a_preference_is_read(
    engine: Engine, tmp_path: Path, row: Any, prompt: str, better: str, worse: str
) -> None:
    """Texts and messages, with the prompt of its own or within; the file twice changes nothing."""
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    assert counts(import_ratings(engine, path, format="trl-preference", reviewer="ann")) == (1, 1, 0, 0, 0)
    assert preferences(engine) == [(prompt, better, worse, "ann", "expert")]
    assert counts(import_ratings(engine, path, format="trl-preference", reviewer="ann")) == (1, 0, 0, 1, 0)
    assert (stats(engine).interactions, stats(engine).rated) == (2, 0)


REPEATED = [("The sky is", "The sky is blue.", "The sky is green."), ("Is it?", "Is it? Yes.", "Is it? No.")]


@pytest.mark.parametrize("format", ["trl-preference", "trl-unpaired"])
@pytest.mark.parametrize(
    ("rows", "answers"),
    [
        (REPEATED, ["No.", "Yes.", "blue.", "green."]),
        ([*REPEATED, ("q", "a", "b")], ["No.", "The sky is blue.", "The sky is green.", "Yes.", "a", "b"]),
        ([("q", "a", "b"), *REPEATED], ["No.", "The sky is blue.", "The sky is green.", "Yes.", "a", "b"]),
        ([("Drug", "Drugs heal.", "Drug-like.")], ["Drug-like.", "Drugs heal."]),
        ([("Drug", "Drug is a word.", "Drugs heal."), REPEATED[1]], ["Drug is a word.", "Drugs heal.", "No.", "Yes."]),
        ([("Is it?", "Is it?Yes.", "Is it?No.")], ["No.", "Yes."]),
        ([("Is it?", "Is it?", "Is it?No.")], ["Is it?", "Is it?No."]),
        ([("Sky:\n", "Sky:\nblue", "Sky: green"), ("q", "a", "b")], ["a", "b", "blue", "green"]),
    ],
)
def test_a_prompt_is_cut_off_only_where_it_is_repeated(
    sqlite_engine: Engine, tmp_path: Path, format: str, rows: list[tuple[str, ...]], answers: list[str]
) -> None:
    """It ends in a mark, and a blank follows, or all of the file's answers begin with it."""
    given: list[dict[str, Any]] = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]
    if format == "trl-unpaired":
        if ("Drug", "Drug is a word.", "Drugs heal.") in rows or "Is it?" in rows[0][1:]:
            pytest.skip("One completion alone is no different from those that repeat the prompt.")
        given = [
            {"prompt": row["prompt"], "completion": row[name], "label": 1} for row in given for name in list(row)[1:]
        ]
    import_ratings(sqlite_engine, write_jsonl(tmp_path / "a.jsonl", given), format=format)
    with transaction(sqlite_engine) as connection:
        found = connection.execute(text("SELECT ai_response FROM rlhf_interactions")).scalars().all()
    assert sorted(found) == answers


def test_the_answers_of_a_question_are_one_group(engine: Engine, tmp_path: Path) -> None:
    """Each answer is there once, whatever pairs it is in, and all of a question belong together."""
    rows = [{"prompt": "q", "chosen": a, "rejected": b} for a, b in ("ab", "bc", "ac")]
    import_ratings(engine, write_jsonl(tmp_path / "a.jsonl", rows), format="trl-preference")
    assert (stats(engine).interactions, stats(engine).questions, len(preferences(engine))) == (3, 1, 3)


def test_a_changed_preference_replaces_the_former(engine: Engine, tmp_path: Path) -> None:
    """The same reviewer may change sides; another reviewer's preference is another one."""
    first = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    other = write_jsonl(tmp_path / "b.jsonl", [{"prompt": "q", "chosen": "b", "rejected": "a"}])
    import_ratings(engine, first, format="trl-preference", reviewer="ann")
    import_ratings(engine, first, format="trl-preference", reviewer="bob", role=ReviewerRole.END_USER)
    assert counts(import_ratings(engine, other, format="trl-preference", reviewer="ann")) == (1, 0, 1, 0, 0)
    assert preferences(engine) == [("q", "b", "a", "ann", "expert"), ("q", "a", "b", "bob", "end_user")]


def test_bad_preferences_are_all_named_by_line(engine: Engine, tmp_path: Path) -> None:
    """What is missing, of another kind, or against an earlier line is named; nothing is stored."""
    rows: list[Any] = [
        STANDARD,
        {"prompt": "q", "chosen": "a"},
        {"prompt": "q", "chosen": "", "rejected": "b"},
        {"prompt": "q", "chosen": "same", "rejected": "same"},
        {"chosen": "Yes.", "rejected": "No."},
        {"chosen": [BLUE], "rejected": [GREEN]},
        {"prompt": "q", "chosen": 7, "rejected": "b"},
        {"prompt": [], "chosen": "It is blue.", "rejected": [GREEN]},
        {"prompt": [{"role": "system", "content": "Be brief."}], "chosen": [BLUE], "rejected": [GREEN]},
        {"prompt": [ASKED], "chosen": [BLUE, GREEN], "rejected": [GREEN]},
        {"prompt": [ASKED], "chosen": [{"role": "assistant", "tool_calls": []}], "rejected": [GREEN]},
        {"prompt": ["What?"], "chosen": [BLUE], "rejected": [GREEN]},
        {"prompt": "q", "chosen": "a\x00", "rejected": "b"},
        {"prompt": "The sky is", "chosen": " green.", "rejected": " blue."},
        ["The sky is"],
        {"prompt": "Another?", "chosen": [ASKED, BLUE], "rejected": [ASKED, GREEN]},
    ]
    found = reasons(engine, write_jsonl(tmp_path / "a.jsonl", rows), format="trl-preference")
    assert list(found) == list(range(2, 17))
    for line, words in {
        2: "rejected is missing",
        3: "chosen is missing",
        4: "chosen and rejected are the same",
        5: "do not begin alike",
        6: "do not begin with the same messages",
        7: "chosen is '7', neither a text nor messages",
        8: "not of one kind",
        9: "no message of the user",
        10: "chosen has 2 messages, not one answer",
        11: "chosen has 0 messages, not one answer",
        12: "not a message with a role and a content",
        13: "NUL",
        14: "line 1 prefers the other of the same two answers, also by 'anonymous'",
        15: "not a JSON object",
        16: "chosen begins with the question 'What color is the sky?', which is not the prompt",
    }.items():
        assert words in found[line]


@pytest.fixture
def judged(engine: Engine) -> Engine:
    """A question with four answers that experts rated, compared and corrected, and what must not go out."""
    ids = record(engine, [Rating("q", text, candidate_group="g") for text in ("five", "two", "three", "end users'")])
    rate(engine, ids[0], reviewer="ann", rating=5)
    rate(engine, ids[1], reviewer="ann", rating=2, correction="corrected")
    rate(engine, ids[2], reviewer="ann", rating=3)
    rate(engine, ids[3], reviewer="visitor:1", rating=5, correction="no expert's", role=ReviewerRole.END_USER)
    [refused] = record(engine, [Rating("other", "refused")])
    rate(engine, refused, reviewer="ann", rating=2, correction="wrong")
    with transaction(engine) as connection:
        for reviewer, preferred in (("ann", "first"), ("bob", "first"), ("cat", "second"), ("dan", "tie")):
            connection.execute(
                text(
                    "INSERT INTO rlhf_preferences (first_id, second_id, reviewer, preferred) "
                    "VALUES (:first, :second, :reviewer, :preferred)"
                ),
                {"first": ids[1], "second": ids[2], "reviewer": reviewer, "preferred": preferred},
            )
        connection.execute(
            text(
                "INSERT INTO rlhf_correction_decisions (review_id, correction, approved, decided_by) "
                "SELECT id, correction, false, 'eve' FROM rlhf_reviews WHERE correction = 'wrong'"
            )
        )
    return engine


def test_preferences_go_out(judged: Engine, tmp_path: Path) -> None:
    """First what most experts preferred, then corrections that nobody refused, then ratings, against no preference."""
    assert export_ratings(judged, tmp_path / "a.jsonl", format="trl-preference") == 4
    assert [tuple(row.values()) for row in lines(tmp_path / "a.jsonl")] == [
        ("q", "two", "three"),
        ("q", "corrected", "two"),
        ("q", "five", "three"),
        ("q", "five", "two"),
    ]
    assert list(lines(tmp_path / "a.jsonl")[0]) == ["prompt", "chosen", "rejected"]
    options = ExportOptions(min_gap=3)
    assert export_ratings(judged, tmp_path / "a.jsonl", format="trl-preference", options=options) == 3


def test_what_goes_out_is_what_training_learns_from(judged: Engine, tmp_path: Path) -> None:
    """Preferences and corrections are training's own: not two wordings of one answer, nor answers to two questions."""
    served = (("r", "same  words"), ("r", "same words"), ("to another question", "an answer"))
    ids = record(judged, [Rating(prompt, text, candidate_group="h") for prompt, text in served])
    with transaction(judged) as connection:
        for other in ids[1:]:
            put_preference(connection, ids[0], other, reviewer="ann")
    export_ratings(judged, tmp_path / "a.jsonl", format="trl-preference", options=ExportOptions(min_gap=4))
    learned = [
        (question.prompt, *question.responses)
        for chunk in training_pairs(judged).chunks()
        for question in chunk.questions
    ]
    assert sorted(tuple(row.values()) for row in lines(tmp_path / "a.jsonl")) == sorted(learned)
    assert len(learned) == 2


@pytest.mark.parametrize("weighting", [True, False])
def test_who_counts_nothing_in_training_does_not_go_out(engine: Engine, tmp_path: Path, weighting: bool) -> None:
    """Ratings and preferences of an expert whom the others contradict are left out, unless all count alike."""
    ids = record(engine, [Rating(f"question {n}", "answer") for n in range(40)])
    for n, id in enumerate(ids):
        for reviewer in ("ann", "bob", "cat", "dan"):
            rate(engine, id, reviewer=reviewer, rating=5 if n % 2 else 1)
        rate(engine, id, reviewer="eve", rating=1 if n % 2 else 5)
    one, other = record(engine, [Rating("alone", "one"), Rating("alone", "other")])
    rate(engine, one, reviewer="eve", rating=5)
    with transaction(engine) as connection:
        put_preference(connection, one, other, reviewer="eve")
    options = ExportOptions(reviewer_weighting=weighting)
    export_ratings(engine, tmp_path / "a.jsonl", format="trl-unpaired", options=options)
    assert len(lines(tmp_path / "a.jsonl")) == (40 if weighting else 41)
    export_ratings(engine, tmp_path / "a.jsonl", format="trl-preference", options=options)
    assert len(lines(tmp_path / "a.jsonl")) == (0 if weighting else 1)


def test_ratings_go_out_unpaired(judged: Engine, tmp_path: Path) -> None:
    """Each answer that experts rated once, with a label: good from 4 on."""
    export_ratings(judged, tmp_path / "a.jsonl", format="trl-unpaired")
    found = {tuple(row.values()) for row in lines(tmp_path / "a.jsonl")}
    assert found == {("q", "five", True), ("q", "two", False), ("q", "three", False), ("other", "refused", False)}
    assert list(lines(tmp_path / "a.jsonl")[0]) == ["prompt", "completion", "label"]


def test_an_answer_served_twice_is_one(engine: Engine, tmp_path: Path) -> None:
    """Its rating is the lower median; questions are the same whatever their case."""
    ids = record(engine, [Rating(prompt, text) for prompt in ("Q", "q") for text in ("a", "b")])
    for id, rating in zip(ids, (5, 2, 1, 3), strict=True):
        rate(engine, id, rating=rating)
    assert export_ratings(engine, tmp_path / "a.jsonl", format="trl-preference") == 1
    assert [(row["chosen"], row["rejected"]) for row in lines(tmp_path / "a.jsonl")] == [("b", "a")]


@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "a.csv"])
@pytest.mark.parametrize("format", ["trl-preference", "trl-unpaired"])
def test_what_goes_out_comes_back(
    sqlite_engine: Engine, tmp_path: Path, format: str, name: str, conversational: bool
) -> None:
    """In each kind of file, as texts and as messages; messages do not fit into CSV."""
    for n in range(3):
        good, bad = record(sqlite_engine, [Rating(f"q{n}", "a"), Rating(f"q{n}", "b\n'c'")])
        rate(sqlite_engine, good, rating=5)
        rate(sqlite_engine, bad, rating=1)
    options = ExportOptions(conversational=conversational)
    if conversational and name == "a.csv":
        with pytest.raises(ImportFileError, match=r"holds objects\. End the name in \.jsonl"):
            export_ratings(sqlite_engine, tmp_path / name, format=format, options=options)
        return
    rows = export_ratings(sqlite_engine, tmp_path / name, format=format, options=options)
    other = memory_database()
    assert counts(import_ratings(other, tmp_path / name, format=format)) == (rows, rows, 0, 0, 0)
    if format == "trl-preference":
        assert len(preferences(other)) == 3
        assert {row[1:3] for row in preferences(other)} == {("a", "b\n'c'")}
    else:
        assert {(e.response, e.rating) for e in examples(other)} == {("a", 5), ("b\n'c'", 1)}
    other.dispose()


def test_parquet_has_trls_types(judged: Engine, tmp_path: Path) -> None:
    """Messages are lists of structures, a label is a boolean."""
    options = ExportOptions(conversational=True)
    export_ratings(judged, tmp_path / "a.parquet", format="trl-unpaired", options=options)
    table = pq.read_table(tmp_path / "a.parquet")
    assert str(table.schema.field("label").type) == "bool"
    assert str(table.schema.field("prompt").type) == "list<element: struct<role: string, content: string>>"


def test_labels_become_ratings(engine: Engine, tmp_path: Path) -> None:
    """True is 5 and false is 1, or what somebody says; CSV has words."""
    path = write_csv(tmp_path / "a.csv", [["prompt", "completion", "label"], ["q", "a", "True"], ["q", "b", "0"]])
    import_ratings(engine, path, format="trl-unpaired", reviewer="ann")
    assert [(e.response, e.rating) for e in examples(engine)] == [("a", 5), ("b", 1)]
    import_ratings(engine, path, format="trl-unpaired", reviewer="ann", labels=Labels(good=4, bad=2))
    assert [(e.response, e.rating) for e in examples(engine)] == [("a", 4), ("b", 2)]
    with pytest.raises(ImportFileError, match="Good are 4 and 5, bad are the ratings below 4"):
        Labels(good=3)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completion": "a", "label": 1.0},
        {"prompt": [{"role": "user", "content": "q"}], "completion": answer_messages("a"), "label": "1.0"},
        {"prompt": "q", "completion": [*question_messages("q"), *answer_messages("a")], "label": True},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "kto_tag": True},
        {"prompt": "q", "completion": "a", "label": "", "kto_tag": True},
        {"prompt": "q", "completion": "a", "label": None, "kto_tag": "true"},
    ],
)
def test_each_form_of_a_label(sqlite_engine: Engine, tmp_path: Path, row: dict[str, Any]) -> None:
    """Numbers of columns with gaps, the prompt once more, and ShareGPT's conversation that ends with the answer."""
    import_ratings(sqlite_engine, write_jsonl(tmp_path / "a.jsonl", [row]), format="trl-unpaired")
    assert [(e.prompt, e.response, e.rating) for e in examples(sqlite_engine)] == [("q", "a", 5)]


def test_bad_labels_are_named_by_line(engine: Engine, tmp_path: Path) -> None:
    """A row without a label, or with one that is neither true nor false, is invalid."""
    rows = [{"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a", "label": "maybe"}]
    found = reasons(engine, write_jsonl(tmp_path / "a.jsonl", rows), format="trl-unpaired")
    assert found == {1: "label is missing", 2: "label is 'maybe', neither true nor false"}


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("a.txt", {}, r"does not tell the format of the file\. End the name in \.csv, \.tsv, \.jsonl"),
        ("a.jsonl", {"user_prompt": "question"}, "fixes its names"),
    ],
)
def test_what_cannot_be_is_refused(
    sqlite_engine: Engine, tmp_path: Path, name: str, columns: dict[str, str], message: str
) -> None:
    """A name that tells nothing, and columns of other names, which TRL does not know."""
    with pytest.raises(ImportFileError, match=message):
        import_ratings(sqlite_engine, tmp_path / name, format="trl-preference", columns=columns)


def test_drafts_follow_what_people_judged(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The best and the worst of each list where the model is certain; a list with a rating is judged already."""
    lists = {
        "certain": (0.9, 0.6, 0.2),
        "close": (0.6, 0.45, 0.4),
        "all right": (0.9, 0.8, 0.55),
        "judged": (0.9, 0.5, 0.1),
        "prior": (0.9, 0.5, 0.1),
    }
    answers = [
        Rating(
            name,
            f"{name} {score}",
            candidate_group=name,
            score=score,
            model_version="prior-1" if name == "prior" else "m-1",
        )
        for name, scores in lists.items()
        for score in scores
    ]
    ids = record(sqlite_engine, answers)
    rate(sqlite_engine, ids[9], reviewer="ann", rating=1)
    rate(sqlite_engine, ids[11], reviewer="ann", rating=5)
    path, options = tmp_path / "a.jsonl", ExportOptions(drafts=True)
    export_ratings(sqlite_engine, path, format="trl-preference", options=options)
    judged, draft = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert (judged["chosen"], judged["score_chosen"], judged["margin"]) == ("judged 0.1", None, None)
    assert (draft["prompt"], draft["chosen"], draft["rejected"]) == ("certain", "certain 0.9", "certain 0.2")
    assert (draft["score_chosen"], draft["margin"]) == (0.9, pytest.approx(0.7))
    export_ratings(sqlite_engine, path, format="trl-preference", options=ExportOptions(drafts=True, min_margin=0.1))
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3
    export_ratings(sqlite_engine, path, format="trl-unpaired", options=ExportOptions(drafts=True, sft=True))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows == [
        {"prompt": "judged", "completion": "judged 0.1"},
        {"prompt": "certain", "completion": "certain 0.9"},
    ]
    for wrong in (ExportOptions(drafts=True), ExportOptions(sft=True)):
        with pytest.raises(ImportFileError, match="rite trl-"):
            export_ratings(sqlite_engine, path, format="langfuse", options=wrong)
