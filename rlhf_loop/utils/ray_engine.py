"""Work on a cluster of Ray: one function for many items, on whichever machines are free, through the loss of some."""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any, Generic, TypeVar

from rlhf_loop import errors
from rlhf_loop.config import Settings
from rlhf_loop.errors import RlhfLoopError
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.text import clause

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
#: Items for each core that are out at a time, so that none waits for the next one; and how many may be out or done and
#: not taken yet, as results come in order.
_OUT, _KEPT = 2, 2
#: Milliseconds for a lookup in the shared cache, where nobody waits for a ranking.
_PATIENCE_MS = 5_000.0


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[_Result]):
    """The result for an item, or the name of the error that it met and what that says.

    Of an error that is raised by a worker, Ray hands on a long text alone.
    """

    result: _Result | None = None
    error: str = ""
    message: str = ""


#: What works in this process, with the name of the call that it belongs to: an encoder takes seconds to load.
_at_work: tuple[str, Callable[[Any], Any]] | None = None


def _do(call: str, made: list[Any], item: Any) -> _Outcome[Any]:
    """Do an item in a worker of Ray, which does many one after the other."""
    global _at_work
    try:
        if _at_work is None or _at_work[0] != call:
            # In a list it comes as a name alone: whoever has it already need not fetch it.
            _at_work = call, require("ray", "ray").get(made[0])()
        return _Outcome(_at_work[1](item))
    except RlhfLoopError as error:
        return _Outcome(error=type(error).__name__, message=str(error))


@contextmanager
def connected(address: str | None = None) -> Iterator[Any]:
    """Give Ray, connected to the cluster at that address, to the one that it finds, or to one of its own here.

    What is connected already stays so.

    Raises:
        MissingExtraError: Ray is not installed.
        RlhfLoopError: the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told what runs here
    ray = require("ray", "ray")
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level="WARNING")
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError) as error:
        raise RlhfLoopError(
            f"The cluster at {address or 'the address that Ray finds'} cannot be reached: {clause(error)}. Look "
            "whether it runs (ray status), and name its head by --address HOST:6379."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def on_cluster(
    make: Callable[[], Callable[[_Item], _Result]],
    items: Iterable[_Item],
    *,
    workers: int = 0,
    address: str | None = None,
) -> Generator[_Result, None, None]:
    """Do items on a cluster, at most `workers` at a time (0: as many as it has cores); yield the results in order.

    `make` makes what does an item, once in each process of a worker. Items are taken as there is room for them, so
    there may be any number. One that was under way on a machine that is lost is done by another one.

    Raises:
        MissingExtraError: Ray is not installed.
        RlhfLoopError: the cluster cannot be reached, or what a worker met.
    """
    with connected(address) as ray:
        try:
            task = ray.remote(num_cpus=1)(_do)
            call, made = secrets.token_hex(8), [ray.put(make)]
            rest, kept, out = iter(items), deque[Any](), list[Any]()
            while True:
                most = workers or _OUT * max(1, int(ray.cluster_resources().get("CPU", 1)))
                room = min(most - len(out), _KEPT * most - len(kept))
                for item in islice(rest, max(0, room)):
                    out.append(task.remote(call, made, item))
                    kept.append(out[-1])
                if not kept:
                    return
                _, out = ray.wait(out, num_returns=1)
                while kept and kept[0] not in out:
                    outcome: _Outcome[_Result] = ray.get(kept.popleft())
                    if outcome.error:
                        raise getattr(errors, outcome.error, RlhfLoopError)(outcome.message)
                    yield outcome.result  # type: ignore[misc]
        except ray.exceptions.RayError as error:
            raise RlhfLoopError(
                f"The cluster could not do its work: {_reason(error)}. Look at its log; what is done is kept, and the "
                "same command goes on."
            ) from error


def for_workers(settings: Settings) -> Settings:
    """Return settings without passwords and keys, which are not to lie about on a cluster."""
    # An address of an object store may have its key.
    addresses = [name for name in ("backup_path", "models_path") if isinstance(getattr(settings, name), str)]
    names = ("database_url", "llm_url", *addresses)
    secret = [each for each in fields(Settings) if not each.repr or each.name in names]
    defaults: dict[str, Any] = {each.name: each.default for each in secret}
    return replace(settings, **defaults)


def with_shared_cache(settings: Settings) -> Settings:
    """Return settings of `for_workers` with what reaches the shared cache, as this machine's own environment says.

    Nobody waits for a worker's lookups: they may take as long as any.
    """
    names = [f"RLHF_{name}{end}" for name in ("CACHE_URL", "SECRET_KEY") for end in ("", "_FILE")]
    own = Settings.from_env({name: os.environ[name] for name in names if name in os.environ})
    return patient(replace(settings, cache_url=own.cache_url, secret_key=own.secret_key))


def patient(settings: Settings) -> Settings:
    """Return settings with a shared cache that may take its time."""
    return replace(settings, cache_timeout_ms=_PATIENCE_MS)


def _reason(error: Exception) -> str:
    """Return what Ray says in one line: of an error of a worker the last one, behind where it was raised."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return clause(lines[-1 if type(error).__name__.startswith("RayTaskError") else 0])
