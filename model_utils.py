"""The ratings database, ready to be asked: `from model_utils import engine`.

The engine is made at import, as scripts expect of this name; in other code use
`rlhf_loop.store.engine.open_database(url)`.
"""

from rlhf_loop.config import Settings
from rlhf_loop.store.engine import open_database

__all__ = ["engine"]

engine = open_database(Settings.from_env().database_url)
