"""`rlhf-loop ratings`: bring ratings in, take them out, count them."""

from __future__ import annotations

from pathlib import Path

import click

from rlhf_loop.cli.common import FORMATS, columns_option, open_ratings, progress_bar


@click.group()
def ratings() -> None:
    """Bring ratings in, take them out, count them."""


@ratings.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@columns_option
@click.option("--format", type=FORMATS, help="The file's format. Default: by the name's ending.")
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

    engine = open_ratings()
    try:
        with progress_bar(f"Importing {file.name}") as progress:
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
@click.option("--format", type=FORMATS, help="The file's format. Default: by the name's ending.")
def export(file: Path, format: str | None) -> None:
    """Write all ratings to FILE: CSV, JSONL or Parquet; a name that ends in .gz is compressed.

    One row for each review, and one for each answer without any. An import of the file restores them all.
    """
    from rlhf_loop.console import counted
    from rlhf_loop.exchange import export_ratings

    with progress_bar(f"Exporting {file.name}") as progress:
        count = export_ratings(open_ratings(), file, format=format, progress=progress)
    click.echo(f"{counted(count, 'row')} written to {file}.")


@ratings.command("stats")
def stats() -> None:
    """Show how many ratings there are, how they are spread, and whether they are enough to train."""
    from rlhf_loop.console import print_stats
    from rlhf_loop.interactions import stats as count

    print_stats(count(open_ratings()))
