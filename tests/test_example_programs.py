"""The files in examples/, each run as its reader would: in a process of its own, in the folder of a demo."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from adapter_models import needs
from patience import PATIENCE_S

from rlhf_loop import sample
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save
from rlhf_loop.training.train import TrainingReport
from tools.exchange.__main__ import TRIALS

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[1] / "examples"
BEST = "Dizziness after a blow to the head is a sign of concussion"
#: Of Open WebUI, which is not installed here; they have a test of their own.
ELSEWHERE = {"openwebui_ratings.py", "openwebui_rankings.py"}
#: Ends the process at once if it looks for a machine or speaks to another one: no library may do so behind our backs.
NO_NETWORK = """
import os, sys

HOST = {"socket.getaddrinfo": 0, "socket.connect": 1}

def watch(event, arguments):
    if event in HOST and not any(here in str(arguments[HOST[event]]) for here in ("127.0.0.1", "localhost")):
        os.write(2, f"The network was asked for {arguments[HOST[event]]}.".encode())
        os._exit(70)

sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, trained: tuple[RewardModel, TrainingReport]) -> Path:
    """A folder with a live model, as `make demo` leaves it."""
    folder = tmp_path_factory.mktemp("demo")
    save(trained[0], folder / "reward_model.joblib")
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    return folder


@pytest.fixture
def environment(folder: Path, encoder_cache: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RLHF_", "HAYSTACK_"))}
    ours = {"RLHF_CACHE_DIR": str(encoder_cache), "RLHF_ENCODER_THREADS": "1"}
    return {**kept, **ours, "PYTHONPATH": str(folder), "HOME": str(folder)}


def run(name: str, *arguments: str, folder: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("langchain_chain.py", "langchain_core", "langchain"),
        ("llama_index_engine.py", "llama_index.core", "llama-index"),
        ("haystack_pipeline.py", "haystack", "haystack"),
        ("rerankers_swap.py", "rerankers", "rerankers"),
    ],
)
def test_of_a_framework(name: str, module: str, extra: str, folder: Path, environment: dict[str, str]) -> None:
    """Each runs without a network and without a warning, and shows the best answer before a worse one."""
    os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # `needs` imports it
    needs(module, extra)
    shown = run(name, folder=folder, environment=environment)
    worse = shown.find("She can play again the next day")
    assert 0 <= shown.find(BEST) < (worse if worse >= 0 else len(shown))


def test_the_network_is_watched(environment: dict[str, str]) -> None:
    """These tests would notice an example that asks another machine."""
    code = "import socket; socket.create_connection(('elsewhere.example', 80))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (70, "The network was asked for elsewhere.example.")


def test_the_batch_job_with_jsonl(folder: Path, environment: dict[str, str]) -> None:
    """A line for each question, texts or objects; all come back best first, with what else they had."""
    candidates = [{**candidate, "id": place} for place, candidate in enumerate(sample.CANDIDATES)]
    asked = [{"question": sample.QUESTION, "candidates": candidates}, {"question": "Café?", "candidates": ["Oui."]}]
    lines = "\n\n".join(json.dumps(each) for each in asked)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")
    said = run("batch_job.py", "questions.jsonl", "ranked.jsonl", folder=folder, environment=environment)
    assert re.match(r"2 questions ranked by quality-\w+ into ranked\.jsonl\.", said)
    first, second = map(json.loads, (folder / "ranked.jsonl").read_text("utf-8").splitlines())
    assert (first["candidates"][0]["id"], first["candidates"][0]["rank"]) == (3, 1)
    assert len(first["candidates"]) == 4
    assert (second["question"], second["candidates"][0]["text"]) == ("Café?", "Oui.")
    assert not (folder / "ranked.jsonl.part").exists()


def test_the_batch_job_with_csv(folder: Path, environment: dict[str, str]) -> None:
    """A row for each candidate comes back with score and rank, the best of each question first."""
    with (folder / "questions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["question", "text", "page"])
        table.writerows([sample.QUESTION, of["text"], place] for place, of in enumerate(sample.CANDIDATES))
        table.writerow(["What, then?", "Two\nlines.", 9])
    run("batch_job.py", "questions.csv", "ranked.csv", folder=folder, environment=environment)
    with (folder / "ranked.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["page"], row["rank"]) for row in (rows[0], rows[-1])] == [("3", "1"), ("9", "1")]
    assert list(rows[0]) == ["question", "text", "page", "score", "rank"]
    assert len(rows) == 5


@contextmanager
def serving(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    command = [sys.executable, "-u", str(EXAMPLES / "flask_app.py")]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, "PORT": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        found = (re.search(r"Running on (http://127\.0\.0\.1:\d+)", line) for line in process.stderr)
        address = next((each for each in found if each), None)
        assert address, f"It ended with {process.wait()}."
        yield address[1]
    finally:
        process.kill()
        process.communicate()


def test_the_flask_application(folder: Path, environment: dict[str, str]) -> None:
    """It has a page of its own, a route that ranks by the model, and the blueprint's under a prefix."""
    with serving(folder, environment) as address:
        assert b"Ask our shelf" in urlopen(f"{address}/").read()
        question = urlencode({"topic": "burn", "question": "My hand is burnt. What now?"})
        ranked = json.load(urlopen(f"{address}/best?{question}"))
        assert [each["rank"] for each in ranked] == [1, 2, 3]
        assert ranked[0]["text"].startswith("Cool a small burn")
        with pytest.raises(HTTPError, match="400") as refused:
            urlopen(f"{address}/best?topic=none&question=x")
        refused.value.close()
        found = json.load(urlopen(f"{address}/loop/data?{urlencode({'query': sample.QUESTION})}"))
        assert found["query"] == sample.QUESTION


def test_all_are_listed() -> None:
    """Each file is in examples/README.md, has fewer than 120 lines, and is run by a test or by `make exchange`."""
    names = {file.name for file in EXAMPLES.glob("*.*") if file.suffix in (".py", ".mjs")}
    assert set(re.findall(r"\]\((\w+\.(?:py|mjs))\)", (EXAMPLES / "README.md").read_text("utf-8"))) == names
    here = Path(__file__).read_text("utf-8")
    trials = {trial.example for trial in TRIALS} | {"vercel_ai.mjs", "litellm_proxy.py"}
    assert {name for name in names if name in trials} == trials - {""}
    for name in names - trials:
        assert len((EXAMPLES / name).read_text("utf-8").splitlines()) < 120, name
        assert f'"{name}"' in here
