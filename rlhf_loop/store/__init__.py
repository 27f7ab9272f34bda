"""The database: interactions, reviews, preferences, serving records, alarms, the audit log, and migrations."""

from rlhf_loop.store.engine import open_database, transaction
from rlhf_loop.store.interactions import rate, record, stats

__all__ = ["open_database", "rate", "record", "stats", "transaction"]
