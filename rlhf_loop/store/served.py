"""The questions that were answered: by which order, how fast, and what did not work. What was asked is not in it."""

from __future__ import annotations

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from rlhf_loop.domain import Served
from rlhf_loop.store.tables import ServedQuestion

#: What may order the answers to a question; the version of a model may, too.
LIVE, INCOMING, INTERLEAVED = "live", "incoming", "interleaved"


def experiment_name(other: str, *, interleaved: bool) -> str:
    """Return what an experiment against the other order is called in `Served`."""
    return f"{other} {INTERLEAVED}" if interleaved else other


def other_order(experiment: str) -> str:
    """Return the order that an experiment of that name compares with the live one."""
    return experiment.removesuffix(f" {INTERLEAVED}")


def put(connection: Connection, served: Served) -> None:
    """Keep how a question was answered, in a transaction of the caller's; the second time does nothing."""
    values = {
        "candidate_group": served.candidate_group,
        "served_at": served.served_at,
        "policy": served.policy,
        "propensity": served.propensity,
        "experiment": served.experiment,
        "model_version": served.model_version,
        "first_id": served.first_id,
        "teams": dict(served.teams) or None,
        "degraded": dict(served.degraded) or None,
        "timings": dict(served.timings) or None,
    }
    # Two dialects, one clause: SQLAlchemy has no common spelling of it.
    if connection.dialect.name == "sqlite":
        connection.execute(sqlite.insert(ServedQuestion).values(values).on_conflict_do_nothing())
    else:
        connection.execute(postgresql.insert(ServedQuestion).values(values).on_conflict_do_nothing())
