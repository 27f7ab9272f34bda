"""The command line: reads the settings, calls one service, and says what happened."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlhf_loop.errors import RlhfLoopError
from rlhf_loop.version import __version__

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from rlhf_loop.config import Settings
    from rlhf_loop.learning_curve import CurvePoint

_PICTURES = (".png", ".svg", ".pdf")
_FORMATS = click.Choice(["csv", "jsonl", "parquet"])
_columns = click.option(
    "--column",
    "columns",
    metavar="FIELD=NAME",
    multiple=True,
    callback=lambda ctx, param, pairs: _column_mapping(pairs),
    help="Which column of the file holds a field, e.g. user_prompt=frage. May be given several times. "
    "Usual names (prompt, question, answer, comment ...) are found without it.",
)


class _Commands(click.Group):
    """The one place where a deliberate error becomes a message and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        # What stops a container stops a run like Ctrl-C does: it can still say so in its log.
        for stop in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            # Not where somebody decided otherwise: nohup ignores SIGHUP. And only the main thread may.
            if signal.getsignal(stop) is signal.SIG_DFL:
                with suppress(ValueError):
                    signal.signal(stop, self._stop)
        try:
            return super().invoke(ctx)
        except RlhfLoopError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except Exception:
            if self._stopped:
                # A library that was just being imported may make an error of its own out of the stop.
                sys.exit(128 + self._stopped)
            raise

    _stopped = 0

    def _stop(self, number: int, frame: object) -> None:
        self._stopped = number
        sys.exit(128 + number)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rlhf-loop")
def main() -> None:
    """Expert ratings become a reward model that puts the best answer first.

    Settings come from the environment: RLHF_DATABASE_URL names the database (default: sqlite:///rlhf.db).
    """


@main.command()
def init() -> None:
    """Create the database, or bring it up to date.

    Safe to run again, and while other processes start. A table rlhf_interactions that was made by hand is adopted with
    its rows.
    """
    from rlhf_loop.db import HEAD, describe

    engine = _database()
    click.echo(f"The database {describe(engine)} is ready (revision {HEAD}).")


@main.group()
def ratings() -> None:
    """Bring ratings in, take them out, count them."""


@ratings.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@_columns
@click.option("--format", type=_FORMATS, help="The file's format. Default: by the name's ending.")
@click.option(
    "--reviewer", metavar="NAME", default="anonymous", show_default=True, help="Who rated, where no row says."
)
@click.option("--source", metavar="NAME", help="Where the answers come from, where no row says.")
@click.option("--skip-invalid", is_flag=True, help="Store the valid rows even if others are invalid.")
def import_(
    file: Path, columns: dict[str, str], format: str | None, reviewer: str, source: str | None, skip_invalid: bool
) -> None:
    """Store the ratings of FILE: CSV, JSONL or Parquet, also gzip-compressed.

    Either all rows are stored or none, and importing a file again changes nothing. Rows need the columns user_prompt
    and ai_response; without a rating (1-5) a row is kept as an unrated answer.
    """
    from rlhf_loop.console import print_import, print_invalid
    from rlhf_loop.exchange import InvalidRowsError, import_ratings

    engine = _database()
    try:
        with _progress(f"Importing {file.name}") as progress:
            report = import_ratings(
                engine,
                file,
                columns=columns,
                format=format,
                reviewer=reviewer,
                source=source,
                skip_invalid=skip_invalid,
                progress=progress,
            )
    except InvalidRowsError as error:
        print_invalid(error.report)
        raise
    print_invalid(report)
    print_import(report)


@ratings.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", type=_FORMATS, help="The file's format. Default: by the name's ending.")
def export(file: Path, format: str | None) -> None:
    """Write all ratings to FILE: CSV, JSONL or Parquet; a name that ends in .gz is compressed.

    One row for each review, and one for each answer without any. An import of the file restores them all.
    """
    from rlhf_loop.console import counted
    from rlhf_loop.exchange import export_ratings

    with _progress(f"Exporting {file.name}") as progress:
        count = export_ratings(_database(), file, format=format, progress=progress)
    click.echo(f"{counted(count, 'row')} written to {file}.")


@ratings.command("stats")
def stats() -> None:
    """Show how many ratings there are, how they are spread, and whether they are enough to train."""
    from rlhf_loop.console import print_stats
    from rlhf_loop.interactions import stats as count

    print_stats(count(_database()))


@main.command()
@click.option(
    "--recipe",
    type=click.Choice(["auto", "passages", "joint"]),
    default="auto",
    show_default=True,
    help="How answers become features. auto tries all and keeps the best by cross-validation.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of the split and the folds."
)
@click.option(
    "--min-samples",
    type=click.IntRange(min=2),
    default=50,
    show_default=True,
    help="Rated answers below which nothing is trained.",
)
@click.option(
    "--learning-curve",
    "curve",
    type=click.Path(path_type=Path, dir_okay=False),
    is_flag=False,
    flag_value="learning_curve.png",
    metavar="[PNG]",
    callback=lambda ctx, param, path: _picture(path),
    help="Also show what more ratings would bring: a table, and a picture (default: learning_curve.png).",
)
def train(recipe: str, seed: int, min_samples: int, curve: Path | None) -> None:
    """Train the reward model on the ratings, judge it, and put it live.

    A model that ranks worse than the incoming order is kept, but does not go live (exit code 3). Too few ratings, or
    only good or only bad ones: exit code 2.
    """
    from rlhf_loop.console import print_curve, print_training
    from rlhf_loop.training_run import run_training

    engine, settings = _database(), _settings()
    with _progress("Training") as progress:
        outcome = run_training(engine, settings, recipe=recipe, seed=seed, min_samples=min_samples, progress=progress)
    print_training(outcome)
    if curve is not None:
        with _working("Drawing the learning curve"):
            points = _learning_curve(engine, settings, outcome.report.recipe, seed, curve)
        print_curve(points, curve)
    if not outcome.live:
        sys.exit(3)


@main.command()
@click.argument("query", required=False)
@click.argument("candidates", nargs=-1)
def rerank(query: str | None, candidates: tuple[str, ...]) -> None:
    """Put the best of the CANDIDATES for QUERY first. Without arguments: a built-in example.

    For example: rlhf-loop rerank "What helps against hiccups?" "Hold your breath." "Hiccups are short."
    """
    from rlhf_loop import sample
    from rlhf_loop.console import print_ranking

    given: list[Any] = list(candidates)
    if query is None:
        query, given = sample.QUESTION, list(sample.CANDIDATES)
    elif not given:
        raise click.UsageError("There is nothing to rank. Give the candidates after the query.")
    print_ranking(query, given, _ranked(query, given))


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@_columns
@click.option(
    "--format",
    type=click.Choice([*_FORMATS.choices, "txt"]),
    help="The file's format; txt has one answer a line. Default: by the name's ending.",
)
def warm(file: Path, columns: dict[str, str], format: str | None) -> None:
    """Embed the answers of FILE now, so that the first request need not wait.

    FILE is a ratings file (CSV, JSONL, Parquet; ratings are not needed) or a text with one answer a line (.txt), also
    gzip-compressed. What is known already is skipped, and Ctrl-C keeps what is done.
    """
    from rlhf_loop.console import counted
    from rlhf_loop.warming import warm as embed

    try:
        with _progress(f"Warming {file.name}") as progress:
            report = embed(file, _settings(), columns=columns, format=format, progress=progress)
    except KeyboardInterrupt:
        click.echo("Stopped. What is done is kept; the same command goes on from there.", err=True)
        sys.exit(130)
    for row in report.invalid:
        click.echo(f"line {row.line}: {row.reason}", err=True)
    left_out = f"; {counted(report.invalid_count, 'invalid row')} left out" if report.invalid_count else ""
    click.echo(
        f"{counted(report.answers, 'answer')}: {counted(report.new, 'text')} new, {report.known} known, in "
        f"{report.seconds:.1f} s{left_out}."
    )


@main.command()
def doctor() -> None:
    """Say what is installed, what the encoder runs on, and what to do about what is missing.

    Looks only, and changes nothing. The exit code is 1 if something is not all right.
    """
    from rlhf_loop.console import print_findings
    from rlhf_loop.doctor import examine

    findings = examine(_settings())
    print_findings(findings)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


@main.command()
def demo() -> None:
    """See the whole loop at work on sample ratings.

    The sample (200 rated answers, not medical advice) goes into the database that the settings name.
    """
    from rlhf_loop import sample
    from rlhf_loop.console import headline, print_import, print_next_steps, print_ranking, print_stats, print_training
    from rlhf_loop.exchange import import_ratings
    from rlhf_loop.interactions import stats as count
    from rlhf_loop.training_run import run_training

    engine, settings = _database(), _settings()
    _refuse_own_ratings(engine)
    headline("1  Sample ratings (not medical advice)")
    print_import(import_ratings(engine, sample.RATINGS_FILE, source="sample"))
    print_stats(count(engine))
    headline("2  Training")
    with _working("Training"):
        outcome = run_training(engine, settings)
    print_training(outcome)
    headline("3  A question that the model has not seen")
    given = list(sample.CANDIDATES)
    print_ranking(sample.QUESTION, given, _ranked(sample.QUESTION, given))
    headline("What next")
    print_next_steps()


def _refuse_own_ratings(engine: Engine) -> None:
    """The demo trains on what the database holds and replaces the model: not on and not over somebody's own."""
    from sqlalchemy import func, select

    from rlhf_loop.db import describe
    from rlhf_loop.errors import DatabaseError
    from rlhf_loop.tables import Interaction

    own = select(func.count()).where(Interaction.source.is_distinct_from("sample"))
    with engine.connect() as connection:
        count = connection.execute(own).scalar_one()
    if count:
        raise DatabaseError(
            f"The database {describe(engine)} holds {count} answers that are not of the sample. Run the demo "
            "elsewhere: RLHF_DATABASE_URL=sqlite:///demo.db RLHF_MODEL_PATH=demo.joblib rlhf-loop demo"
        )


def _settings() -> Settings:
    from rlhf_loop.config import Settings

    return Settings.from_env()


def _database() -> Engine:
    from rlhf_loop.db import open_database

    return open_database(_settings().database_url)


def _ranked(query: str, candidates: list[Any]) -> list[dict[str, Any]]:
    from rlhf_loop.ranking import Ranker, rerank_candidates

    try:
        return rerank_candidates(query, candidates, ranker=Ranker(_settings()))
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _learning_curve(engine: Engine, settings: Settings, recipe: str, seed: int, path: Path) -> list[CurvePoint]:
    from rlhf_loop.encoders import load_encoder
    from rlhf_loop.examples import training_set
    from rlhf_loop.learning_curve import learning_curve, plot
    from rlhf_loop.reward import recipe_named

    data = training_set(engine)
    points = learning_curve(data, recipe=recipe_named(recipe), encoder=load_encoder(settings), seed=seed)
    plot(points, path, title=f"Recipe {recipe}: quality by number of rated answers")
    return points


def _picture(path: Path | None) -> Path | None:
    # Before the training, not after it: the answer would come too late.
    if path is not None and path.suffix.lower() not in _PICTURES:
        raise click.BadParameter(f"{str(path)!r} has not one of the endings {', '.join(_PICTURES)}.")
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(f"{str(path)!r} cannot be written: {error.strerror}.") from error
    if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
        raise click.BadParameter(f"{str(path)!r} cannot be written. Choose another place.")
    return path


def _column_mapping(pairs: tuple[str, ...]) -> dict[str, str]:
    mapping = {}
    for pair in pairs:
        field, equals, name = pair.partition("=")
        if not (field and equals and name):
            raise click.BadParameter(f"{pair!r} is not of the form FIELD=NAME, e.g. user_prompt=question.")
        mapping[field.strip()] = name
    return mapping


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr while the block runs; none where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _working(what: str) -> Iterator[None]:
    """A sign of life on stderr while the block runs; none where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{what} ..."):
        yield
