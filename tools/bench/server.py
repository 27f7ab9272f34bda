"""`rlhf-loop serve` as the measurements need it: with a model of the sample, in a folder of its own; and its memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic, sleep
from urllib.request import urlopen

#: Of a made-up document: from, to.
SENTENCES = (3, 10)
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that is ready; `workers` are its own words for its size."""

    process: subprocess.Popen[str]
    port: int
    workers: str

    def megabytes(self) -> float:
        """Return the memory of all its processes."""
        return megabytes(self.process.pid)

    def processor_s(self) -> float:
        """Return the seconds of the processor that all its processes have taken so far."""
        stats = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in family(self.process.pid))
        return sum(int(each[11]) + int(each[12]) for each in stats) / os.sysconf("SC_CLK_TCK")


def environ(folder: Path) -> dict[str, str]:
    """Return variables that keep everything in the folder, and ask nobody else."""
    # The runtime and the weights stay those that the caller chose.
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RLHF_") or "_ENCODER_" in name}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "RLHF_SOURCES": "index",
        "RLHF_RATE_LIMIT": "0",
        "RLHF_DATABASE_URL": f"sqlite:///{folder / 'rlhf.db'}",
        "RLHF_MODEL_PATH": str(folder / "reward_model.joblib"),
        "RLHF_INDEX_PATH": str(folder / "index"),
        "RLHF_OUTBOX_PATH": str(folder / "outbox.db"),
        "RLHF_CACHE_DIR": str(folder / "cache"),
    }


def prepare(folder: Path, *, documents: int = 0) -> None:
    """Train a model on the sample and index made-up documents, in a process of its own."""
    command = [sys.executable, "-m", "tools.bench.server", str(folder), str(documents)]
    subprocess.run(command, cwd=ROOT, env=environ(folder), check=True)


@contextmanager
def serving(folder: Path, *options: str, **variables: str) -> Iterator[Server]:
    """Serve what the folder holds, on a port that is free, and yield when it is ready."""
    with (folder / "server.log").open("w") as log:
        command = [sys.executable, "-c", "from rlhf_loop.cli import main; main()", "serve", "--port", "0", *options]
        process = subprocess.Popen(
            command, cwd=folder, env={**environ(folder), **variables}, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout is not None
    try:
        said = ""
        while "Workers" not in said and (line := process.stdout.readline()):
            said += line
        port, workers = re.search(r":(\d+)/data-html", said), re.search(r"Workers +(.*?);", said)
        if port is None or workers is None:
            sys.exit(f"The server did not start:\n{log_of(folder)}")
        _wait_until_ready(int(port[1]))
        yield Server(process=process, port=int(port[1]), workers=workers[1])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def log_of(folder: Path) -> str:
    """Return the end of what the server logged."""
    return (folder / "server.log").read_text()[-3000:]


def megabytes(parent: int) -> float:
    """Return the memory of a process and its children; a page that several share counts once."""
    found = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in family(parent))
    return sum(int(each[1]) * 1024 / 1e6 for text in found if (each := re.search(r"^Pss:\s*(\d+)", text, re.MULTILINE)))


def family(parent: int) -> list[int]:
    """Return a process and its children."""
    return [parent, *map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())]


def sample() -> tuple[list[str], list[str]]:
    """Return the sample's questions, and the sentences of its answers."""
    from rlhf_loop.sample import RATINGS_FILE

    rows = [json.loads(line) for line in RATINGS_FILE.read_text(encoding="utf-8").splitlines()]
    sentences = [part for row in rows for part in re.split(r"(?<=[.?!])\s+", row["ai_response"])]
    return sorted({row["user_prompt"] for row in rows}), sentences


def _wait_until_ready(port: int) -> None:
    end = monotonic() + 60
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as response:
                response.read()
                return
        except OSError:
            if monotonic() > end:
                raise
            sleep(0.1)


def _prepare(folder: Path, documents: int) -> None:
    from rlhf_loop.config import Settings
    from rlhf_loop.encoders import load_encoder
    from rlhf_loop.exchange.transfer import import_ratings
    from rlhf_loop.registry.training_run import run_training
    from rlhf_loop.sample import RATINGS_FILE
    from rlhf_loop.sources.index import open_store
    from rlhf_loop.sources.index.indexing import index_files
    from rlhf_loop.store.engine import open_database

    settings = Settings.from_env()
    engine = open_database(settings.database_url)
    import_ratings(engine, RATINGS_FILE)
    run_training(engine, settings, recipe="passages")
    if documents:
        random, (_, sentences) = Random(0), sample()
        texts = (" ".join(random.choices(sentences, k=random.randint(*SENTENCES))) for _ in range(documents))
        file = folder / "documents.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        index_files([file], store=open_store(settings), encoder=load_encoder(settings))


if __name__ == "__main__":
    _prepare(Path(sys.argv[1]), int(sys.argv[2]))
