"""What stands above all figures: which model is live, what is amiss, the versions and the latest trainings."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.engine import Engine

from rlhf_loop import registry
from rlhf_loop.domain import RunRecord
from rlhf_loop.registry import Version
from rlhf_loop.registry.runs import runs
from rlhf_loop.store.alarms import Alarm, open_alarms
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Overview:
    """`live` is None where no model is live; `versions` and `runs` are the newest, `more_versions` says of older ones.

    `empty` is a database that holds no answers.
    """

    empty: bool
    live: Version | None
    alarms: tuple[Alarm, ...]
    versions: tuple[Version, ...]
    more_versions: bool
    runs: tuple[RunRecord, ...]


def overview(engine: Engine) -> Overview:
    """Read it from the database."""
    versions = registry.versions(engine, limit=_SHOWN + 1)
    with reading(engine) as connection:
        empty = connection.execute(select(Interaction.id).limit(1)).first() is None
    return Overview(
        empty,
        registry.live(engine),
        tuple(open_alarms(engine)),
        tuple(versions[:_SHOWN]),
        len(versions) > _SHOWN,
        tuple(runs(engine, limit=_SHOWN)),
    )
