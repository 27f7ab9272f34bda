"""Labels of judges: models that rate answers, apart from all that people say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, func, select

from rlhf_loop.cli import main
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.formats.base import Labels, NumberScale
from rlhf_loop.exchange.imports import past_imports, undo_import
from rlhf_loop.exchange.transfer import (
    ExportOptions,
    ImportReport,
    InvalidRowsError,
    export_ratings,
    import_ratings,
    preview_ratings,
)
from rlhf_loop.store.interactions import stats
from rlhf_loop.store.tables import Interaction, JudgeLabel, Review
from rlhf_loop.training.data import judged_answers, training_set

Row = dict[str, object]
ROWS: Sequence[Row] = [
    {"question": "Why is the sky blue?", "answer": "Air scatters blue light most.", "rating": 4.75},
    {"question": "Why is the sky blue?", "answer": "It mirrors the sea.", "rating": "1,5", "comment": "Wrong."},
    {"question": "How do bees talk?", "answer": "By dancing.", "rating": 3},
]


def written(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def labelled(engine: Engine, path: Path, rows: Sequence[Row] = ROWS, judge: str = "m1", **more: object) -> ImportReport:
    return import_ratings(engine, written(path / "labels.jsonl", rows), judge=judge, **more)


def labels(engine: Engine) -> list[tuple[str, float]]:
    return [(answer.response, round(answer.label, 3)) for answer in judged_answers(engine, most=100)]


@pytest.fixture
def rated(engine: Engine, tmp_path: Path) -> Engine:
    """A database in which an expert has rated one of the answers."""
    rows = [{"question": "Why is the sky blue?", "answer": "It mirrors the sea.", "rating": 2, "reviewer": "ada"}]
    import_ratings(engine, written(tmp_path / "rated.jsonl", rows))
    return engine


def test_labels_stand_apart(rated: Engine, tmp_path: Path) -> None:
    """They keep their decimals, bring answers that are new, and are in no count of ratings and no training set."""
    before, of = stats(rated), training_set(rated, end_user_weight=1.0, reviewer_weighting=True)
    report = labelled(rated, tmp_path)
    assert (report.rows, report.added, report.updated, report.judged, report.rated) == (3, 3, 0, 3, 0)
    assert report.lines() == ["3 rows: 3 added, 0 updated, 0 unchanged.", "3 labels by 1 judge."]
    expected = [("It mirrors the sea.", 1.5), ("Air scatters blue light most.", 4.75), ("By dancing.", 3.0)]
    assert labels(rated) == expected
    after, again = stats(rated), training_set(rated, end_user_weight=1.0, reviewer_weighting=True)
    assert (after.interactions, after.unrated) == (before.interactions + 2, before.unrated + 2)
    assert (after.reviews, after.reviewers, after.rated, after.distribution) == (1, 1, 1, before.distribution)
    assert np.array_equal(again.rating, of.rating)
    assert again.weight.tolist() == of.weight.tolist() == [1.0]
    with rated.connect() as connection:
        said = connection.execute(select(Interaction.rating, Interaction.feedback_comment)).all()
    assert sorted(said, key=str) == [(2, None), (None, None), (None, None)]


def test_the_same_again_is_no_news_and_another_word_is(rated: Engine, tmp_path: Path) -> None:
    """A file that comes again changes nothing; a new label takes the place of the judge's own, and of no other's."""
    labelled(rated, tmp_path)
    report = labelled(rated, tmp_path)
    assert (report.added, report.updated, report.unchanged) == (0, 0, 3)
    assert undo_import(rated, report.import_id or 0).said_kept == 0
    labelled(rated, tmp_path, [ROWS[2] | {"rating": 1}], judge="m2")
    report = labelled(rated, tmp_path, [ROWS[2] | {"rating": 5}])
    assert (report.added, report.updated, report.unchanged) == (0, 1, 0)
    assert labels(rated)[-1] == ("By dancing.", 3.0)  # of both judges, 1 and 5


def test_several_labels_of_one_answer_are_their_mean(engine: Engine, tmp_path: Path) -> None:
    """A judge that was asked several times says their mean; rows without a label are answers alone."""
    rows = [ROWS[0] | {"rating": rating} for rating in (1, 2, 4.5)] + [{**ROWS[2], "rating": None}]
    report = labelled(engine, tmp_path, rows)
    assert (report.added, report.unchanged, report.judged, report.unrated) == (2, 2, 3, 1)
    assert labels(engine) == [("Air scatters blue light most.", 2.5)]


def test_probabilities(engine: Engine, tmp_path: Path) -> None:
    """With a scale from 0 to 1 a probability becomes a label; without it the message says how."""
    rows = [ROWS[0] | {"rating": 0.9}]
    with pytest.raises(InvalidRowsError, match=r"0\.9, not on the scale from 1 to 5; of probabilities say --scale 0,1"):
        labelled(engine, tmp_path, rows)
    labelled(engine, tmp_path, rows, labels=Labels(scale=NumberScale(0, 1)))
    assert labels(engine) == [("Air scatters blue light most.", 4.6)]


def test_what_a_later_import_repeats_stays_when_the_first_is_taken_back(rated: Engine, tmp_path: Path) -> None:
    """Two files that say the same are two who say it."""
    imports = [labelled(rated, tmp_path, [ROWS[0] | {"rating": rating}]).import_id or 0 for rating in (3, 4, 4)]
    undo_import(rated, imports[1])
    assert labels(rated) == [("Air scatters blue light most.", 4.0)]
    undo_import(rated, imports[2])
    assert labels(rated) == [("Air scatters blue light most.", 3.0)]


def test_undoing_takes_labels_back(rated: Engine, tmp_path: Path) -> None:
    """What an import brought is gone, an earlier label of the judge holds again, and others' answers stay."""
    first = labelled(rated, tmp_path)
    second = labelled(rated, tmp_path, [ROWS[0] | {"rating": 1}, {**ROWS[2], "answer": "By humming."}])
    assert labels(rated)[1] == ("Air scatters blue light most.", 1.0)
    listed = past_imports(rated)
    assert [each.format for each in listed] == ["jsonl, judge m1", "jsonl, judge m1", "jsonl"]
    assert second.import_id is not None
    undone = undo_import(rated, second.import_id)
    assert (undone.answers, undone.said, undone.labels, undone.said_kept) == (1, 0, 2, 0)
    assert "2 labels of judges removed." in undone.lines()
    assert labels(rated)[1] == ("Air scatters blue light most.", 4.75)
    assert first.import_id is not None
    undone = undo_import(rated, first.import_id)
    assert (undone.answers, undone.labels, undone.answers_kept) == (2, 3, 0)
    with rated.connect() as connection:
        counts = [
            connection.execute(select(func.count()).select_from(table)).scalar()
            for table in (Interaction, Review, JudgeLabel)
        ]
    assert counts == [1, 1, 0]


def test_an_answer_with_the_label_of_a_later_import_stays(engine: Engine, tmp_path: Path) -> None:
    """It goes with the last import that has something of it."""
    ids = [labelled(engine, tmp_path, [ROWS[0]], judge=judge).import_id for judge in ("m1", "m2")]
    found = [undo_import(engine, id) for id in ids if id is not None]
    assert [(each.answers, each.labels, each.answers_kept) for each in found] == [(0, 1, 1), (1, 1, 0)]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_an_export_brings_them_back(engine: Engine, tmp_path: Path, ending: str) -> None:
    """Labels go out as such and come in as such, each by its judge; a usual export has none."""
    labelled(engine, tmp_path)
    labelled(engine, tmp_path, [ROWS[2] | {"rating": 1.25}], judge="m2")
    file = tmp_path / f"out.{ending}"
    assert export_ratings(engine, file, options=ExportOptions(judges=True)) == 4
    before = labels(engine)
    assert before[-1] == ("By dancing.", 2.125)
    report = import_ratings(engine, file, judge="somebody")
    assert (report.rows, report.added, report.updated, report.unchanged) == (4, 0, 0, 4)
    for each in past_imports(engine):
        undo_import(engine, each.id)
    assert labels(engine) == []
    assert import_ratings(engine, file, judge="somebody").added == 4
    assert labels(engine) == before
    with pytest.raises(InvalidRowsError, match=r"rating is|reviewer_role is 'judge'"):
        import_ratings(engine, file)
    export_ratings(engine, tmp_path / "usual.jsonl")
    assert "m1" not in (tmp_path / "usual.jsonl").read_text()


def test_what_cannot_be_labels_is_refused(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A tool's format, a blank name, a format that has no place for labels."""
    file = written(tmp_path / "a.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(ImportFileError, match="trl-preference is not one of these"):
        import_ratings(sqlite_engine, file, format="trl-preference", judge="m1")
    with pytest.raises(ImportFileError, match="only white space"):
        labelled(sqlite_engine, tmp_path, judge=" ")
    with pytest.raises(ImportFileError, match="not written as argilla"):
        export_ratings(sqlite_engine, tmp_path / "a.json", format="argilla", options=ExportOptions(judges=True))


def test_very_many_are_a_sample_of_the_questions(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Of more labels than are wanted whole questions are drawn, and nobody else's answers are among them."""
    rows = [{"question": f"What is {number // 2}?", "answer": f"It is {number}.", "rating": 3} for number in range(40)]
    labelled(sqlite_engine, tmp_path, rows)
    found = judged_answers(sqlite_engine, most=10)
    assert len(found) == 10
    assert len({answer.prompt for answer in found}) == 5
    assert found == judged_answers(sqlite_engine, most=10)
    assert found != judged_answers(sqlite_engine, most=10, seed=1)


def test_the_command(tmp_path: Path) -> None:
    """`--as-judge` shows labels with --dry-run, stores them, lists the import with the judge, and exports them."""
    file = written(tmp_path / "labels.jsonl", [{**row, "rating": 0.5} for row in ROWS])
    environment = {"RLHF_DATABASE_URL": f"sqlite:///{tmp_path / 'rlhf.db'}"}

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["ratings", *arguments], env=environment)
        assert result.exit_code == 0, result.output
        return result.output

    shown = run("import", str(file), "--as-judge", "m1", "--scale", "0,1", "--dry-run")
    assert "3.00" in shown
    assert "3 rows: 0 unrated, 0 invalid." in shown
    assert "3 labels by 1 judge." in run("import", str(file), "--as-judge", "m1", "--scale", "0,1")
    assert "judge" in run("imports")
    assert "0 rated, 3 unrated; 0 reviews" in run("stats")
    run("export", str(tmp_path / "out.csv"), "--judges")
    assert (tmp_path / "out.csv").read_text().count("judge") == 3
    assert preview_ratings(file, judge="m1", labels=Labels(scale=NumberScale(0, 1))).report.judged == 3
