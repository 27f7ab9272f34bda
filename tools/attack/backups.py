"""Backups and restorations while clients write, and killed at any moment, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import math
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools.attack.kills import kill_after
from tools.attack.product import Finding, Product, Ran, Running
from tools.postgres import run_postgres

PART = "backups"
#: Ratings beside those that clients write, so that a backup takes longer than its start.
_ROWS = 20_000
_DOCUMENTS = 40
_WRITERS, _A_SECOND, _BACKUPS = 8, 60, 2
#: Seconds in which clients write and nothing is backed up.
_QUIET_S = 10
_KILLS = 10
_PATIENCE_S = 1800.0
_URL = "RLHF_DATABASE_URL"


def attack(trained: Product, *, seed: int = 0) -> Iterator[Finding]:
    """Back up under load, restore into the other kind, and kill both at moments that the seed draws."""
    dice = random.Random(seed)
    _fill(trained)
    with run_postgres() as server:
        other = trained.copy(trained.folder.with_name("backups-postgresql")).with_environ(**{_URL: server.new()})
        _done(trained, "backup", "first.zip")
        _done(other, "restore", str(trained.folder / "first.zip"))
        yield _under_load("SQLite, restored into PostgreSQL", trained, server.new())
        yield _under_load("PostgreSQL, restored into SQLite", other, "")
        yield _killed_backups(trained, dice)
        yield _killed_restorations("SQLite", trained, dice, lambda: "")
        yield _killed_restorations("PostgreSQL", trained, dice, server.new)


def _fill(product: Product) -> None:
    """Add rows, documents and a backup to begin with."""
    row = {"prompt": "Why?", "reviewer": "import", "rating": 4}
    lines = (json.dumps({**row, "response": f"Because of {number}. " * 5}) for number in range(_ROWS))
    (product.folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
    documents = ({"text": f"Document {number}. Rest helps. " * 5} for number in range(_DOCUMENTS))
    (product.folder / "documents.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in documents))
    _done(product, "ratings", "import", "rows.jsonl")
    _done(product, "index", "add", "documents.jsonl")


def _under_load(name: str, product: Product, url: str) -> Finding:
    """Back up while clients write; elsewhere there is what was acknowledged before, and the model ranks the same."""
    acknowledged: list[tuple[float, float, str]] = []
    stop = threading.Event()
    with product.served() as server:
        clients = [
            threading.Thread(target=_write, args=(product, server, number, acknowledged, stop))
            for number in range(_WRITERS)
        ]
        for client in clients:
            client.start()
        time.sleep(2)  # until all have begun
        quiet = len(acknowledged)
        time.sleep(_QUIET_S)
        quiet = len(acknowledged) - quiet
        took, began = 0.0, 0.0
        for _ in range(_BACKUPS):
            began = time.monotonic()
            ran = _run(product, "backup", "--index", "loaded.zip")
            took += time.monotonic() - began
        waits = sorted(waited for at, waited, _ in acknowledged if at >= time.monotonic() - took) or [math.inf]
        stop.set()
        for client in clients:
            client.join()
    there = _elsewhere(product, url)
    restored = _run(there, "restore", str(product.folder / "loaded.zip"))
    found, broken = _state(there)
    before = {who for at, _, who in acknowledged if at < began}
    lost = len(before - found)
    same = _scores(product) == _scores(there)
    said = (
        f"{len(waits) / took:.0f} acknowledged a second during {took:.0f} s of backups (p50 "
        f"{1e3 * waits[len(waits) // 2]:.0f} ms, p99 {1e3 * waits[len(waits) * 99 // 100]:.0f} ms), "
        f"{quiet / _QUIET_S:.0f} before; "
        f"{len(before):,} before the last began, "
        f"{lost} of them lost; {broken} broken references; the model ranks "
        f"{'the same' if same else 'otherwise'}; exit codes {ran.code} and {restored.code}"
    )
    said += f": {restored.error.strip()[-200:]}" if restored.code else ""
    holds = bool(before) and not lost and not broken and same and ran.code == restored.code == 0
    return Finding(PART, f"backup while clients write: {name}", said, holds)


def _write(
    product: Product, server: Running, number: int, done: list[tuple[float, float, str]], stop: threading.Event
) -> None:
    """Send one write after the other at its time; what was due while one was held up is sent as soon as that is done.

    `done` gets when each was acknowledged, and how long after it was due: also those wait that could not be sent yet.
    """
    headers = {"Authorization": f"Bearer {product.token}", "Content-Type": "application/json"}
    due, turn = time.monotonic() + number / _A_SECOND, 0
    while not stop.wait(max(0.0, due - time.monotonic())):
        turn += 1
        who = f"loaded-{number}-{turn}"
        body = json.dumps({"prompt": "Why?", "response": "Because.", "rating": 3, "reviewer": who}).encode()
        if server.request("POST", "/v1/feedback", body, headers=headers)[0] in (200, 201):
            done.append((time.monotonic(), time.monotonic() - due, who))
        due += _WRITERS / _A_SECOND


def _killed_backups(product: Product, dice: random.Random) -> Finding:
    """Kill backups: the file in their place is always whole, and says what it restores to."""
    usual = _run(product, "backup", "--index", "killed.zip").seconds
    broken, killed = [], 0
    for _ in range(_KILLS):
        process = product.start("backup", "--index", "killed.zip")
        kill_after(process, dice.uniform(0.2, 1.0) * usual)
        killed += process.returncode < 0
        looked = _run(product, "restore", "--check", "killed.zip")
        broken += [looked.error.strip()[-100:]] if looked.code else []
    said = _run(product, "restore", "--check", "killed.zip").out
    there = _elsewhere(product, "")
    restored = _run(there, "restore", str(product.folder / "killed.zip"))
    same = bool(restored.out) and _words(restored.out) == _words(said) and _state(there) == _state(product)
    done = _run(product, "backup", "--index", "killed.zip")
    figures = (
        f"{killed} in the middle; {len(broken)} times not whole; restored {'as it says' if same else 'otherwise'}; "
        f"then exit code {done.code}"
    )
    return Finding(PART, f"backup killed, {_KILLS} times", figures, not broken and same and done.code == 0)


def _killed_restorations(name: str, product: Product, dice: random.Random, new_url: Callable[[], str]) -> Finding:
    """Kill restorations: each leaves all of the database or nothing, and the next attempt brings the rest."""
    file, expected = str(product.folder / "killed.zip"), _state(product)
    usual = _run(_elsewhere(product, new_url()), "restore", file).seconds
    half, unfinished, killed = 0, [], 0
    for _ in range(_KILLS):
        there = _elsewhere(product, new_url())
        process = there.start("restore", file)
        kill_after(process, dice.uniform(0.2, 1.0) * usual)
        killed += process.returncode < 0
        found = _state(there)
        if found not in ((set(), 0), expected):
            half += 1
        if found != expected:
            done = _run(there, "restore", file)
            unfinished += [] if _state(there) == expected else [done.error.strip()[-100:] or "another state"]
    figures = f"{killed} in the middle; {half} times half of it; {len(unfinished)} times not whole after the next one"
    figures += f": {unfinished[0]}" if unfinished else ""
    return Finding(PART, f"restore into {name} killed, {_KILLS} times", figures, not half and not unfinished)


def _elsewhere(product: Product, url: str) -> Product:
    """Return a new folder on this machine, with a database of the URL or of its own."""
    folder = Path(tempfile.mkdtemp(prefix="elsewhere-", dir=product.folder.parent))
    there = product.moved(folder)
    return there.with_environ(**{_URL: url}) if url else there


def _settings(product: Product) -> Any:
    from rlhf_loop.config import Settings

    return Settings.from_env({name: value for name, value in product.environ.items() if name.startswith("RLHF_")})


def _state(product: Product) -> tuple[set[str], int]:
    """Return all reviewers, those in the outbox among them, and the number of references to what is not there."""
    from sqlalchemy import inspect, text

    from rlhf_loop.store.engine import make_engine
    from rlhf_loop.store.outbox import outboxes

    settings = _settings(product)
    engine = make_engine(settings.database_url)
    found, broken = set[str](), 0
    if engine.dialect.name == "postgresql" or Path(str(engine.url.database)).exists():
        with engine.connect() as connection:
            if inspect(connection).has_table("rlhf_reviews"):
                names = connection.execute(text("SELECT reviewer FROM rlhf_reviews")).scalars()
                # Before the colon stands the user whose token it was.
                found = {name.rpartition(":")[2] for name in names}
            if engine.dialect.name == "sqlite":
                # PostgreSQL itself has looked at each of them.
                broken = len(connection.exec_driver_sql("PRAGMA foreign_key_check").all())
    engine.dispose()
    for outbox in outboxes(settings):
        found |= {str(entry.body.get("reviewer")) for entry in outbox.all()}
        outbox.close()
    return found, broken


def _scores(product: Product) -> list[str]:
    """Rank by the live model; all digits of each score."""
    from rlhf_loop.ranking import Ranker, rerank_candidates

    texts = ["Because it helps.", "Nobody knows.", "Rest in a dark room."]
    ranked = rerank_candidates("Why rest?", [{"text": each} for each in texts], ranker=Ranker(_settings(product)))
    return [repr((each["text"], each["score"])) for each in ranked]


def _words(said: str) -> str:
    """Return the rows that a command speaks of."""
    return said.partition(" rows of ")[0].split()[-1]


def _run(product: Product, *words: str) -> Ran:
    return product.run(*words, limit_s=_PATIENCE_S)


def _done(product: Product, *words: str) -> None:
    ran = _run(product, *words)
    if ran.code:
        raise RuntimeError(f"{' '.join(words)}: {ran.error}")
