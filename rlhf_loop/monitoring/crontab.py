"""Times as in a crontab, by which the worker does what it does at times."""

from __future__ import annotations

from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from rlhf_loop.errors import ConfigError
from rlhf_loop.utils.text import clause

_FIELDS = 5


class Schedule:
    """Times as in a crontab, in UTC."""

    def __init__(self, crontab: str, *, setting: str = "RLHF_WORKER_SCHEDULE") -> None:
        try:
            if len(crontab.split()) != _FIELDS:
                raise CronSimError(f"{len(crontab.split())} fields instead of {_FIELDS}")
            times = CronSim(crontab, datetime.now(UTC))
        except CronSimError as error:
            raise ConfigError(
                f"{setting}={crontab!r} is not a time as in a crontab: {clause(error)}. Give minute, hour, "
                "day, month and weekday, as in 30 3 * * 1-5 for every working day at 3:30 (UTC)."
            ) from error
        self._crontab = crontab
        self.words: str = times.explain()

    def after(self, now: datetime) -> datetime:
        """Return the first such time after `now`."""
        return next(CronSim(self._crontab, now.astimezone(UTC)))
