"""Linear algebra on one thread.

Threads that share a matrix product wait for each other by spinning. Training multiplies long and narrow matrices, where
two threads gain next to nothing; and beside other work on the machine they lose much.
"""

from __future__ import annotations

from contextlib import AbstractContextManager


def one_thread() -> AbstractContextManager[object]:
    """Keep the linear algebra inside the block to one thread; libraries that are loaded inside it stay as they are."""
    # Imported here: serving does without it.
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits
