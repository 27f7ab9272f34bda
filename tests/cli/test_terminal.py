"""Commands at a terminal: progress to 100 %, and Ctrl-C in the middle of each."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from databases import sqlite_database
from forked_process import program, start
from patience import PATIENCE_S, until
from sqlalchemy import Engine, func, insert, select, text

from rlhf_loop import registry, sample
from rlhf_loop.config import Settings
from rlhf_loop.domain import RANKED
from rlhf_loop.encoders.weights import MODEL_NAME
from rlhf_loop.store.engine import make_engine, reading, transaction
from rlhf_loop.store.tables import Interaction, ServedQuestion

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals", allow_module_level=True)

from terminal import Terminal

pytestmark = pytest.mark.kill

_ANEW, _GOES_ON = "the same command begins anew", "the same command goes on from there"
_TRAINING = "rlhf_loop.registry.training_run:train:1"
_SCORE = ("score", str(sample.RATINGS_FILE), "scored", "--column", "question=user_prompt", "--column")
_SCORE += ("text=ai_response", "--part-rows", "50", "--workers", "1")
_RANKED, _DELETED = "What was ranked?", "the same command deletes the rest"
_MODEL, _ANSWERS = frozenset({"live", "sha256"}), frozenset({"answers"})
_GAMING = ("models", "gaming", "--questions", "5")


@dataclass(frozen=True, slots=True)
class Stop:
    """A command, the call before which Ctrl-C comes, and what is said then; `bar` where progress has an end, `changes`
    what is another one by then, and the exit code with which it `ends` where it is not stopped."""

    words: tuple[str, ...]
    step: str
    said: str
    bar: bool = True
    changes: frozenset[str] = frozenset()
    ends: int = 0


STOPS = {
    "demo": Stop(
        ("demo",),
        "rlhf_loop.sources.index.indexing:_embed:1",
        f"The sample's ratings and the model are stored; {_ANEW}.",
        changes=_MODEL,
    ),
    "train": Stop(("train",), _TRAINING, "What was live stays live"),
    "train, curve": Stop(
        ("train", "--learning-curve", "curve.png"),
        "rlhf_loop.training.learning_curve:_judge:3",
        "The model that was trained is kept; there is no picture.",
        changes=_MODEL,
    ),
    "compare": Stop(("models", "compare", "1", "1"), "rlhf_loop.registry.contest:predict:2", "Nothing was changed."),
    "gaming, policy": Stop(
        (*_GAMING, "--policy", "policy.jsonl"), "rlhf_loop.monitoring.gaming:_measured:1", "Nothing was changed."
    ),
    "encoders": Stop(
        ("encoder", "compare", "all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        "rlhf_loop.registry.contest:_measured:1",
        "Vectors that were made are in the cache.",
    ),
    "score": Stop(_SCORE, "rlhf_loop.exchange.bulk_scoring:_refuse_other:2", _GOES_ON),
    "warm": Stop(("warm", str(sample.RATINGS_FILE)), "rlhf_loop.cli.warming:_warm:2", _GOES_ON),
    "index, reading": Stop(
        ("index", "add", "more"), "rlhf_loop.sources.index.indexing:_size:4", "Nothing was changed."
    ),
    "index": Stop(("index", "add", "more"), "rlhf_loop.sources.index.indexing:_embed:1", _GOES_ON),
    "index delete": Stop(("index", "delete", "sample"), "lancedb.expr:lit:1", _DELETED, bar=False),
    "import, reading": Stop(
        ("ratings", "import", "ratings.jsonl"), "rlhf_loop.exchange.staging:add:1", "as a whole or not at all"
    ),
    "import, storing": Stop(
        ("ratings", "import", "ratings.jsonl"), "rlhf_loop.exchange.imports:finish:1", "as a whole or not at all"
    ),
    "dry run": Stop(
        ("ratings", "import", "--dry-run", "ratings.jsonl"), "rlhf_loop.exchange.transfer:_unrated:1", "Nothing was"
    ),
    "undo": Stop(("ratings", "undo", "1"), "rlhf_loop.store.audit:note:1", "as a whole or not at all", bar=False),
    "export": Stop(("ratings", "export", "there.csv"), "rlhf_loop.exchange.transfer:_rows:1", "as it was before"),
    "data set": Stop(
        ("ratings", "export", "--format", "hf-dataset", "set"),
        "rlhf_loop.exchange.dataset:_write:2",
        "as it was before",
    ),
    "backup": Stop(("backup", "there.zip"), "rlhf_loop.store.backup.writer:look:1", "there.zip is as it was before."),
    "restore": Stop(
        ("restore", "--replace", "backup.zip"),
        "rlhf_loop.store.backup.restoration:_give_next_ids:5",
        "All of it is restored, or nothing was changed.",
    ),
    "restore, checked": Stop(
        ("restore", "--check", "backup.zip"), "rlhf_loop.store.backup.archive:_verify:1", "It was only read."
    ),
    "alarms": Stop(("alarms", "--check"), "rlhf_loop.monitoring.checks:drift:1", f"are kept; {_ANEW}"),
    "report": Stop(("report", "there.html"), "rlhf_loop.monitoring.report:panel:3", "No report was written."),
    "purge": Stop(
        ("purge", "--record-days", "1", "--yes"), "rlhf_loop.store.rankings:_delete:2", _DELETED, changes=_ANSWERS
    ),
    "rankings purge": Stop(
        ("rankings", "purge", "--days", "1", "--yes"), "rlhf_loop.store.rankings:_delete:2", _DELETED, changes=_ANSWERS
    ),
    "forget": Stop(("forget", "--query", _RANKED, "--yes"), "rlhf_loop.store.rankings:_delete:1", _DELETED),
    "init": Stop(("init",), "rlhf_loop.store.engine:revision:1", f"The database is as it was; {_ANEW}.", bar=False),
    "a short one": Stop(
        ("ratings", "stats"), "rlhf_loop.store.interactions:stats:1", "Nothing more was done.", bar=False
    ),
}

_PERCENT = re.compile(r"(\d+)% +(\d+:\d\d:\d\d|-:--:--|\d+ of)")
#: Without a learning curve beside each training, which takes longer than the training.
_QUICK = {"rlhf_loop.training.learning_curve:MOST": 0}


@pytest.fixture(scope="module")
def environ(encoder_cache: Path, model_folder: Path) -> dict[str, str]:
    """Settings of commands, all other ones relative to the folder in which they run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RLHF_CACHE_DIR": str(encoder_cache),
        "RLHF_ENCODER_PATH": str(model_folder),
        "RLHF_ENCODER_THREADS": "1",
        "TERM": "xterm",
        "COLUMNS": "120",
    }


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Path:
    """A folder with ratings, a live model, an index, recorded rankings, a backup, and files to take in."""
    folder = tmp_path_factory.mktemp("furnished")
    url = sqlite_database(folder / "rlhf.db")
    for name in ("documents", "more"):
        (folder / name).mkdir()
        for number in range(3):
            (folder / name / f"{number}.md").write_text(f"# About {name} {number}\n\nRest in a dark room.\n")
    rows = [{"user_prompt": f"Why {number}?", "ai_response": f"So {number}.", "rating": 5} for number in range(100)]
    (folder / "ratings.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    said = [{"prompt": row["user_prompt"], "completion": row["ai_response"]} for row in rows[:60]]
    (folder / "policy.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in said))
    for words in (
        ("ratings", "import", "--source", "sample", str(sample.RATINGS_FILE)),
        ("train",),
        ("index", "add", "--source", "sample", "documents"),
        ("backup", "backup.zip"),
    ):
        process = start(words, environ=environ, log=folder / "log", folder=folder, values=_QUICK)
        assert process.wait(PATIENCE_S) == 0, process.said()
    with opened(url) as engine, transaction(engine) as connection:
        names = [f"{RANKED}{number}" for number in range(60)]
        texts = {"user_prompt": _RANKED, "ai_response": "This.", "source": "sample"}
        connection.execute(insert(Interaction), [{**texts, "candidate_group": name} for name in names])
        old = {"served_at": datetime.now(UTC) - timedelta(days=3), "policy": "live", "door": "/v1/rerank"}
        connection.execute(insert(ServedQuestion), [{**old, "candidate_group": name} for name in names])
    return folder


@pytest.fixture
def home(furnished: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return shutil.copytree(furnished, tmp_path / "home")


At = Callable[..., Terminal]


@pytest.fixture
def at_terminal(home: Path, environ: dict[str, str]) -> Iterator[At]:
    """Start a command at a terminal, there."""
    terminals: list[Terminal] = []

    def at_terminal(words: Sequence[str], *, step: str = "") -> Terminal:
        step = step and f"{step}:SIGSTOP"
        options = {"environ": environ, "folder": home, "values": _QUICK, "step": step}
        terminals.append(Terminal(lambda screen: start(words, log=screen, **options)))
        return terminals[-1]

    yield at_terminal
    for each in terminals:
        each.close()


@pytest.mark.parametrize("name", STOPS)
def test_ctrl_c_in_the_middle(name: str, home: Path, at_terminal: At) -> None:
    """It says what is kept, without a traceback; what was there is there and can be used, and nothing half is. The same
    command then comes to its end, and so does its progress."""
    stop, before = STOPS[name], state(home)
    stopped = at_terminal(stop.words, step=stop.step)
    until(lambda: "\nthere\n" in stopped.shown or stopped.process.ended())
    assert not stopped.process.ended(), stopped.shown
    stopped.wait_for_stop()
    stopped.go_on_with_ctrl_c()
    assert (stopped.wait(), "Traceback" in stopped.shown) == (130, False), stopped.shown
    (said,) = [line for line in stopped.shown.splitlines() if line.startswith("Stopped. ")]
    assert stop.said in said
    after = state(home)
    assert {name for name in after if after[name] != before[name]} <= stop.changes
    assert not [path for path in home.iterdir() if path.name.startswith(("there", "curve", "set"))]
    again = at_terminal(stop.words)
    assert (again.wait(), "Traceback" in again.shown) == (stop.ends, False), again.shown
    if stop.bar:
        assert _PERCENT.findall(again.shown)[-1][0] == "100", again.shown


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    yield engine
    engine.dispose()


def state(home: Path) -> dict[str, object]:
    """Return what others may rely on, once all of it can be used."""
    settings = Settings(model_path=home / "reward_model.joblib")
    with opened(f"sqlite:///{home / 'rlhf.db'}") as engine, reading(engine) as connection:
        assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
        live = registry.live(engine)
        assert live is not None
        return {
            "answers": connection.scalar(select(func.count()).select_from(Interaction)),
            "rated": connection.scalar(select(func.count()).where(Interaction.rating.is_not(None))),
            "live": live.version,
            "sha256": registry.load(settings, live, encoder=MODEL_NAME).sha256,
            "backup": (home / "backup.zip").stat().st_size,
        }


_LINGERS = """
import atexit
import sys
import time
from pathlib import Path

from rlhf_loop.cli.common import Commands, progress_bar

commands = Commands()

@commands.command()
def work():
    if sys.argv[2] == "exit":
        atexit.register(tidy)
    with progress_bar("Working", kept="All of it."):
        try:
            print("began", flush=True)
            while True:
                time.sleep(0.01)
        finally:
            if sys.argv[2] == "block":
                tidy()

def tidy():
    print("tidying", flush=True)
    while not Path(sys.argv[1]).exists():
        time.sleep(0.01)
    print("tidied", flush=True)

try:
    commands(["work"])
finally:
    atexit._run_exitfuncs()
"""


@pytest.fixture(params=["block", "exit"])
def lingering(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    """A command that has much to put in order after a stop, at the end of its work, or at that of its process."""
    arguments = (tmp_path / "go", request.param)
    terminal = Terminal(lambda screen: program(_LINGERS, *arguments, folder=tmp_path, log=screen))
    terminal.press_ctrl_c()
    until(lambda: "tidying" in terminal.shown)
    yield terminal
    terminal.close()


def test_a_second_ctrl_c_cuts_nothing_off(lingering: Terminal, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """What the first one has to put in order is put in order, and it is said that this goes on."""
    lingering.press_ctrl_c()
    until(lambda: "Stopping: " in lingering.shown)
    (tmp_path / "go").touch()
    assert lingering.wait() == 130
    shown = lingering.shown
    order = ["tidied", "Stopped. All of it."]
    if request.node.callspec.params["lingering"] == "exit":
        order.reverse()
    assert shown.index("Stopping: ") < shown.index("tidied")
    assert shown.index(order[0]) < shown.index(order[1])
    assert "Traceback" not in shown


def test_a_third_ctrl_c_ends_at_once(lingering: Terminal) -> None:
    """Whoever does not want to wait for that need not."""
    lingering.press_ctrl_c()
    until(lambda: "Stopping: " in lingering.shown)
    lingering.press_ctrl_c()
    assert lingering.wait() == 130
    assert "Stopped at once. What is stored is whole" in lingering.shown
    assert "tidied" not in lingering.shown
    assert "Traceback" not in lingering.shown
