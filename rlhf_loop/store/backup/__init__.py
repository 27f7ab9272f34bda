"""Backups: the database row by row, the versions' files, the outbox and, where it is wanted, the index, in one file
that either database can be restored from.
"""

from rlhf_loop.store.backup.archive import Backup, Index, look
from rlhf_loop.store.backup.restoration import restore
from rlhf_loop.store.backup.writer import LastBackup, back_up, back_up_into, holds_nothing, last_backup, stored

__all__ = [
    "Backup",
    "Index",
    "LastBackup",
    "back_up",
    "back_up_into",
    "holds_nothing",
    "last_backup",
    "look",
    "restore",
    "stored",
]
