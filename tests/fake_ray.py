"""A stand-in for Ray in this process, for tests of what is done on a cluster: `test_ray_engine.py` has the real one."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """The base of Ray's errors."""


class FakeRay:
    """A cluster whose tasks end in no order; what goes there and comes back is pickled, as between processes.

    `most` is how many were out at a time. A task whose turn is in `lost` ends as on machines that are all gone.
    """

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, *, cpus: int = 3, lost: Sequence[int] = ()) -> None:
        self.most = 0
        self.addresses: list[str | None] = []
        self._cpus, self._lost = cpus, lost
        self._connected = False
        self._tasks = 0
        self._out = 0
        self._chance = random.Random(1)

    def is_initialized(self) -> bool:
        return self._connected

    def init(self, *, address: str | None, **_: Any) -> None:
        if address == "nowhere:1":
            raise ConnectionError("nobody answers")
        self.addresses.append(address)
        self._connected = True

    def shutdown(self) -> None:
        self._connected = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self._cpus)}

    def put(self, value: Any) -> bytes:
        return pickle.dumps(value)

    def remote(self, **_: Any) -> Callable[..., Any]:
        return lambda function: SimpleNamespace(remote=lambda *arguments: self._begin(function, arguments))

    def get(self, reference: Any) -> Any:
        if isinstance(reference, bytes):
            return pickle.loads(reference)
        if isinstance(reference.result, RayError):
            raise reference.result
        return pickle.loads(reference.result)

    def wait(self, references: list[Any], *, num_returns: int) -> tuple[list[Any], list[Any]]:
        done = self._chance.sample(references, self._chance.randint(num_returns, len(references)))
        for each in done:
            each.finish()
        self._out -= len(done)
        return done, [each for each in references if each not in done]

    def _begin(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        self._tasks += 1
        self._out += 1
        self.most = max(self.most, self._out)
        sent, turn = pickle.dumps(arguments), self._tasks
        task = SimpleNamespace(result=None)

        def finish() -> None:
            lost = turn in self._lost
            task.result = (
                RayError("The worker died.\nNobody knows why.") if lost else pickle.dumps(function(*pickle.loads(sent)))
            )

        task.finish = finish
        return task
