"""`rlhf-loop retrain`: training as a scheduler starts it, with exit codes that tell what happened."""

from __future__ import annotations

import sys

import click

from rlhf_loop.cli.common import open_ratings, operator, progress_bar, read_settings

#: As sysexits.h has it: not now, try again later.
_TRY_LATER = 75


@click.command()
@click.option(
    "--if-due",
    is_flag=True,
    help="Only if enough ratings are new, or any and enough time has passed, or some and the questions have drifted.",
)
def retrain(if_due: bool) -> None:
    """Train again, and put the model live if the gate lets it pass.

    \b
    Exit codes, for cron and its like:
      0   the new model is live, or nothing was due
      2   it could not be done: too few ratings, or a setting is wrong
      3   trained, but the model waits or is refused; what was live stays live
      75  another training is running
    """
    from rlhf_loop.cli.output import print_training
    from rlhf_loop.errors import TrainingRunningError
    from rlhf_loop.monitoring.checks import drifted_since
    from rlhf_loop.registry.schedule import due
    from rlhf_loop.registry.training_run import run_training

    engine, settings = open_ratings(), read_settings()
    if if_due:
        found = due(engine, settings, drifted=lambda: drifted_since(engine, settings))
        click.echo(f"{'Due' if found.due else 'Not due'}: {found.reason}")
        if not found.due:
            return
    try:
        with progress_bar("Training") as progress:
            outcome = run_training(engine, settings, progress=progress, actor=operator())
    except TrainingRunningError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(_TRY_LATER)
    print_training(outcome)
    if not outcome.live:
        sys.exit(3)
