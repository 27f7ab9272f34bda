"""`rlhf-loop init`, `doctor` and `demo`: the commands that a newcomer calls first."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from rlhf_loop.cli.common import (
    find_settings,
    json_option,
    open_ratings,
    operator,
    print_json,
    progress_bar,
    read_settings,
    working,
)
from rlhf_loop.cli.training import rank

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

_DEMO = "The sample's ratings are stored; the same command begins anew."


@click.command()
def init() -> None:
    """Create the database, or bring it up to date.

    Safe to run again, and while other processes start. A table rlhf_interactions that was made by hand is adopted with
    its rows. Where a SQLite file is gone, no other command makes a new one.
    """
    from rlhf_loop.store.engine import describe, head, open_database, trace_of

    settings = read_settings()
    trace = trace_of(settings)
    with working("Bringing the database up to date", kept="The database is as it was; the same command begins anew."):
        engine = open_database(settings.database_url)
    click.echo(f"The database {describe(engine)} is ready (revision {head()}).")
    if trace:
        click.echo(
            f"It is a new one, which knows nothing of before, although {trace}. Start again what runs: rlhf-loop serve "
            "and worker take no other database by themselves."
        )


@click.command(short_help="Check installation, settings, database, model; say what to do.")
@json_option
def doctor(as_json: bool) -> None:
    """Check what is installed, the settings, the storage and the state of the loop; each problem comes with advice.

    Looks only, and changes nothing. The exit code is 1 if something is not all right.
    """
    from rlhf_loop.cli.doctor import examine_environment
    from rlhf_loop.cli.doctor.machine import settings_files
    from rlhf_loop.cli.doctor.printing import print_findings

    with suppress(OSError):  # the folder that one stands in may be gone
        # Where the server finds a source of one's own (RLHF_SOURCES=package.module:name).
        sys.path.insert(0, os.getcwd())
    files = list(settings_files(find_settings))
    findings = examine_environment(os.environ, files=files)
    if as_json:
        print_json(findings)
    else:
        print_findings(findings)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


@click.command(short_help="Show the settings that hold, and where each comes from.")
@click.option("--all", "with_defaults", is_flag=True, help="Those at their defaults, too.")
@json_option
def settings(with_defaults: bool, as_json: bool) -> None:
    """Show the settings that hold here, and where each comes from; of secrets only that they are set.

    The environment comes before --env-file or .env, these before rlhf-loop.toml, and all before the default; in each
    of them, a variable before its file (RLHF_SECRET_KEY_FILE, for secrets and the database).
    """
    from rlhf_loop.config import PREFIX, origins

    found, given, files = read_settings(), origins(os.environ), find_settings().files
    shown = {name: value for name, value in found.shown().items() if with_defaults or name in given}
    if as_json:
        print_json(
            {
                PREFIX + name.upper(): {
                    "value": value,
                    "from": given.get(name),
                    "file": str(files[given[name]]) if given.get(name) in files else None,
                }
                for name, value in shown.items()
            }
        )
        return
    for name, value in shown.items():
        variable, origin = PREFIX + name.upper(), given.get(name)
        where = str(files.get(origin, "the environment")) if origin else "the default"
        click.echo(f"{variable}={value}  ({where if origin in (variable, None) else f'{origin} in {where}'})")
    if not shown:
        click.echo(
            "All settings are at their defaults: rlhf-loop settings --all. docs/SETTINGS.md says what each does."
        )


@click.command()
def demo() -> None:
    """See the whole loop at work on sample ratings.

    The sample (200 rated answers, not medical advice) goes into the database that the settings name, and its texts into
    the index. With RLHF_LANGUAGE=de it is a German one, which needs an encoder that knows German
    (RLHF_ENCODER=use-multilingual-v3).
    """
    from rlhf_loop import sample
    from rlhf_loop.cli import output
    from rlhf_loop.encoders import ENGLISH_ENCODER, MULTILINGUAL_ENCODER, load_encoder
    from rlhf_loop.errors import ConfigError
    from rlhf_loop.exchange.transfer import import_ratings
    from rlhf_loop.registry.training_run import run_training
    from rlhf_loop.sources.index import open_store
    from rlhf_loop.sources.index.indexing import index_files
    from rlhf_loop.store.interactions import stats as count
    from rlhf_loop.utils.languages import ENGLISH, language_named

    engine, settings = open_ratings(), read_settings()
    language = language_named(settings.language)
    if language.code not in sample.SAMPLES:
        raise ConfigError(
            f"RLHF_LANGUAGE={settings.language!r} is a language without a sample. Set it to "
            f"{' or '.join(sample.SAMPLES)} for the demo."
        )
    if language.code != ENGLISH and settings.encoder == ENGLISH_ENCODER:
        raise ConfigError(
            f"The encoder {settings.encoder} does not know {language.name.title()}. Install another one, pip install "
            f"'rlhf-loop[multilingual]', and set RLHF_ENCODER={MULTILINGUAL_ENCODER}."
        )
    chosen = sample.SAMPLES[language.code]
    store, encoder = open_store(settings, anew=True), load_encoder(settings)  # what is missing is said first
    _refuse_own_ratings(engine)
    output.headline("1  Sample ratings (not medical advice)")
    output.print_import(import_ratings(engine, chosen.ratings_file, source="sample"))
    output.print_stats(count(engine))
    output.headline("2  Training")
    with progress_bar("Training", kept=_DEMO) as progress:
        outcome = run_training(engine, settings, progress=progress, actor=operator())
    output.print_training(outcome)
    output.headline("3  A question that the model has not seen")
    given = list(chosen.candidates)
    output.print_ranking(chosen.question, given, rank(chosen.question, given))
    output.headline("4  The sample's answers as documents to answer from")
    kept = "The sample's ratings and the model are stored; the same command begins anew."
    with progress_bar("Indexing", kept=kept) as progress:
        columns = {"text": "ai_response", "title": "user_prompt"}
        files = [chosen.ratings_file]
        index_files(files, store=store, encoder=encoder, source="sample", columns=columns, progress=progress)
    click.echo("They are in the index now: rlhf-loop serve answers from them. Some are wrong on purpose.")
    output.headline("What next")
    output.print_next_steps()


def _refuse_own_ratings(engine: Engine) -> None:
    """Refuse to train the demo on somebody's own ratings, and to replace a model that was trained on them.

    What the service answered and nobody rated does no harm: whoever tried it may see the demo again.
    """
    from sqlalchemy import false, func, not_, select

    from rlhf_loop.answering.service import ANSWERED
    from rlhf_loop.domain import RANKED
    from rlhf_loop.errors import DatabaseError
    from rlhf_loop.store.engine import describe
    from rlhf_loop.store.tables import Interaction

    group = Interaction.candidate_group
    served = (group.startswith(ANSWERED) | group.startswith(RANKED)) & Interaction.rating.is_(None)
    own = select(func.count()).where(
        Interaction.source.is_distinct_from("sample"), not_(func.coalesce(served, false()))
    )
    with engine.connect() as connection:
        count = connection.execute(own).scalar_one()
    if count:
        raise DatabaseError(
            f"The database {describe(engine)} holds {count} answers that are not of the sample. Run the demo "
            "elsewhere: RLHF_DATABASE_URL=sqlite:///demo.db RLHF_MODEL_PATH=demo.joblib rlhf-loop demo"
        )
