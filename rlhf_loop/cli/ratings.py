"""`rlhf-loop ratings`: bring ratings in, take an import back, take ratings out, count them."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from rlhf_loop.cli.common import (
    UNCHANGED,
    FilePath,
    open_ratings,
    operator,
    pairs_option,
    progress_bar,
    ratings_columns_option,
    read_settings,
    working,
)

_BOTH_WAYS = ("csv", "jsonl", "parquet", "trl-preference", "trl-unpaired", "argilla", "langfuse")
_IN = click.Choice([*_BOTH_WAYS, "xlsx", "openwebui", "label-studio", "phoenix", "dify", "ragflow", "librechat"])
_OUT = click.Choice([*_BOTH_WAYS, "hf-dataset"])
_WHOLE = "The file is stored as a whole or not at all; import it again."
_UNDONE = "The import is taken back as a whole or not at all; run the same command again."
_AS_BEFORE = "What was at that place is as it was before."
_FORMAT_HELP = "The file's format. Default: csv, jsonl (also .json){} or parquet by the name's ending."


def _number_scale(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, float] | None:
    if value is None:
        return None
    lowest, _, highest = value.partition(",")
    try:
        return float(lowest), float(highest)
    except ValueError:
        raise click.BadParameter(f"{value[:60]!r} is not of the form MIN,MAX, e.g. 1,10.") from None


@click.group()
def ratings() -> None:
    """Bring ratings in, take an import back, take ratings out, count them."""


@ratings.command("import", short_help="Store the ratings of FILE, whatever tool it comes from.")
@click.argument("file", type=FilePath())
@ratings_columns_option
@pairs_option(
    "--map",
    "names",
    "TAG=FIELD",
    "Label Studio: which field of the task a tag shows (txt-1=answer1), a Pairwise control compares "
    "(better=LEFT,RIGHT) or a control is (quality=rating); =none leaves it out. May be given several times.",
    example="txt-1=answer1",
)
@click.option("--format", "--from", "format", type=_IN, help=_FORMAT_HELP.format(", xlsx"))
@click.option("--encoding", metavar="NAME", help="That of a text that is not in UTF-8. Default: told by its letters.")
@click.option(
    "--reviewer", metavar="NAME", default="anonymous", show_default=True, help="Who rated, where no row says."
)
@click.option(
    "--role",
    type=click.Choice(["expert", "end-user"]),
    help="Whose word it is, where no row says. Default: expert; end-user of what gives thumbs (all but "
    "argilla, label-studio, trl and your own files).",
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
@click.option("--thumbs", is_flag=True, help="The numbers are thumbs, 1 up and 0 or -1 down.")
@click.option(
    "--scale", metavar="MIN,MAX", callback=_number_scale, help="The numbers go from MIN to MAX, and become 1 to 5."
)
@click.option(
    "--score-name",
    metavar="NAME",
    default="rating",
    show_default=True,
    help="Langfuse, Phoenix: the score or annotation that is the rating.",
)
@click.option(
    "--as-judge",
    "judge",
    metavar="NAME",
    help="The ratings are labels by the model NAME, with decimals: recipe transformer is tuned on them, and nobody is "
    "judged by them.",
)
@click.option("--skip-invalid", is_flag=True, help="Store the valid rows even if others are invalid.")
@click.option("--unrated", is_flag=True, help="Of a tool: take the file even if nothing in it is a rating.")
@click.option("--dry-run", is_flag=True, help="Show how the file would be read, and store nothing.")
def import_(
    file: Path,
    columns: dict[str, str],
    names: dict[str, str],
    format: str | None,
    reviewer: str,
    role: str | None,
    source: str | None,
    good: int,
    bad: int,
    thumbs: bool,
    scale: tuple[float, float] | None,
    score_name: str,
    encoding: str | None,
    judge: str | None,
    skip_invalid: bool,
    unrated: bool,
    dry_run: bool,
) -> None:
    """Store the ratings of FILE: CSV, JSONL, JSON or Parquet, also gzip-compressed, or a workbook; - is standard input.

    Either all rows are stored or none, and importing a file again changes nothing. Rows need the columns user_prompt
    and ai_response; without a rating (1-5) a row is kept as an unrated answer.

    Files of other tools are read by their format, --from TOOL: trl-preference (prompt, chosen, rejected) becomes
    preferences of the reviewer, trl-unpaired (prompt, completion, label) ratings; argilla (records), langfuse (traces
    and scores), openwebui (feedback or chats), label-studio (JSON, JSON_MIN, CSV), phoenix (spans and annotations),
    dify (feedback, messages), ragflow (sessions) and librechat (messages) reviews.
    """
    from rlhf_loop.cli.output import print_import, print_invalid, print_preview
    from rlhf_loop.domain import ReviewerRole
    from rlhf_loop.exchange.formats.base import Labels, NumberScale
    from rlhf_loop.exchange.transfer import InvalidRowsError, import_ratings, preview_ratings

    labels = Labels(
        good=good, bad=bad, thumbs=thumbs, score_name=score_name, scale=NumberScale(*scale) if scale else None
    )
    with ExitStack() as stack:
        # Hints about styles and the like, which nobody asked for. Who calls from Python has filters of their own.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module="openpyxl")
        if str(file) == "-":
            file = stack.enter_context(_standard_input())
        if dry_run:
            with progress_bar(f"Reading {file.name}", kept=UNCHANGED) as progress:
                found = preview_ratings(
                    file,
                    columns=columns,
                    names=names,
                    format=format,
                    reviewer=reviewer,
                    labels=labels,
                    encoding=encoding,
                    judge=judge,
                    progress=progress,
                )
            taken = print_preview(found, reviewer=judge or reviewer, unrated=unrated, skip_invalid=skip_invalid)
            sys.exit(0 if taken else 2)
        engine = open_ratings()
        try:
            with progress_bar(f"Importing {file.name}", kept=_WHOLE) as progress:
                report = import_ratings(
                    engine,
                    file,
                    columns=columns,
                    names=names,
                    format=format,
                    reviewer=reviewer,
                    role=ReviewerRole(role.replace("-", "_")) if role else None,
                    source=source,
                    labels=labels,
                    encoding=encoding,
                    skip_invalid=skip_invalid,
                    unrated=unrated,
                    progress=progress,
                    actor=operator(),
                    judge=judge,
                )
        except InvalidRowsError as error:
            print_invalid(error.report)
            raise
    print_invalid(report)
    print_import(report)


@contextmanager
def _standard_input() -> Iterator[Path]:
    """Keep what comes in a file, as reading may go back to its beginning; how it begins tells what it is."""
    with TemporaryDirectory(prefix="rlhf-") as folder:
        path = Path(folder) / "stdin"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        with path.open("rb") as file:
            first = file.read(1000).lstrip(b"\xef\xbb\xbf \t\r\n")[:4]
        begins = ((b"[", "json"), (b"{", "jsonl"), (b"PK\x03\x04", "xlsx"), (b"PAR1", "parquet"))
        yield path.rename(
            path.with_suffix(f".{next((kind for mark, kind in begins if first.startswith(mark)), 'csv')}")
        )


@ratings.command("imports", short_help="List the imports, the newest first.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many to list.")
def list_imports(limit: int) -> None:
    """List the imports, the newest first: number, time, file, who, tool, and what each brought."""
    from rlhf_loop.cli.output import print_imports
    from rlhf_loop.exchange.imports import past_imports

    print_imports(past_imports(open_ratings(), limit=limit))


@ratings.command("undo", short_help="Take an import back.")
@click.argument("number", metavar="ID", type=click.IntRange(min=1))
@click.option("--dry-run", is_flag=True, help="Show what would go, and change nothing.")
def undo(number: int, dry_run: bool) -> None:
    """Take back what the import ID added and changed; `rlhf-loop ratings imports` lists them.

    What was said anew since stays, and so does an answer that is used otherwise. The second time nothing is done.
    """
    from rlhf_loop.exchange.imports import undo_import

    with working("Taking it back", kept=_UNDONE):
        undone = undo_import(open_ratings(), number, actor=operator(), dry_run=dry_run)
    for line in undone.lines():
        click.echo(line)
    if dry_run and not undone.already:
        click.echo("Nothing was changed. Take it back without --dry-run.")


@ratings.command("export", short_help="Write all ratings to FILE, for yourself or for other tools.")
@click.argument("file", type=FilePath())
@click.option("--format", type=_OUT, help=_FORMAT_HELP.format(""))
@click.option(
    "--min-gap",
    type=click.IntRange(1, 4),
    default=1,
    show_default=True,
    help="trl-preference, hf-dataset: by how much the ratings of two answers must differ to make a pair of them.",
)
@click.option("--conversational", is_flag=True, help="trl-..., hf-dataset: write messages with roles instead of texts.")
@click.option(
    "--drafts",
    is_flag=True,
    help="trl-...: after what people judged, the best and the worst of each list that nobody has judged, with scores, "
    "where the model is certain.",
)
@click.option(
    "--min-margin",
    type=click.FloatRange(0, 1),
    default=0.3,
    show_default=True,
    help="--drafts: by how much the two probabilities must differ.",
)
@click.option("--sft", is_flag=True, help="trl-unpaired: good answers alone, without a label, for fine-tuning.")
@click.option(
    "--score-name", metavar="NAME", default="rating", show_default=True, help="Langfuse: what the rating is called."
)
@click.option(
    "--judges",
    is_flag=True,
    help="Write the labels of judges in place of what people said, with the role judge; import them --as-judge.",
)
@click.option("--names", is_flag=True, help="hf-dataset: raters and ids as they are, not pseudonyms.")
@click.option(
    "--for-spreadsheet",
    is_flag=True,
    help="CSV: put an apostrophe before each text that a spreadsheet would take for a formula. Not for an import.",
)
def export(
    file: Path,
    format: str | None,
    min_gap: int,
    conversational: bool,
    drafts: bool,
    min_margin: float,
    sft: bool,
    score_name: str,
    judges: bool,
    names: bool,
    for_spreadsheet: bool,
) -> None:
    """Write all ratings to FILE: CSV, JSONL or Parquet; a name that ends in .gz is compressed.

    One row for each review, and one for each answer without any. An import of the file restores them all. Preferences
    are in none of these; they go out as trl-preference.

    For other tools: trl-preference has pairs of answers as experts preferred, corrected and rated them, trl-unpaired
    each rated answer with a label, argilla and langfuse each answer with its reviews. The name's ending tells how the
    file holds them: .jsonl, .json, and for trl-... also .parquet and .csv.

    With hf-dataset FILE is a folder that Hugging Face's load_dataset reads: ratings and both trl-... as Parquet, split
    by question, with a card. Raters have pseudonyms there, lasting ones if RLHF_SECRET_KEY is set.
    """
    from rlhf_loop.exchange.transfer import ExportOptions, export_ratings
    from rlhf_loop.utils.text import counted

    if format == "hf-dataset":
        if judges:
            raise click.UsageError("--judges is for csv, jsonl and parquet. Leave it out, or take one of these.")
        if drafts or sft:
            raise click.UsageError("--drafts and --sft are for trl-.... Leave them out, or take one of these.")
        if for_spreadsheet:
            raise click.UsageError("--for-spreadsheet is for CSV, and hf-dataset is Parquet. Leave one of them out.")
        _export_dataset(file, min_gap=min_gap, conversational=conversational, names=names)
        return
    options = ExportOptions(
        min_gap=min_gap,
        conversational=conversational,
        score_name=score_name,
        reviewer_weighting=read_settings().reviewer_weighting,
        for_spreadsheet=for_spreadsheet,
        judges=judges,
        drafts=drafts,
        min_margin=min_margin,
        sft=sft,
    )
    with progress_bar(f"Exporting {file.name}", kept=_AS_BEFORE) as progress:
        count = export_ratings(open_ratings(), file, format=format, options=options, progress=progress)
    click.echo(f"{counted(count, 'row')} written to {file}.")


def _export_dataset(folder: Path, *, min_gap: int, conversational: bool, names: bool) -> None:
    from rlhf_loop.encoders import load_encoder
    from rlhf_loop.exchange.dataset import DatasetOptions, export_dataset
    from rlhf_loop.utils.text import counted

    settings = read_settings()
    options = DatasetOptions(
        min_gap=min_gap,
        conversational=conversational,
        names=names,
        key=settings.secret_key,
        reviewer_weighting=settings.reviewer_weighting,
    )
    with progress_bar(f"Exporting {folder.name}", kept=_AS_BEFORE) as progress:
        engine, encoder = open_ratings(), load_encoder(settings)
        configs = export_dataset(engine, folder, options=options, encoder=encoder, progress=progress)
    for config in configs:
        parts = ", ".join(f"{split.rows} {split.name}" for split in config.splits)
        click.echo(f"{config.name}: {counted(config.rows, 'row')}{f' ({parts})' if parts else ''}.")
    click.echo(f"Written to {folder}.")
    if not names and not settings.secret_key:
        click.echo(
            "The raters' pseudonyms are of this export only. Set RLHF_SECRET_KEY to keep them from one to the next."
        )


@ratings.command("stats", short_help="Count the ratings, and say whether they are enough to train.")
def stats() -> None:
    """Show how many ratings there are, how they are spread, and whether they are enough to train."""
    from rlhf_loop.cli.output import print_stats
    from rlhf_loop.store.interactions import stats as count

    print_stats(count(open_ratings()))
