"""Bulk scoring on a cluster of Ray, whose library Ray Data hands the parts to a pool of actors."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rlhf_loop import errors
from rlhf_loop.errors import RlhfLoopError
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.text import clause

#: Scores a part and returns its rows.
ScorePart = Callable[[int], int]


class PartActor:
    """An actor with an encoder and a model of its own, which scores part after part."""

    def __init__(self, make: Callable[[], ScorePart]) -> None:
        self._make = make
        self._score: ScorePart | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Score the part of a batch; return its rows, or the name of the error that it met and what that says.

        Of an error that is raised here, or while an actor is made, Ray hands on a long text alone.
        """
        (part,) = batch["part"]
        try:
            score = self._score = self._score or self._make()
            return {"rows": [score(int(part))], "error": [""], "message": [""]}
        except RlhfLoopError as error:
            return {"rows": [0], "error": [type(error).__name__], "message": [str(error)]}


def score_parts(
    make: Callable[[], ScorePart], parts: Sequence[int], *, workers: int, address: str | None
) -> Iterator[int]:
    """Score parts on a cluster; yield the rows of each once it is written.

    `make` makes what scores, and goes to each actor once; all that follows are numbers of parts. A part that was under
    way on a machine that is lost is scored by another one.

    Raises:
        MissingExtraError: Ray is not installed.
        RlhfLoopError: the cluster cannot be reached, or an actor failed in its work.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told what runs here
    ray, data = require("ray", "ray"), require("ray.data", "ray")
    own = not ray.is_initialized()
    try:
        if own:
            ray.init(address=address, log_to_driver=False, logging_level="WARNING")
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        data.DataContext.get_current().enable_progress_bars = False
        most = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        numbers = data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
        scored = numbers.map_batches(
            PartActor,
            fn_constructor_args=(make,),
            batch_size=1,
            num_cpus=1,
            compute=data.ActorPoolStrategy(min_size=1, max_size=min(most, len(parts))),
        )
        for row in scored.iter_rows():
            if row["error"]:
                raise getattr(errors, row["error"], RlhfLoopError)(row["message"])
            yield int(row["rows"])
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError) as error:
        raise RlhfLoopError(
            f"The cluster could not score: {clause(error)}. Look at its log; what is done is kept, and the same "
            "command goes on."
        ) from error
    finally:
        if own:
            ray.shutdown()
