"""`rlhf-loop index`: add files to the vector database, delete them, list what is there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlhf_loop.cli.common import (
    GOES_ON,
    UNCHANGED,
    FilePath,
    cluster_of,
    columns_option,
    engine_options,
    progress_bar,
    read_settings,
    working,
)

if TYPE_CHECKING:
    from rlhf_loop.sources.index.documents import ParsedDocument


@click.group(short_help="Fill the vector database with your own documents.")
def index() -> None:
    """Fill the vector database with your own documents, and see what it holds."""


@index.command(short_help="Index the documents of PATH...: files or whole folders.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=FilePath())
@click.option(
    "--source", metavar="NAME", help="The name to list and delete them by. Default: the file's, or the folder's."
)
@columns_option(
    "Which column of a file holds a field: text, title, url, licence or source. May be given several times. "
    "Usual names (text, answer, content; title, question; url, link; licence) are found without it.",
    example="text=abstract",
)
@click.option(
    "--format",
    type=click.Choice(["jsonl", "csv", "parquet", "md", "txt", "pdf", "html", "docx", "pptx"]),
    help="The files' format. Default: by each name's ending.",
)
@click.option("--skip-invalid", is_flag=True, help="Index what can be read even if other rows or files cannot.")
@click.option(
    "--replace",
    is_flag=True,
    help="At the end, delete what else these sources hold: older versions of the files. Two files or folders of one "
    "name share a source, unless --source is given. A source of which something cannot be read keeps all it holds.",
)
@engine_options("Where files are read and documents embedded")
def add(
    paths: tuple[Path, ...],
    source: str | None,
    columns: dict[str, str],
    format: str | None,
    skip_invalid: bool,
    replace: bool,
    engine: str,
    workers: int | None,
    address: str | None,
) -> None:
    """Index the documents of PATH...: files, or folders with all that is in them.

    JSONL, CSV and Parquet hold a document a row; Markdown, text, PDF, HTML, DOCX and PPTX are a document each. What is
    indexed already is skipped, so the same command goes on after Ctrl-C. A changed file adds its new documents; the old
    ones stay, unless --replace. On a cluster all machines need the files, but for tables, under the same names.
    """
    from rlhf_loop.encoders import load_encoder
    from rlhf_loop.errors import DocumentError
    from rlhf_loop.sources.index import open_store
    from rlhf_loop.sources.index.indexing import InvalidDocumentsError, check_files, index_files
    from rlhf_loop.utils.text import counted

    settings = read_settings()
    store = open_store(settings, anew=True)  # what it lacks is said before the files are read
    try:
        with cluster_of(settings, engine=engine, workers=workers, address=address) as cluster:
            with progress_bar("Reading", kept=UNCHANGED) as progress:
                files = check_files(
                    paths,
                    source=source,
                    columns=columns,
                    format=format,
                    skip_invalid=skip_invalid,
                    cluster=cluster,
                    progress=progress,
                )
            with working("Loading the encoder", kept=UNCHANGED):
                encoder = load_encoder(settings)
            with closing(store), progress_bar("Indexing", kept=GOES_ON) as progress:
                report = index_files(
                    files, store=store, encoder=encoder, replace=replace, progress=progress, cluster=cluster
                )
    except InvalidDocumentsError as error:
        _print_invalid(error.invalid, error.count)
        raise
    _print_invalid(report.invalid, report.invalid_count)
    parts = f"{report.new} new ({counted(report.sections, 'section')}, {counted(report.passages, 'passage')})"
    parts += f", {report.known} known"
    if report.renewed:
        parts += f", {report.renewed} renewed in this precision"
    if older := sum(report.replaced.values()):
        parts += f", {older} older deleted"
    if report.invalid_count:
        parts += f", {report.invalid_count} invalid and left out"
    click.echo(f"{counted(report.documents, 'document')}: {parts}, in {report.seconds:.1f} s.")
    for name, count in report.replaced.items():
        if count:
            click.echo(f"Replaced {name!r}: {counted(count, 'document')} that these files do not hold deleted.")
    if report.spared:
        names = ", ".join(map(repr, report.spared))
        click.echo(f"Not replaced, as not all of it could be read: {names}. Nothing older was deleted there.", err=True)
    if report.invalid_count and not skip_invalid:
        raise DocumentError(
            f"{report.invalid_count} of the rows and files changed while they were indexed, and cannot be read now. "
            "The others are indexed. Run the same command again."
        )


@index.command(short_help="Delete all documents of SOURCE.")
@click.argument("source")
def delete(source: str) -> None:
    """Delete all documents of SOURCE, a name as `rlhf-loop index list` shows it."""
    from rlhf_loop.errors import VectorStoreError
    from rlhf_loop.sources.index import open_store
    from rlhf_loop.utils.text import counted

    with closing(open_store(read_settings())) as store:
        with working(f"Deleting {source}", kept="It may be deleted in part; the same command deletes the rest."):
            count = store.delete(source)
        if not count:
            there = ", ".join(repr(each.source) for each in store.sources()) or "none"
            raise VectorStoreError(f"There is no source {source!r} in the index. Its sources are: {there}.")
        # Said before anything else can fail: they are gone.
        click.echo(f"{counted(count, 'document')} deleted.")
        with working("Tidying the index", kept="The index is whole."):
            store.optimize()


@index.command("list")
def list_() -> None:
    """Show the sources with the number of their documents and sections."""
    from rlhf_loop.encoders import choose
    from rlhf_loop.sources.index import open_store
    from rlhf_loop.utils.text import counted

    settings = read_settings()
    with closing(open_store(settings)) as store:
        sources, encoders = store.sources(), store.encoders()
    if not sources:
        click.echo("The index is empty. Fill it with: rlhf-loop index add PATH...")
        return
    for each in sources:
        click.echo(f"{each.source}: {counted(each.documents, 'document')}, {counted(each.sections, 'section')}")
    click.echo(f"The vectors are those of {' and '.join(encoders)}.")
    precision = choose(settings).precision
    # An id is MODEL/PRECISION, with a version behind some.
    if others := [each for each in encoders if each.partition("/")[2].partition(".")[0] != precision]:
        click.echo(
            f"Those of {' and '.join(others)} are computed anew at each ranking, as the encoder works in {precision} "
            "now. Add the same files again, or set RLHF_ENCODER_PRECISION."
        )


@index.command(short_help="Have a language model write questions for the documents, into FILE.")
@click.argument("file", type=FilePath(dir_okay=False))
@click.option(
    "--most",
    type=click.IntRange(1, 20_000),
    default=1_000,
    show_default=True,
    help="Sections of documents that get questions, drawn from all; more of them later adds to these.",
)
def questions(file: Path, most: int) -> None:
    """Let the language model of RLHF_LLM_URL write questions for the indexed documents, as users would ask them.

    FILE keeps them, a line each with its answer, for: rlhf-loop train --recipe transformer --adapt FILE. Sections that
    have questions there are not read again, so the same command goes on after Ctrl-C.
    """
    from hashlib import sha256

    from rlhf_loop.answering.drafting import write_questions
    from rlhf_loop.errors import VectorStoreError
    from rlhf_loop.sources.index import open_store
    from rlhf_loop.training.transformer import MOST_PAIRS
    from rlhf_loop.utils.text import counted

    settings = read_settings()
    with closing(open_store(settings)) as store:
        texts = {text for _, text in store.texts(limit=MOST_PAIRS, titled=False)}
    if not texts:
        raise VectorStoreError("The index is empty. Fill it with: rlhf-loop index add PATH...")
    drawn = sorted(texts, key=lambda text: sha256(text.encode("utf-8", "replace")).digest())[:most]
    kept = "What is written is kept; the same command goes on from there."
    with progress_bar("Writing questions", kept=kept) as progress:
        done = write_questions(drawn, file, settings, progress=progress)
    said = f"{counted(done.questions, 'question')} for {counted(done.sections, 'section')} written to {file}"
    for count, what in ((done.known, "had some"), (done.without, "answer nothing"), (done.failed, "failed")):
        said += f", {count} {what}" if count else ""
    click.echo(f"{said}. To adapt to them: rlhf-loop train --recipe transformer --adapt {file}")


def _print_invalid(invalid: Sequence[ParsedDocument], count: int) -> None:
    for found in invalid:
        place = f" line {found.line}" if found.line else ""
        click.echo(f"{found.path}{place}: {found.reason}", err=True)
    if count > len(invalid):
        click.echo(f"... and {count - len(invalid)} more", err=True)
