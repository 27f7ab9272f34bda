"""`rlhf-loop ratings`: bring ratings in, take them out, count them."""

from __future__ import annotations

from pathlib import Path

import click

from rlhf_loop.cli.common import columns_option, open_ratings, operator, progress_bar

_FORMATS = click.Choice(["csv", "jsonl", "parquet", "trl-preference", "trl-unpaired", "argilla", "langfuse"])
_FORMAT_HELP = "The file's format. Default: csv, jsonl or parquet by the name's ending."
_SCORE_NAME = click.option(
    "--score-name", metavar="NAME", default="rating", show_default=True, help="Langfuse: the score that is the rating."
)


@click.group()
def ratings() -> None:
    """Bring ratings in, take them out, count them."""


@ratings.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@columns_option
@click.option("--format", type=_FORMATS, help=_FORMAT_HELP)
@click.option(
    "--reviewer", metavar="NAME", default="anonymous", show_default=True, help="Who rated, where no row says."
)
@click.option(
    "--role",
    type=click.Choice(["expert", "end-user"]),
    help="Whose word it is, where no row says. Default: expert; of Langfuse's scores end-user.",
)
@click.option("--source", metavar="NAME", help="Where the answers come from, where no row says.")
@click.option(
    "--good",
    type=click.IntRange(1, 5),
    default=5,
    show_default=True,
    help="The rating that a label true, or a thumb up, stands for.",
)
@click.option(
    "--bad", type=click.IntRange(1, 5), default=1, show_default=True, help="That of a label false, or a thumb down."
)
@click.option("--thumbs", is_flag=True, help="Argilla, Langfuse: the numbers are thumbs, 1 up and 0 or -1 down.")
@_SCORE_NAME
@click.option("--skip-invalid", is_flag=True, help="Store the valid rows even if others are invalid.")
def import_(
    file: Path,
    columns: dict[str, str],
    format: str | None,
    reviewer: str,
    role: str | None,
    source: str | None,
    good: int,
    bad: int,
    thumbs: bool,
    score_name: str,
    skip_invalid: bool,
) -> None:
    """Store the ratings of FILE: CSV, JSONL or Parquet, also gzip-compressed.

    Either all rows are stored or none, and importing a file again changes nothing. Rows need the columns user_prompt
    and ai_response; without a rating (1-5) a row is kept as an unrated answer.

    Files of other tools are read by their format: trl-preference (prompt, chosen, rejected) becomes preferences of the
    reviewer, trl-unpaired (prompt, completion, label) ratings, argilla (records) and langfuse (traces and scores)
    reviews.
    """
    from rlhf_loop.console import print_import, print_invalid
    from rlhf_loop.domain import ReviewerRole
    from rlhf_loop.exchange import InvalidRowsError, import_ratings
    from rlhf_loop.formats import Labels

    engine = open_ratings()
    try:
        with progress_bar(f"Importing {file.name}") as progress:
            report = import_ratings(
                engine,
                file,
                columns=columns,
                format=format,
                reviewer=reviewer,
                role=ReviewerRole(role.replace("-", "_")) if role else None,
                source=source,
                labels=Labels(good=good, bad=bad, thumbs=thumbs, score_name=score_name),
                skip_invalid=skip_invalid,
                progress=progress,
                actor=operator(),
            )
    except InvalidRowsError as error:
        print_invalid(error.report)
        raise
    print_invalid(report)
    print_import(report)


@ratings.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", type=_FORMATS, help=_FORMAT_HELP)
@click.option(
    "--min-gap",
    type=click.IntRange(1, 4),
    default=1,
    show_default=True,
    help="trl-preference: by how much the ratings of two answers must differ to make a pair of them.",
)
@click.option("--conversational", is_flag=True, help="trl-...: write messages with roles instead of texts.")
@_SCORE_NAME
def export(file: Path, format: str | None, min_gap: int, conversational: bool, score_name: str) -> None:
    """Write all ratings to FILE: CSV, JSONL or Parquet; a name that ends in .gz is compressed.

    One row for each review, and one for each answer without any. An import of the file restores them all. Preferences
    are in none of these; they go out as trl-preference.

    For other tools: trl-preference has pairs of answers as experts preferred, corrected and rated them, trl-unpaired
    each rated answer with a label, argilla and langfuse each answer with its reviews. The name's ending tells how the
    file holds them: .jsonl, .json, and for trl-... also .parquet and .csv.
    """
    from rlhf_loop.console import counted
    from rlhf_loop.exchange import ExportOptions, export_ratings

    options = ExportOptions(min_gap=min_gap, conversational=conversational, score_name=score_name)
    with progress_bar(f"Exporting {file.name}") as progress:
        count = export_ratings(open_ratings(), file, format=format, options=options, progress=progress)
    click.echo(f"{counted(count, 'row')} written to {file}.")


@ratings.command("stats")
def stats() -> None:
    """Show how many ratings there are, how they are spread, and whether they are enough to train."""
    from rlhf_loop.console import print_stats
    from rlhf_loop.interactions import stats as count

    print_stats(count(open_ratings()))
