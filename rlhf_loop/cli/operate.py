"""`rlhf-loop worker`: what is to be done over and over, for as long as it runs."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType

import click

from rlhf_loop.cli.common import read_settings


@click.command(short_help="Retrain when it is due, and look for what is amiss.")
@click.option(
    "--once", is_flag=True, help="Do everything once, now, and end; exit code 1 if something could not be done."
)
def worker(once: bool) -> None:
    """Retrain when it is due, look for what is amiss, and keep the live model as the registry has it; until Ctrl-C.

    It looks at the times of RLHF_WORKER_SCHEDULE whether a retraining is due, as `rlhf-loop retrain --if-due` does,
    every five minutes for alarms, of which it tells the webhook, and every minute after the live model's file and
    killed trainings. One worker is enough; several do no harm. SIGTERM stops a running training, too. Logs go to
    stderr, a line of JSON each.
    """
    from rlhf_loop.monitoring.worker import Chores
    from rlhf_loop.web import logs

    chores = Chores(read_settings(), retrain=[sys.executable, "-m", "rlhf_loop", "retrain", "--if-due"])
    logs.configure()
    # What the scheduler does every minute is no news, nor that a training takes longer than from one time to the next.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    logger = logging.getLogger(__name__)
    with _stopped_by_signals(chores.stop):
        if once:
            if not chores.once():
                sys.exit(1)
            return
        logger.info(
            "The worker begins. It looks whether a retraining is due: %s (UTC), next at %s.",
            chores.schedule.words.lower(),
            f"{chores.schedule.get_next_fire_time(None, datetime.now(UTC)):%Y-%m-%d %H:%M}",
        )
        chores.run()
        logger.info("The worker ends.")


@contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
