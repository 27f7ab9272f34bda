"""What a source of candidates is: anything with a name and one method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rlhf_loop.domain import Passage


class Source(Protocol):
    """Finds passages for a question. Several threads may ask it at once."""

    @property
    def name(self) -> str:
        """Its short name: what answers, settings and reports call it."""

    def search(self, query: str, *, limit: int) -> Sequence[Passage]:
        """Return at most `limit` passages, best first; none if it knows nothing.

        Raises:
            SourceError: it cannot answer now. Any other exception counts as one, too.
        """
