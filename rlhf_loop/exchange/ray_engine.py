"""Bulk scoring on a cluster of Ray, whose library Ray Data hands the parts to a pool of actors."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rlhf_loop.errors import RlhfLoopError
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.text import clause

#: Scores a part and returns its rows.
ScorePart = Callable[[int], int]


class PartActor:
    """An actor with an encoder and a model of its own, which scores part after part."""

    def __init__(self, make: Callable[[], ScorePart]) -> None:
        self._score = make()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[int]]:
        """Score the parts of a batch; return the rows of each."""
        return {"rows": [self._score(int(part)) for part in batch["part"]]}


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
            yield int(row["rows"])
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError) as error:
        raise _told(error) from error
    finally:
        if own:
            ray.shutdown()


def _told(error: BaseException) -> RlhfLoopError:
    """Return the error of this package that was raised in an actor, or one that says what Ray says."""
    of: BaseException | None = error
    while of is not None:
        cause = getattr(of, "cause", None)
        for each in (of, cause):
            if isinstance(each, RlhfLoopError):
                return type(each)(*each.args)
        of = of.__cause__
    return RlhfLoopError(
        f"The cluster could not score: {clause(error)}. Look at its log; what is done is kept, and the same command "
        "goes on."
    )
