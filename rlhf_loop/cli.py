"""The command line: reads the settings, calls one service, and says what happened."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlhf_loop import __version__
from rlhf_loop.errors import RlhfLoopError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from rlhf_loop.exchange import ImportReport
    from rlhf_loop.interactions import RatingStats

#: From here on the training has enough to learn from.
ENOUGH_RATED = 50
LISTED_ROWS = 20

_FORMATS = click.Choice(["csv", "jsonl", "parquet"])


class _Commands(click.Group):
    """The one place where a deliberate error becomes a message and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RlhfLoopError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)


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
@click.option(
    "--column",
    "columns",
    metavar="FIELD=NAME",
    multiple=True,
    callback=lambda ctx, param, pairs: _column_mapping(pairs),
    help="Which column of the file holds a field, e.g. user_prompt=frage. May be given several times. "
    "Usual names (prompt, question, answer, comment ...) are found without it.",
)
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
        _print_invalid(error.report)
        raise
    _print_invalid(report)
    _print_import(report)


@ratings.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", type=_FORMATS, help="The file's format. Default: by the name's ending.")
def export(file: Path, format: str | None) -> None:
    """Write all ratings to FILE: CSV, JSONL or Parquet; a name that ends in .gz is compressed.

    One row for each review, and one for each answer without any. An import of the file restores them all.
    """
    from rlhf_loop.exchange import export_ratings

    with _progress(f"Exporting {file.name}") as progress:
        count = export_ratings(_database(), file, format=format, progress=progress)
    click.echo(f"{_count(count, 'row')} written to {file}.")


@ratings.command("stats")
def stats() -> None:
    """Show how many ratings there are, how they are spread, and whether they are enough to train."""
    from rlhf_loop.interactions import stats as count

    _print_stats(count(_database()))


def _database() -> Engine:
    from rlhf_loop.config import Settings
    from rlhf_loop.db import open_database

    return open_database(Settings.from_env().database_url)


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


def _print_invalid(report: ImportReport) -> None:
    for row in report.invalid[:LISTED_ROWS]:
        click.echo(f"line {row.line}: {row.reason}", err=True)
    if report.invalid_count > LISTED_ROWS:
        click.echo(f"... and {report.invalid_count - LISTED_ROWS} more", err=True)


def _print_import(report: ImportReport) -> None:
    parts = f"{report.added} added, {report.updated} updated, {report.unchanged} unchanged"
    skipped = f", {report.invalid_count} invalid and left out" if report.invalid_count else ""
    click.echo(f"{_count(report.rows, 'row')}: {parts}{skipped}.")
    if report.ignored:
        click.echo(f"Columns not used: {', '.join(report.ignored)}.")


def _print_stats(stats: RatingStats) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(
        f"{_count(stats.interactions, 'answer')} to {_count(stats.questions, 'question')}: "
        f"{stats.rated} rated, {stats.unrated} unrated; "
        f"{_count(stats.reviews, 'review')} by {_count(stats.reviewers, 'reviewer')}."
    )
    table = Table(box=None, show_header=False)
    most = max(stats.distribution.values())
    for rating, count in sorted(stats.distribution.items(), reverse=True):
        table.add_row(str(rating), "█" * _bar_length(count, most), str(count))
    console.print(table)
    if stats.positive_share is not None:
        console.print(
            f"{stats.positive_share:.0%} are good (4 or 5). "
            f"{_count(stats.comparable_questions, 'question')} with two or more rated answers."
        )
    if stats.rated >= ENOUGH_RATED:
        console.print(f"{stats.rated} rated, enough to train.")
    else:
        console.print(f"{stats.rated} of {ENOUGH_RATED} rated answers that training needs.")


def _bar_length(count: int, most: int) -> int:
    return max(1, round(40 * count / most)) if count else 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
