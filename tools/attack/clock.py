"""A clock that jumps back, by libfaketime (Debian's package libfaketime): a server, a worker and trainings go on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from tools.attack.product import Finding, Product, Running, until

PART = "clock"
_LIBRARY = "faketime/libfaketimeMT.so.1"
_PLACES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib")
_JUMPS = {"an hour": -3600, "40 days": -40 * 86400}


def library(given: Path | None) -> Path | None:
    """Return libfaketime, None where it is not installed."""
    return given or next((path for place in _PLACES if (path := Path(place, _LIBRARY)).exists()), None)


#: Read by Python as it starts: libfaketime 0.9.10 breaks the call that time.sleep makes if it leaves that clock alone.
_SLEEP = "import select, time\ntime.sleep = lambda seconds: (select.select([], [], [], seconds), None)[1]\n"


class Clock:
    """A clock that processes with its environment go by; it reads so many seconds more than the true one.

    Only the time of day is false: how long something takes is measured by another clock, which never jumps.
    """

    def __init__(self, product: Product, library: Path) -> None:
        self._file = product.folder / "clock"
        self.set(0)
        shim = product.folder / "shim"
        shim.mkdir()
        (shim / "sitecustomize.py").write_text(_SLEEP)
        self.environ: Mapping[str, str] = {
            "PYTHONPATH": f"{shim}{os.pathsep}{product.environ['PYTHONPATH']}",
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+d}\n")
        draft.replace(self._file)


def attack(bare: Product, trained: Product, *, given: Path | None) -> Iterator[Finding]:
    """Let the clock jump back beneath each of them."""
    found = library(given)
    if found is None:
        why = "libfaketime is not installed: apt-get install libfaketime, or --faketime FILE"
        yield Finding(PART, "a clock that jumps back", why, None)
        return
    folder = bare.folder.parent
    for name, seconds in _JUMPS.items():
        days = name.replace(" ", "-")
        yield _server(trained.copy(folder / f"clock-{days}"), found, name, seconds)
        yield _worker(trained.copy(folder / f"clock-worker-{days}"), found, name, seconds)
    yield _trainings(trained.copy(folder / "clock-trainings"), found)


def _server(product: Product, library: Path, name: str, seconds: int) -> Finding:
    clock = Clock(product, library)
    with product.served(environ={**clock.environ, "RLHF_RATE_LIMIT": "60 per minute"}) as server:
        before = _asked(product, server, 1)
        for number in range(70):  # to the limit and beyond
            server.get("/healthz" if number % 2 else "/data?query=Why")
        clock.set(seconds)
        time.sleep(3)
        statuses = _asked(product, server, 2)
        ready = server.get("/readyz")[0]
        time.sleep(1)
        clock.set(seconds + 61)
        after = _asked(product, server, 3)
    said = f"before {before}, then {statuses}, a minute later {after}, /readyz {ready}"
    holds = set(after) <= {200, 201} and ready == 200 and not {0, 500, 503} & {*statuses, *after}
    return Finding(PART, f"serve, back by {name}", said, holds)


def _asked(product: Product, server: Running, turn: int) -> list[int]:
    headers = {"Authorization": f"Bearer {product.token}", "Content-Type": "application/json"}
    body = json.dumps({"prompt": "Why?", "response": "Because.", "rating": 3, "reviewer": f"r{turn}"}).encode()
    return [
        server.get("/healthz")[0],
        server.get("/data?query=Why")[0],
        server.request("POST", "/v1/feedback", body, headers=headers)[0],
    ]


def _worker(product: Product, library: Path, name: str, seconds: int) -> Finding:
    """Let a worker look, the clock jump back, and five minutes pass: it has looked again."""
    clock = Clock(product, library)
    environ = {**clock.environ, "RLHF_WORKER_SCHEDULE": "* * * * *"}
    process = product.start("worker", environ=environ, name="worker")
    log = product.folder / "worker.err"

    def looks() -> int:
        return log.read_text().count("Retraining ended")

    try:
        until(lambda: "The worker begins" in log.read_text(), "The worker did not begin.")
        clock.set(61)
        until(lambda: looks() >= 1, f"{log}: the worker does not look at all.")
        clock.set(seconds)
        time.sleep(1)
        before = looks()
        clock.set(seconds + 61)
        with suppress(Exception):
            until(lambda: looks() > before, "", limit_s=60)
        again = looks() > before
    finally:
        process.terminate()
        ran = product.end(process, name="worker", limit_s=60)
    said = f"a minute later it {'looked again' if again else 'had not looked again'}; its end: exit code {ran.code}"
    return Finding(PART, f"worker, back by {name}", said, again and ran.code == 0)


def _trainings(product: Product, library: Path) -> Finding:
    """Promote three versions, the last one while the clock is a day behind; then go back by one, and train."""
    clock = Clock(product, library)
    for seed in ("1", "2"):
        product.run("train", "--seed", seed, environ=clock.environ)
    versions = [each["version"] for each in json.loads(product.run("models", "list", "--json").out)]
    words = []
    if len(set(versions)) < 3:
        words.append(f"only {len(versions)} versions")
    for name, seconds in zip(versions, (0, 0, -86400), strict=False):
        clock.set(seconds)
        product.run("models", "promote", name, "--force", "--reason", "attack", environ=clock.environ)
    back = product.run("models", "rollback", environ=clock.environ)
    expected = versions[1] if len(versions) > 1 else "none"
    if not back.out.startswith(expected):
        words.append(f"rollback: {back.out.strip() or back.error.strip()} (before it was {expected})")
    due = product.run("retrain", "--if-due", environ=clock.environ)
    if not due.clear:
        words.append(f"retrain: {due}")
    clock.set(-2 * 86400)
    trained = product.run("train", "--seed", "5", environ=clock.environ)
    newest = json.loads(product.run("models", "list", "--json").out)[0]["version"]
    if trained.code not in (0, 3) or newest in versions:
        words.append(f"train: {trained}; the newest is {newest}")
    return Finding(PART, "versions, back by a day", "; ".join(words) or "rollback and training as ever", not words)
