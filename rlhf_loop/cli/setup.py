"""`rlhf-loop init`, `doctor` and `demo`: what a newcomer calls first."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from rlhf_loop.cli.common import open_ratings, read_settings, working
from rlhf_loop.cli.model import ranked

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


@click.command()
def init() -> None:
    """Create the database, or bring it up to date.

    Safe to run again, and while other processes start. A table rlhf_interactions that was made by hand is adopted with
    its rows.
    """
    from rlhf_loop.db import HEAD, describe

    engine = open_ratings()
    click.echo(f"The database {describe(engine)} is ready (revision {HEAD}).")


@click.command()
def doctor() -> None:
    """Say what is installed, what the encoder runs on, and what to do about what is missing.

    Looks only, and changes nothing. The exit code is 1 if something is not all right.
    """
    from rlhf_loop.console import print_findings
    from rlhf_loop.doctor import examine

    findings = examine(read_settings())
    print_findings(findings)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


@click.command()
def demo() -> None:
    """See the whole loop at work on sample ratings.

    The sample (200 rated answers, not medical advice) goes into the database that the settings name.
    """
    from rlhf_loop import sample
    from rlhf_loop.console import headline, print_import, print_next_steps, print_ranking, print_stats, print_training
    from rlhf_loop.exchange import import_ratings
    from rlhf_loop.interactions import stats as count
    from rlhf_loop.training_run import run_training

    engine, settings = open_ratings(), read_settings()
    _refuse_own_ratings(engine)
    headline("1  Sample ratings (not medical advice)")
    print_import(import_ratings(engine, sample.RATINGS_FILE, source="sample"))
    print_stats(count(engine))
    headline("2  Training")
    with working("Training"):
        outcome = run_training(engine, settings)
    print_training(outcome)
    headline("3  A question that the model has not seen")
    given = list(sample.CANDIDATES)
    print_ranking(sample.QUESTION, given, ranked(sample.QUESTION, given))
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
