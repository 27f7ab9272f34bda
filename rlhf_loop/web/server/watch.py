"""Watch over the live model: its file is the one that the registry names, it is off while somebody has switched it off,
and killed trainings are marked as dead.

A promotion replaces the file on its own machine; on others, and after a kill in the middle of it, each serving process
does. The ranker notices a new file by itself with the next question.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic

from sqlalchemy.engine import Engine

from rlhf_loop import registry
from rlhf_loop.config import Settings
from rlhf_loop.errors import RegistryError, RlhfLoopError
from rlhf_loop.registry import model_store
from rlhf_loop.registry.runs import mark_dead_runs
from rlhf_loop.reward.model_file import sum_file, weights_file
from rlhf_loop.store.interactions import INCOMING
from rlhf_loop.utils.concurrency import trim_memory
from rlhf_loop.web.process import Database

logger = logging.getLogger(__name__)

#: Seconds between two looks: two queries each, and the file is read only where it is another than the last time.
LOOK_EVERY_S = 2.0
_RUNS_EVERY_S = 60.0


class Watch:
    """Checks the live model file in a thread that ends with the process; `then` is called after each check."""

    def __init__(self, settings: Settings, database: Database, *, then: Callable[[], None] = lambda: None) -> None:
        self._settings, self._database, self._then = settings, database, then
        self._stop = threading.Event()
        self._seen: tuple[object, ...] = ()
        self._runs_at = 0.0
        self._said = ""

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name="rlhf-watch", daemon=True).start()

    def stop(self) -> None:
        """End with the next look."""
        self._stop.set()

    def look(self) -> None:
        """Look once.

        Raises:
            RlhfLoopError: the database cannot be used, or a lock's file cannot be written.
        """
        engine = self._database.engine()
        registry.follow(engine, self._settings)
        live = registry.live(engine)
        path = self._settings.model_path
        files = [path, sum_file(path)]
        if live and live.weights_sha256:
            files.append(weights_file(path, live.weights_sha256))
        seen = (live.sha256 if live else None, *map(_stamp, files))
        if seen != self._seen:
            trouble = registry.settle(engine, self._settings)
            # It has read whole files, and tuned layers are large ones.
            trim_memory()
            # What was mended is another file now, and what was not should be tried again.
            self._seen = () if trouble else seen
        if monotonic() - self._runs_at > _RUNS_EVERY_S:
            self._runs_at = monotonic()
            mark_dead_runs(engine, self._settings)
            self._fetch_other(engine)

    def _fetch_other(self, engine: Engine) -> None:
        """Have the version that an experiment is against on this machine, where an object store has all of them."""
        settings = self._settings
        if settings.models_store and settings.experiment_share and settings.experiment_against != INCOMING:
            with suppress(RegistryError):  # the experiment says so itself
                version = registry.find(engine, settings.experiment_against)
                model_store.fetch(settings, version.version, sha256=version.sha256)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                try:
                    self.look()
                finally:
                    self._then()
                self._said = ""
            except RlhfLoopError as error:
                # Once for each reason, and not every two seconds.
                if self._said != (said := str(error)):
                    logger.warning("The live model cannot be looked after now: %s", error)
                    self._said = said
            except Exception:
                logger.exception("Looking after the live model failed.")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
