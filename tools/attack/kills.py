"""Processes that are killed in the middle of their work, and database files that go away beneath a server."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tools.attack.product import Finding, Product, Running, closing_connection, until

PART = "kills"
_DOCUMENTS = 400
_KILLS = 6
_PROMOTIONS = 10
_FORCED = ("--force", "--reason", "An attack.")
_BUSY = 6
_COPIES = 5


def attack(bare: Product, trained: Product, *, seed: int = 0) -> Iterator[Finding]:
    """Kill each at moments that the seed draws."""
    dice, folder = random.Random(seed), bare.folder.parent
    yield from _index(bare.copy(folder / "killed-index"), bare.copy(folder / "whole-index"), dice)
    yield from _worker(bare.copy(folder / "killed-worker"), dice)
    yield from _trainings(bare.copy(folder / "four-trainings"), dice)
    yield _promotions(trained.copy(folder / "killed-promotions"), dice)
    yield _server(trained.copy(folder / "killed-server"), dice)
    yield from _files([trained.copy(folder / f"files-{number}") for number in range(_COPIES)])


def _index(product: Product, whole: Product, dice: random.Random) -> Iterator[Finding]:
    """Kill `index add` again and again, then let it end: it holds what an undisturbed one holds."""
    file = product.folder / "documents.jsonl"
    rows = [
        {"text": f"Document {number}. Rest helps. " * 12, "title": f"Title {number}"} for number in range(_DOCUMENTS)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(file, whole.folder)
    undisturbed = whole.run("index", "add", "documents.jsonl")
    expected = whole.run("index", "list").out
    broken = []
    for _ in range(_KILLS):
        process = product.start("index", "add", "documents.jsonl")
        kill_after(process, dice.uniform(0.2, 1.0) * undisturbed.seconds)
        looked = product.run("index", "list")
        if looked.code:
            broken.append(looked.error.strip()[-100:])
    done = product.run("index", "add", "documents.jsonl")
    found = product.run("index", "list").out
    said = f"{len(broken)} times unreadable afterwards; then {done.out.strip()[:60] or done.error.strip()[-100:]}"
    said += "" if found == expected else f"; {found.splitlines()[0]!r} instead of {expected.splitlines()[0]!r}"
    yield Finding(PART, f"index add, {_KILLS} times", said, not broken and done.code == 0 and found == expected)


def _worker(product: Product, dice: random.Random) -> Iterator[Finding]:
    """Kill a worker while it trains; what it started ends or goes on, and the next one does what is due."""
    usual = product.copy(product.folder.with_name("whole-worker")).run("worker", "--once")
    left = 0
    for _ in range(_KILLS):
        process = product.start("worker", "--once", name="worker")
        kill_after(process, dice.uniform(0.2, 1.0) * usual.seconds, alone=True)
        left += len(_processes(product.folder))
    with suppress(Exception):
        until(lambda: not _processes(product.folder), "", limit_s=120)
    still = len(_processes(product.folder))
    done = product.run("worker", "--once")
    troubles = _troubles(product)
    said = (
        f"{left} trainings went on alone, {still} never ended; then exit code {done.code}; {troubles or 'all in order'}"
    )
    yield Finding(PART, f"worker --once, {_KILLS} times", said, not still and done.code == 0 and not troubles)


def _trainings(product: Product, dice: random.Random) -> Iterator[Finding]:
    """Start four at once, let them end; then start four and kill them all."""
    names = [f"train-{number}" for number in range(4)]
    started = [product.start("train", "--seed", str(number), name=name) for number, name in enumerate(names)]
    ended = [product.end(process, name=name) for process, name in zip(started, names, strict=True)]
    codes = sorted(ran.code for ran in ended)
    trained, troubles = sum(ran.code in (0, 3) for ran in ended), _troubles(product)
    refused = sum("Another training is running" in ran.error for ran in ended)
    said = f"exit codes {codes}; {troubles or 'all in order'}"
    yield Finding(PART, "four trainings at once", said, trained >= 1 and trained + refused == 4 and not troubles)
    usual = max(ran.seconds for ran in ended)
    for _ in range(_KILLS):
        started = [product.start("train", "--seed", str(number), name=name) for number, name in enumerate(names)]
        time.sleep(dice.uniform(0.2, 1.0) * usual)
        for process in started:
            kill_after(process, 0.0)
    done = product.run("train", "--seed", "7")
    product.run("worker", "--once")
    troubles = _troubles(product)
    said = f"then exit code {done.code}; {troubles or 'all in order'}"
    yield Finding(PART, f"four trainings at once, killed {_KILLS} times", said, done.code in (0, 3) and not troubles)


def _promotions(product: Product, dice: random.Random) -> Finding:
    """Kill promotions to and from a model with tuned layers; what serves is whole each time, and the next one works."""
    names = _tuned_versions(product)
    usual = max(product.run("models", "promote", name, *_FORCED).seconds for name in names * 2)
    torn: list[str] = []
    for number in range(_PROMOTIONS):
        process = product.start("models", "promote", names[number % len(names)], *_FORCED)
        kill_after(process, dice.uniform(0.2, 1.0) * usual)
        ranked = product.run("rerank", "Why?", "Because.", "Nobody knows.")
        torn += [ranked.error.strip()[-100:]] if ranked.code or "Traceback" in ranked.error else []
    done = product.run("models", "promote", names[0], *_FORCED)
    product.run("models", "list")
    troubles = _troubles(product)
    said = f"{len(torn)} times nothing to rank by; then exit code {done.code}; {troubles or 'all in order'}"
    said += f"; {torn[0]}" if torn else ""
    return Finding(PART, f"models promote, {_PROMOTIONS} times", said, not torn and done.code == 0 and not troubles)


def _tuned_versions(product: Product) -> list[str]:
    """Add two versions with tuned layers to the registry, and return their names and that of the live one."""
    import numpy as np

    from rlhf_loop import registry
    from rlhf_loop.config import Settings
    from rlhf_loop.domain import ModelState
    from rlhf_loop.encoders import load_encoder
    from rlhf_loop.reward.model_file import load
    from rlhf_loop.store.engine import open_database
    from tools.noisy_layers import noisy, with_layers

    settings = Settings.from_env({name: value for name, value in product.environ.items() if name.startswith("RLHF_")})
    encoder, engine = load_encoder(settings), open_database(settings.database_url)
    base, live = encoder.checkpoint(), load(product.model, encoder=encoder.id)
    names = [live.version]
    for seed in range(2):
        layers = noisy(base.weights, encoder.id, first=base.layers // 2, width=base.width, seed=seed)
        version = registry.add(
            engine,
            settings,
            with_layers(live.model, layers),
            state=ModelState.CANDIDATE,
            reason="It waits.",
            judgement={},
            metrics={},
            fitted=np.array([], dtype=np.int64),
        )
        names.append(version.version)
    engine.dispose()
    return names


def _server(product: Product, dice: random.Random) -> Finding:
    """Kill worker processes while clients write; what was acknowledged is there."""
    acknowledged: list[str] = []
    stop, before = threading.Event(), product.count("rlhf_reviews")

    def write(server: Running, number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            reviewer = f"killed-{number}-{turn}"
            body = json.dumps({"prompt": "Why?", "response": "Because.", "rating": 3, "reviewer": reviewer}).encode()
            headers = {"Authorization": f"Bearer {product.token}", "Content-Type": "application/json"}
            if server.request("POST", "/v1/feedback", body, headers=headers, timeout=20)[0] in (200, 201):
                acknowledged.append(reviewer)

    with product.served() as server:
        clients = [threading.Thread(target=write, args=(server, number)) for number in range(8)]
        for client in clients:
            client.start()
        for _ in range(_KILLS):
            time.sleep(dice.uniform(0.5, 1.5))
            with suppress(IndexError, ProcessLookupError):
                os.kill(dice.choice(server.workers()), signal.SIGKILL)
        time.sleep(3)
        stop.set()
        for client in clients:
            client.join()
    stored = product.count("rlhf_reviews") - before
    lost = len(acknowledged) - stored if stored < len(acknowledged) else 0
    said = f"{len(acknowledged)} acknowledged, {stored} stored, {lost} lost"
    return Finding(PART, f"processes of the server, {_KILLS} times, 8 writers", said, bool(acknowledged) and not lost)


def _files(products: list[Product]) -> Iterator[Finding]:
    """Copy each database's one file after an orderly stop; take the file away from a running server."""
    counts = []
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(_BUSY)]
    try:
        for product in products:
            with product.served() as server:
                _written(product, server, 200)
                everything = product.count("rlhf_reviews")
                server.process.terminate()
                server.process.wait(60)
            counts.append((_copied(product), everything))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    name = f"cp of the SQLite file after an orderly stop, {_BUSY} busy processes beside it, {len(products)} times"
    said = ", ".join(f"{copied} of {everything} reviews" for copied, everything in counts)
    yield Finding(PART, name, said, all(copied == everything for copied, everything in counts))
    product = products[0]
    alone = product.folder / "copy" / "rlhf.db"
    for name, replaced in (("deleted", False), ("replaced by an older one", True)):
        yield _taken_away(
            product.copy(product.folder.with_name(f"{name.split()[0]}-file")), name, alone if replaced else None
        )


def _copied(product: Product) -> object:
    """Copy the one file, and count the reviews in the copy."""
    alone = product.folder / "copy" / "rlhf.db"
    alone.parent.mkdir()
    shutil.copy(product.database, alone)
    try:
        with closing_connection(alone) as connection:
            return connection.execute("SELECT count(*) FROM rlhf_reviews").fetchone()[0]
    except Exception as error:
        return repr(error)


def _taken_away(product: Product, name: str, other: Path | None) -> Finding:
    with product.served() as server:
        _written(product, server, 5)
        if other:
            draft = product.folder / "other.db"
            shutil.copy(other, draft)
            draft.replace(product.database)
        else:
            product.database.unlink()
        for ending in ("-wal", "-shm"):
            product.database.with_name(product.database.name + ending).unlink(missing_ok=True)
        noticed = False
        with suppress(Exception):
            # Another file is told and served; one that is gone is a reason to be sent no more requests.
            until(lambda: b"its file is" in server.get("/readyz")[1], "", limit_s=10)
            noticed = True
        written = _written(product, server, 3)
        statuses = {server.get("/data?query=Why")[0] for _ in range(4)}
        there = product.database.exists()
    said = f"/readyz {'says so' if noticed else 'says nothing'}; writing {written}; questions {statuses}"
    said += "" if other else f"; {'a new empty file' if there else 'no new file'}"
    holds = statuses == {200} and noticed and (bool(other) or not there)
    return Finding(PART, f"the SQLite file {name} under a running server", said, holds)


def _written(product: Product, server: Running, count: int) -> set[int]:
    found = set()
    for number in range(count):
        body = json.dumps({"prompt": "Why?", "response": "Because.", "rating": 3, "reviewer": f"r{number}"}).encode()
        headers = {"Authorization": f"Bearer {product.token}", "Content-Type": "application/json"}
        found.add(server.request("POST", "/v1/feedback", body, headers=headers)[0])
    return found


def kill_after(process: subprocess.Popen[str], seconds: float, *, alone: bool = False) -> None:
    """Kill a process and what it has started, or it `alone`, unless it has ended by then."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    with suppress(ProcessLookupError):
        (process.kill if alone else lambda: os.killpg(process.pid, signal.SIGKILL))()
    process.wait()


def _processes(folder: Path) -> list[int]:
    """Return the processes that work in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and int(entry.name) != os.getpid() and (entry / "cwd").resolve() == folder:
                found.append(int(entry.name))
    return found


def _troubles(product: Product) -> str:
    """Say what is not as it should be: runs without an end, live versions, the live file."""
    import hashlib

    running = product.count("rlhf_reward_model_training", "status = 'running'")
    with closing_connection(product.database) as connection:
        live = [row[0] for row in connection.execute("SELECT sha256 FROM rlhf_models WHERE state = 'live'")]
        whole = connection.execute("PRAGMA integrity_check").fetchone()[0]
    sum = hashlib.sha256(product.model.read_bytes()).hexdigest() if product.model.exists() else None
    drafts = [path.name for path in product.folder.rglob("*.tmp")]
    words = [
        f"{running} runs without an end" if running else "",
        f"{len(live)} live versions" if len(live) > 1 else "",
        "the live file is another one" if live and live != [sum] else "",
        "a file without a row" if sum and not live else "",
        f"{len(drafts)} drafts left" if drafts else "",
        "" if whole == "ok" else f"the database: {whole}",
    ]
    return ", ".join(filter(None, words))
