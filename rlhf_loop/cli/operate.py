"""`rlhf-loop worker`, `backup`, `restore`, `alarms`, `report`, `purge`, `rankings`, `forget`: the periodic jobs, what
is kept, looked at or deleted.
"""

from __future__ import annotations

import logging
import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlhf_loop.cli.common import (
    UNCHANGED,
    FilePath,
    check_writable,
    off_still,
    open_ratings,
    operator,
    print_json,
    progress_bar,
    read_settings,
    read_settings_for_log,
    working,
)
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.text import counted

if TYPE_CHECKING:
    from rlhf_loop.config import Settings
    from rlhf_loop.sources.index import IndexLines
    from rlhf_loop.store.backup import Backup
    from rlhf_loop.store.rankings import Stored

_SHOWN = 100
_DELETED = "What is deleted is gone for good; the same command deletes the rest."


@click.command(short_help="Retrain when it is due, and check for problems.")
@click.option(
    "--once", is_flag=True, help="Do everything once, now, and end; exit code 1 if something could not be done."
)
def worker(once: bool) -> None:
    """Retrain when it is due, check for problems, and keep the live model as the registry has it; until Ctrl-C.

    It looks at the times of RLHF_WORKER_SCHEDULE whether a retraining is due, as `rlhf-loop retrain --if-due` does,
    every five minutes for alarms, of which it tells the webhook, every minute after the live model's file and
    killed trainings, and every hour it sums up days that are over for the trends, and deletes what is older than
    RLHF_RECORD_DAYS and RLHF_SERVED_DAYS, as `rlhf-loop purge` does. One worker is enough; several do no harm. SIGTERM
    stops a running training, too. Logs go to stderr: text at a terminal, elsewhere a line of JSON each
    (RLHF_LOG_FORMAT).
    """
    from rlhf_loop.monitoring.worker import Worker

    settings = read_settings_for_log()
    require("sklearn", "serve")  # before an alarm needs it, in the night
    retrain = [sys.executable, "-m", "rlhf_loop", "retrain", "--if-due"]
    worker = Worker(settings, retrain=retrain, index=lambda: _index_lines(settings))
    logger = logging.getLogger(__name__)
    with _stopped_by_signals(worker.stop):
        if once:
            if not worker.once():
                sys.exit(1)
            return
        logger.info(
            "The worker begins. It looks whether a retraining is due: %s (UTC), next at %s.",
            worker.schedule.words.lower(),
            f"{worker.schedule.after(datetime.now(UTC)):%Y-%m-%d %H:%M}",
        )
        worker.run()
        logger.info("The worker ends.")


@click.command()
@click.option("--check", is_flag=True, help="Check for problems first, and send new alarms to the webhook.")
@click.option("--all", "with_past", is_flag=True, help=f"Show those that are over, too: the newest {_SHOWN}.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON, for other programs.")
def alarms(check: bool, with_past: bool, as_json: bool) -> None:
    """Show the open alarms. Exit code 1 if there is any, else 0.

    With --check it can stand in a crontab in place of the worker, which does the same every five minutes.
    """
    from rlhf_loop.store.alarms import alarms as newest
    from rlhf_loop.store.alarms import open_alarms

    engine, settings = open_ratings(), read_settings()
    if check:
        from rlhf_loop.monitoring.checks import check as run_checks
        from rlhf_loop.monitoring.webhook import deliver

        with progress_bar(
            "Checking", kept="Alarms that were raised are kept; the same command begins anew."
        ) as progress:
            run_checks(engine, settings, progress=progress)
            deliver(engine, settings)
    still = open_alarms(engine)
    found = newest(engine, limit=_SHOWN) if with_past else still
    if as_json:
        print_json(found)
    else:
        for alarm in found:
            name = f"{alarm.kind} {alarm.subject}".strip()
            over = f" to {alarm.cleared_at:%Y-%m-%d %H:%M}, over" if alarm.cleared_at else ""
            click.echo(f"{name} ({alarm.raised_at:%Y-%m-%d %H:%M}{over} UTC)")
            click.echo(f"  {''.join(character for character in alarm.message if character.isprintable())}")
        if not still:
            click.echo("No problems found." if check else "No alarm is open. To look now: rlhf-loop alarms --check")
    if still:
        sys.exit(1)


@click.command(short_help="Write what the dashboard shows to a file.")
@click.argument("file", type=FilePath(dir_okay=False), default="rlhf_report.html")
@click.option("--open", "shown", is_flag=True, help="Open it in the browser, too.")
def report(file: Path, shown: bool) -> None:
    """Write what the dashboard shows to FILE (default: rlhf_report.html).

    It is one HTML file with all pictures and data in it: it needs no network, and can be sent, printed and kept.
    """
    from rlhf_loop.encoders import load_encoder
    from rlhf_loop.errors import EncoderError
    from rlhf_loop.monitoring.report import report as made
    from rlhf_loop.utils.files import write_whole

    check_writable(file, hint="FILE")
    engine, settings = open_ratings(), read_settings()
    encoder = None
    with progress_bar("Computing the figures", kept="No report was written.") as progress:
        try:
            encoder = load_encoder(settings, download=False)
        except EncoderError as error:
            click.echo(f"Without the encoder, what compares questions is left out: {error}", err=True)
        html = made(engine, settings, encoder=encoder, progress=progress)
    engine.dispose()
    try:
        write_whole(file.resolve(), html.encode())  # a link stays a link
    except OSError as error:
        raise click.BadParameter(f"{str(file)!r} cannot be written: {error.strerror}. Choose another place.") from error
    click.echo(f"The report is in {file} ({max(1, len(html.encode()) // 1000):,} kB).")
    if shown:
        click.launch(file.resolve().as_uri())


class _FileOrAddress(FilePath):
    """The type of what names a file, here or by its address in an object store."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or the address as it is."""
        if isinstance(value, str) and "://" in value:
            return value
        return super().convert(value, param, ctx)


def _without_key(file: Path | str) -> str:
    if isinstance(file, Path):
        return str(file)
    from rlhf_loop.utils.object_store import shown

    return shown(file)


@click.command(short_help="Write all there is to one file, while everything runs.")
@click.argument("file", type=_FileOrAddress(dir_okay=False))
@click.option("--index", "with_index", is_flag=True, help="The index, too. [RLHF_BACKUP_INDEX]")
def backup(file: Path | str, with_index: bool) -> None:
    """Write the database, the versions of the model and this machine's outbox to FILE, while everything runs.

    FILE is a ZIP archive that `rlhf-loop restore` puts back on any machine, into SQLite or PostgreSQL. It is read again
    to its end before it takes the place of an earlier one, never of another file. Secrets of the settings are not in
    it; but it has what people wrote and hashes of passwords, so only you may read it. FILE may be an address in an
    object store (s3://bucket/rlhf.zip). Exit code 1 if outbox, index, the live version's file or those of all versions
    could not be read: then it has all the rest.
    """
    from rlhf_loop.store.backup import back_up, last_backup
    from rlhf_loop.store.engine import make_engine, refuse_new_file

    settings = read_settings()
    refuse_new_file(settings)
    engine = make_engine(settings.database_url)
    with ExitStack() as closed:
        wanted = with_index or settings.backup_index
        index = closed.enter_context(closing(_index_lines(settings))) if wanted else None
        progress = closed.enter_context(
            progress_bar("Writing the backup", kept=f"{_without_key(file)} is as it was before.")
        )
        made = back_up(engine, settings, file, actor=operator(), index=index, progress=progress)
    last = last_backup(engine)
    size = f" ({last.bytes / 1e6:,.1f} MB)" if last else ""
    click.echo(f"{_without_key(file)} has {made.words}{size}. It was read again, and is whole.")
    if made.missing:
        click.echo(f"Files of versions that were not there: {', '.join(made.missing)}.", err=True)
    for lacking in made.lacking:
        click.echo(f"It lacks what could not be read: {lacking}", err=True)
    if made.lacking:
        sys.exit(1)


@click.command(short_help="Put a backup back, into SQLite or PostgreSQL.")
@click.argument("file", type=_FileOrAddress(dir_okay=False))
@click.option("--check", is_flag=True, help="Only read it to its end, and say what is in it.")
@click.option("--replace", is_flag=True, help="Drop what is in the database and the live model. Stop what runs before.")
def restore(file: Path | str, check: bool, replace: bool) -> None:
    """Put FILE, which `rlhf-loop backup` has written, into the database and the folders that the settings name.

    FILE may be an address in an object store (s3://bucket/rlhf.zip), which is fetched into the folder of TMPDIR first.
    The database has to be empty, and may be of the other kind. All of it is there at the end, or nothing was changed.
    People sign in anew. The index comes back where it is in FILE (`backup --index`), into either kind, too. Exit code 1
    where FILE has no valid file of the live version: then all is restored, and no model ranks.
    """
    from rlhf_loop import registry
    from rlhf_loop.store import backup as backups
    from rlhf_loop.store.engine import describe, make_engine

    if check:
        with progress_bar("Reading the backup", kept="It was only read.") as progress:
            found = backups.look(file, progress=progress)
        click.echo(
            f"{_without_key(file)} is whole: {found.words}, of {found.made_at:%Y-%m-%d %H:%M} UTC, by {found.program}."
        )
        _tell_lacking(found)
        return
    settings = read_settings()
    engine = make_engine(settings.database_url)
    with progress_bar("Restoring", kept="All of it is restored, or nothing was changed.") as progress:
        found = backups.restore(
            engine,
            settings,
            file,
            actor=operator(),
            replace=replace,
            index=lambda: _index_lines(settings),
            progress=progress,
        )
    trouble = registry.settle(engine, settings, force=replace, restored=True)
    live = registry.live(engine)
    click.echo(f"{describe(engine)} has {found.words}, as they were at {found.made_at:%Y-%m-%d %H:%M:%S} UTC.")
    ranks = settings.model_path.exists()
    if live and not ranks:
        click.echo(f"{live.version} was live, and has no file now: candidates keep their incoming order.")
    else:
        click.echo((f"{live.version} is live." if live else "No version is live.") + off_still())
    if found.waiting or found.refused:
        place = settings.outbox_path.absolute()
        click.echo(f"What waits is in the outbox again, at {place}; rlhf-loop serve brings it in.")
    _tell_lacking(found)
    if changed := ", ".join(f"RLHF_{name.upper()}={value}" for name, value in found.settings.items()):
        click.echo(f"The settings were: {changed}")
    if trouble:
        click.echo(trouble, err=True)
    if live and not ranks:
        sys.exit(1)


def _tell_lacking(found: Backup) -> None:
    for lacking in found.lacking:
        click.echo(f"The backup lacks what could not be read then: {lacking}", err=True)


def _index_lines(settings: Settings) -> IndexLines:
    from rlhf_loop.sources.index import IndexLines, open_store

    return IndexLines(open_store(settings))


@contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda number, frame: stop()) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.group()
def rankings() -> None:
    """Delete recorded rankings (RLHF_RECORD_RANKINGS) that are old."""


_DAYS = click.FloatRange(0, 36_500)
_yes = click.option("--yes", is_flag=True, help="Delete it. Without this, only its number is shown.")


@rankings.command("purge", short_help="Delete recorded rankings that are old and not rated.")
@click.option("--days", type=_DAYS, help="Those older than so many days. Default: RLHF_RECORD_DAYS.")
@_yes
def purge_rankings(days: float | None, yes: bool) -> None:
    """Delete the documents of recorded rankings that are old, where nobody has rated any of them.

    Their numbers stay in the trends, without any text. The worker does the same every hour by RLHF_RECORD_DAYS. Exit
    code 1 while SQLite's log could not be emptied of what was deleted, now or before: then do it again.
    """
    from rlhf_loop.store.engine import reading, scrub
    from rlhf_loop.store.rankings import count, of_groups, old
    from rlhf_loop.store.rankings import purge as purge_documents

    days = read_settings().record_days or None if days is None else days
    if days is not None and math.isnan(days):
        raise click.UsageError("nan is not a valid number of days. Give --days from 0 to 36,500.")
    if days is None:
        raise click.UsageError("RLHF_RECORD_DAYS is 0, so nothing is too old. Set it, or give --days.")
    engine, before = open_ratings(), datetime.now(UTC) - timedelta(days=days)
    with working("Counting what is old", kept=UNCHANGED), reading(engine) as connection:
        found = count(connection, of_groups(connection, old(connection, before=before)))
    _print_stored(found, f"recorded before {before:%Y-%m-%d %H:%M} UTC and not rated")
    if not found.answers:
        click.echo("There is nothing to delete.")
    if found.answers and _allowed(yes):
        with progress_bar("Deleting", kept=_DELETED) as progress:
            gone = purge_documents(engine, before=before, actor=operator(), progress=progress)
        _print_stored(gone, "deleted")
    # Also where nothing was left to delete: an earlier run may have found the log in use.
    if yes and not scrub(engine):
        sys.exit(1)


@click.command(short_help="Delete what is older than the settings keep.")
@click.option("--record-days", type=_DAYS, help="Recorded rankings, not rated. Default: RLHF_RECORD_DAYS.")
@click.option("--served-days", type=_DAYS, help="How questions were served. Default: RLHF_SERVED_DAYS.")
@_yes
def purge(record_days: float | None, served_days: float | None, yes: bool) -> None:
    """Delete recorded rankings that nobody rated, and how questions were served, both after so many days; 0: never.

    Answers and ratings stay; the trends of days that are over, too, as they are summed up before. The worker does the
    same every hour. Exit code 1 while SQLite's log could not be emptied of what was deleted: then do it again.
    """
    from rlhf_loop.monitoring.served_days import purge_old, served_before
    from rlhf_loop.store.engine import reading, scrub
    from rlhf_loop.store.rankings import Stored, count, count_served, of_groups, old

    settings = read_settings()
    record_days = settings.record_days if record_days is None else record_days
    served_days = settings.served_days if served_days is None else served_days
    if math.isnan(record_days) or math.isnan(served_days):
        raise click.UsageError("nan is not a valid number of days. Give a number from 0 to 36,500.")
    if not record_days and not served_days:
        raise click.UsageError(
            "RLHF_RECORD_DAYS and RLHF_SERVED_DAYS are 0, so nothing is too old. Set one, or give --record-days or "
            "--served-days."
        )
    engine, now = open_ratings(), datetime.now(UTC)
    documents, served = Stored(), 0
    recorded_before = now - timedelta(days=record_days) if record_days else None
    with working("Counting what is old", kept=UNCHANGED), reading(engine) as connection:
        if recorded_before is not None:
            documents = count(connection, of_groups(connection, old(connection, before=recorded_before)))
        if served_days:
            before = served_before(served_days, now=now)
            served = count_served(connection, before=before, purged_before=recorded_before)
    if yes:
        with progress_bar("Deleting", kept=_DELETED) as progress:
            gone = purge_old(
                engine,
                record_days=record_days,
                served_days=served_days,
                threshold=settings.quality_threshold,
                actor=operator(),
                now=now,
                progress=progress,
            )
        documents, served = gone.documents, gone.served
    which = "deleted" if yes else "too old"
    _print_stored(documents, which)
    click.echo(f"{counted(served, 'record', 'records')} of served questions: {which}.")
    if not documents.answers and not served:
        click.echo("There was nothing to delete." if yes else "There is nothing to delete.")
    else:
        _allowed(yes)
    if yes and not scrub(engine):
        sys.exit(1)


@click.command(short_help="Delete what was asked, or what a caller had ranked.")
@click.option("--query", metavar="TEXT", help="All answers to this question, in whatever spelling and from wherever.")
@click.option("--caller", metavar="NAME", help="All rankings by the tokens of this user, and what was made of them.")
@_yes
def forget(query: str | None, caller: str | None, yes: bool) -> None:
    """Delete answers for good, with all that was said of them, because somebody is to be forgotten.

    Models that learned from them stay as they are: train anew to have one that did not. Backups, exports and logs of
    others are not touched. Exit code 1 while SQLite's log could not be emptied of what was deleted, now or before: then
    do it again.
    """
    from rlhf_loop.accounts.users import find
    from rlhf_loop.errors import AccountError
    from rlhf_loop.store.engine import reading, scrub
    from rlhf_loop.store.rankings import Stored, count, external_ids, of_caller, of_query
    from rlhf_loop.store.rankings import forget as forget_answers
    from rlhf_loop.store.recording import Recorder

    if (query is None) == (caller is None):
        raise click.UsageError("Give --query or --caller, one of them.")
    if not (given := (query or caller or "").strip()):
        raise click.UsageError("What is to be forgotten is empty. Give the question, or the user's name.")
    engine = open_ratings()
    query, caller = query and given, caller and given
    recorder = Recorder(read_settings())
    # What waits in the outbox of this machine would come back.
    recorder.settle()

    def look(kept: str = UNCHANGED) -> tuple[list[int], Stored, set[str]]:
        with working("Looking for it", kept=kept), reading(engine) as connection:
            keys = of_query(connection, given) if caller is None else of_caller(connection, given)
            return keys, count(connection, keys, caller=caller), external_ids(connection, keys)

    keys, found, ids = look()
    waiting = recorder.take_out(query=query, caller=caller, ids=ids, dry_run=True)
    which = "to this question" if caller is None else f"by {given}"
    nothing = not waiting and found == Stored()
    # An earlier run may have found the logs in use.
    emptied = not (nothing and yes) or all([recorder.scrub(), scrub(engine)])
    if nothing and caller is not None:
        with reading(engine) as connection:
            if find(connection, caller) is None:
                raise AccountError(f"There is no user {caller!r}, and nothing by one. All users: rlhf-loop users list")
    _print_stored(found, which)
    if nothing:
        click.echo("There is nothing to delete.")
    if waiting:
        click.echo(f"{counted(waiting, 'entry', 'entries')} in the outbox: {which}.")
    if not nothing and _allowed(yes):
        if waiting := recorder.take_out(query=query, caller=caller, ids=ids):
            click.echo(f"{counted(waiting, 'entry', 'entries')} in the outbox: deleted.")
        # Once more: what waited before may have come.
        keys, *_ = look(_DELETED)
        with progress_bar("Deleting", kept=_DELETED) as progress:
            gone = forget_answers(engine, keys, actor=operator(), caller=caller, progress=progress)
        _print_stored(gone, "deleted")
        emptied = all([recorder.scrub(), scrub(engine)])
    recorder.close()
    if not emptied:
        sys.exit(1)


def _print_stored(found: Stored, which: str) -> None:
    answers = counted(found.answers, "answer or document", "answers and documents")
    click.echo(f"{answers} in {counted(found.questions, 'list')}, with {counted(found.reviews, 'review')}: {which}.")


def _allowed(yes: bool) -> bool:
    if not yes:
        click.echo("Nothing is deleted yet. Add --yes to delete it for good.")
    return yes
