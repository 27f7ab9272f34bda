"""Vectors that several machines share by a Redis or Valkey server: found there, or computed as without it."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from forked_process import program
from patience import PATIENCE_S, until
from quick_encoder import QuickRuntime
from redis import Redis
from tokenizers import Tokenizer
from valkey import Valkey, valkey

from rlhf_loop.config import Settings
from rlhf_loop.domain import Question
from rlhf_loop.encoders import DIMENSION, TextEncoder, Vectors
from rlhf_loop.encoders.shared_vectors import PREFIX, SharedVectors, open_shared
from rlhf_loop.encoders.text_encoder import UnknownTextError
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.errors import ConfigError, MissingExtraError
from rlhf_loop.reward.recipes import PassagesRecipe

__all__ = ["valkey"]

SECRET = "a secret of this test and of nobody else"
KEYS = [bytes([number]) * 32 for number in range(5)]
QUESTION = Question("How do I treat a burn?", ("Cool the burn with water.", "A museum opens at ten.", "Ice is cold."))


def matrix(seed: int, rows: int = 1, dimension: int = DIMENSION) -> Vectors:
    return np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def shared(
    url: str, *, secret: str = SECRET, timeout_s: float = PATIENCE_S, clock: Clock | None = None
) -> SharedVectors:
    return SharedVectors(url, secret=secret, timeout_s=timeout_s, clock=clock or Clock())


def stored(url: str, entries: dict[bytes, Vectors], *, secret: str = SECRET) -> SharedVectors:
    cache = shared(url, secret=secret)
    cache.put(entries)
    cache.settle(within_s=PATIENCE_S)
    assert cache.take_counts() == {"written": len(entries)}
    return cache


class CountingRuntime(QuickRuntime):
    """Remembers what it was asked to embed."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str]) -> Vectors:  # type: ignore[override]
        self.asked += texts
        return super().encode(texts)


@pytest.fixture
def machine(tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., tuple[TextEncoder, CountingRuntime, SharedVectors]]:
    """Machines, each with a cache of its own beside the one that they share."""

    def make(name: str, url: str, **options: object) -> tuple[TextEncoder, CountingRuntime, SharedVectors]:
        runtime, cache = CountingRuntime(), shared(url, **options)  # type: ignore[arg-type]
        return TextEncoder(runtime, tokenizer, VectorCache(tmp_path / f"{name}.db", shared=cache)), runtime, cache

    return make


Machine = Callable[..., tuple[TextEncoder, CountingRuntime, SharedVectors]]


def test_what_one_machine_writes_another_finds(valkey: Valkey) -> None:
    """Matrices come back exactly, by any process with the same secret, for a bounded time; others are not there."""
    entries = {KEYS[0]: matrix(0), KEYS[1]: matrix(1, rows=70)}
    stored(valkey.url, entries)
    other = shared(valkey.url)
    found = other.get(KEYS[:3])
    assert found.keys() == entries.keys()
    for key, expected in entries.items():
        np.testing.assert_array_equal(found[key], expected)
        assert not found[key].flags.writeable
    assert other.take_counts() == {"found": 2, "absent": 1}
    with Redis.from_url(valkey.url) as client:
        names = client.keys("*")
        assert all(name.startswith(PREFIX.encode()) for name in names)
        assert all(0 < client.ttl(name) <= 30 * 86400 for name in names)


def test_what_was_absent_is_asked_for_again_later(valkey: Valkey) -> None:
    """The steps of a request do not ask twice for what is not there; the next ones do."""
    clock = Clock()
    cache = shared(valkey.url, clock=clock)
    assert cache.get(KEYS[:1]) == {}
    stored(valkey.url, {KEYS[0]: matrix(0)})
    assert cache.get(KEYS[:1]) == {}
    clock.now += 61
    assert cache.get(KEYS[:1]).keys() == {KEYS[0]}


@pytest.mark.parametrize("secret", ["", "another secret"])
def test_another_secret_finds_nothing(valkey: Valkey, secret: str) -> None:
    """What was written by another secret, or without one, is not even looked at."""
    stored(valkey.url, {KEYS[0]: matrix(0)}, secret=secret)
    cache = shared(valkey.url)
    assert cache.get(KEYS[:1]) == {}
    assert cache.take_counts() == {"absent": 1}


def _foreign(client: Redis, name: bytes, other: bytes) -> None:
    client.set(name, "another program's")


def _cut(client: Redis, name: bytes, other: bytes) -> None:
    client.set(name, client.get(name)[:-4])  # type: ignore[index]


def _flipped(client: Redis, name: bytes, other: bytes) -> None:
    value = bytearray(client.get(name))  # type: ignore[arg-type]
    value[-1] ^= 1
    client.set(name, bytes(value))


def _swapped(client: Redis, name: bytes, other: bytes) -> None:
    client.set(name, client.get(other))  # type: ignore[arg-type]


def _of_another_secret(client: Redis, name: bytes, other: bytes) -> None:
    forger = shared("redis://127.0.0.1:1", secret="guessed")
    client.set(name, forger._packed(KEYS[0], matrix(7)))


def _empty(client: Redis, name: bytes, other: bytes) -> None:
    client.set(name, b"")


def _infinite(client: Redis, name: bytes, other: bytes) -> None:
    client.set(name, shared("redis://127.0.0.1:1")._packed(KEYS[0], matrix(7) * np.float32(np.inf)))


@pytest.mark.parametrize("harm", [_foreign, _cut, _flipped, _swapped, _of_another_secret, _empty, _infinite])
def test_a_wrong_value_is_refused(valkey: Valkey, harm: Callable[[Redis, bytes, bytes], None]) -> None:
    """A value that is damaged, another text's, or written without the secret is no vector; the next write mends it."""
    cache = stored(valkey.url, {KEYS[0]: matrix(0), KEYS[1]: matrix(1)})
    with Redis.from_url(valkey.url) as client:
        harm(client, cache._name(KEYS[0]).encode(), cache._name(KEYS[1]).encode())
    assert cache.get(KEYS[:2]).keys() == {KEYS[1]}
    assert cache.take_counts() == {"found": 1, "refused": 1}
    assert cache.state() == ""
    stored(valkey.url, {KEYS[0]: matrix(0)})
    assert cache.get(KEYS[:1]).keys() == {KEYS[0]}


def test_a_list_in_place_of_a_value_is_absent(valkey: Valkey) -> None:
    """What is not a string there is not a vector."""
    cache = shared(valkey.url)
    with Redis.from_url(valkey.url) as client:
        client.lpush(cache._name(KEYS[0]), "a")
    assert cache.get(KEYS[:1]) == {}
    assert cache.state() == ""


def test_values_of_another_dimension_are_refused(valkey: Valkey) -> None:
    """What does not make whole vectors is refused, and one of a cross-encoder's numbers is found as such."""
    cache = stored(valkey.url, {KEYS[0]: matrix(0, dimension=1)})
    assert cache.get(KEYS[:1]) == {}
    assert cache.get(KEYS[:1], dimension=1)[KEYS[0]].shape == (1, 1)


# --- Trouble ----------------------------------------------------------------------------------------------------------


def failed(cache: SharedVectors, times: int) -> None:
    for _ in range(times):
        assert cache.get(KEYS[:2]) == {}


def test_a_server_that_is_gone_is_paused_and_taken_again(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """After three failures it is left alone, with one warning; when it is back, the next try finds it."""
    clock = Clock()
    cache = shared(valkey.url, clock=clock)
    assert cache.get(KEYS[:2]) == {}
    valkey.stop()
    caplog.set_level(logging.INFO)
    clock.now += 61
    failed(cache, 3)
    assert cache.take_counts() == {"absent": 2, "failed": 6}
    failed(cache, 2)
    clock.now += 11
    failed(cache, 2)
    assert cache.take_counts() == {"paused": 6, "failed": 2}
    assert cache.state().startswith("lookups paused for 20 s after repeated failures (ConnectionError")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    valkey.start()
    stored(valkey.url, {KEYS[0]: matrix(0)})
    clock.now += 30
    assert cache.get(KEYS[:2]).keys() == {KEYS[0]}
    assert cache.state() == ""
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_full_server_is_still_read(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """Writing is paused, with one warning, and lookups go on."""
    cache = stored(valkey.url, {KEYS[0]: matrix(0)})
    with Redis.from_url(valkey.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
    for _ in range(5):
        cache.put({KEYS[1]: matrix(1)})
        cache.settle(within_s=PATIENCE_S)
    assert cache.take_counts() == {"dropped": 5}
    assert cache.get(KEYS[:1]).keys() == {KEYS[0]}
    assert cache.state().startswith("writing paused for 10 s after repeated failures (OutOfMemoryError")
    assert len(caplog.records) == 1


def test_a_wrong_password_is_one_more_trouble(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """A server that wants another password is paused; the log does not tell ours. The right one opens it."""
    valkey.stop()
    valkey.start("--requirepass", "right")
    cache = shared(valkey.url.replace("//", "//:wrong-one@"))
    failed(cache, 3)
    assert "AuthenticationError" in cache.state()
    assert "wrong-one" not in caplog.text
    assert len(caplog.records) == 1
    with pytest.raises(Exception, match="invalid username-password pair"):
        cache.check()
    shared(valkey.url.replace("//", "//:right@")).check()


def test_a_server_with_tls(valkey: Valkey, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rediss:// goes over TLS; a certificate that nobody trusts is one more trouble."""
    valkey.stop()
    tls = ("--tls-cert-file", str(certificate), "--tls-key-file", str(certificate), "--tls-auth-clients", "no")
    valkey.start("--port", "0", "--tls-port", str(valkey.port), *tls)
    url = valkey.url.replace("redis", "rediss")
    failed(cache := shared(url), 3)
    assert "certificate verify failed" in cache.state()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    stored(url, {KEYS[0]: matrix(0)})
    assert shared(url).get(KEYS[:1]).keys() == {KEYS[0]}


@contextmanager
def stuck(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """A server that takes connections, and does with them what it likes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                held.append(client)
                threading.Thread(target=answer, args=(client,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for client in held:
            client.close()


def silent(client: socket.socket) -> None:
    """Never say anything."""


def dripping(client: socket.socket) -> None:
    """Welcome whoever comes, then answer a byte at a time, each within any timeout, until nobody reads any more."""
    waits = threading.Event()
    try:
        while b"MGET" not in (said := client.recv(65536)):
            client.sendall(b"+OK\r\n" * max(1, said.count(b"SETINFO")))
        client.sendall(b"*2\r\n$99999999\r\n")
        while True:
            client.sendall(b"x")
            waits.wait(0.001)
    except OSError:
        return


@pytest.mark.parametrize("answer", [silent, dripping])
def test_a_server_that_is_slow_holds_nobody_up(answer: Callable[[socket.socket], object]) -> None:
    """One that says nothing, or a byte now and then for ever, fails a lookup at its deadline, and is paused."""
    with stuck(answer) as url:
        cache = shared(url, timeout_s=0.01)
        failed(cache, 4)
        assert cache.take_counts() == {"failed": 6, "paused": 2}
        reading = "rlhf-shared-vectors-get"
        until(lambda: not any(thread.name == reading for thread in threading.enumerate()))


def test_a_connection_that_comes_too_late_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for its answer any more, so its thread ends."""
    there, over, done = threading.Event(), threading.Event(), list[str]()

    class Late:
        def send_command(self, *words: object) -> None:
            done.append("asked")

        def disconnect(self) -> None:
            done.append("disconnected")

    with stuck(silent) as url:
        cache = shared(url, timeout_s=0.01)
        monkeypatch.setattr(cache._reading, "get_connection", lambda: there.wait(PATIENCE_S) and Late())
        monkeypatch.setattr(cache._reading, "release", lambda connection: over.set())
        failed(cache, 1)
        there.set()
        assert over.wait(PATIENCE_S)
    assert done == ["disconnected"]


@pytest.mark.parametrize(
    "reply", [b"not Redis at all\r\n", b"*1\r\n$1\r\nx\r\n", b":7\r\n", b"-MOVED 1 10.0.0.1:1\r\n"]
)
def test_what_is_no_answer_is_a_failure(reply: bytes) -> None:
    """Another protocol, too few values, a number, or a member of a cluster: nothing is found, and it is paused."""

    def answer(client: socket.socket) -> None:
        with client:
            while b"MGET" not in (said := client.recv(65536)):
                if not said:
                    return
                client.sendall(b"+OK\r\n" * max(1, said.count(b"SETINFO")))
            client.sendall(reply)

    with stuck(answer) as url:
        cache = shared(url)
        failed(cache, 3)
        assert cache.take_counts() == {"failed": 6}
        assert cache.state()


def test_more_than_can_wait_is_dropped() -> None:
    """While the server takes nothing, memory stays bounded, and nobody waits."""
    with stuck(silent) as url:
        cache = shared(url)
        large = np.broadcast_to(np.float32(1), (20_000, DIMENSION))  # 30 MB by its size, none in memory
        cache.put({key: large for key in KEYS})
        assert cache.take_counts()["dropped"] == 3


#: Puts vectors, forks, and ends right behind the last ones, as Python ends by itself.
PROGRAM = """
import atexit, os, sys
import numpy as np
from rlhf_loop.encoders.shared_vectors import SharedVectors
url, secret, patience = sys.argv[1], sys.argv[2], float(sys.argv[3])
SharedVectors.settle.__kwdefaults__["within_s"] = patience
cache = SharedVectors(url, secret=secret, timeout_s=patience)
ones = np.ones((1, 384), dtype=np.float32)
cache.put({b"0" * 32: ones})
cache.settle(within_s=patience)
child = os.fork()
if not child:
    cache.put({b"1" * 32: ones})
    cache.settle(within_s=patience)
    assert len(cache.get([b"0" * 32, b"1" * 32])) == 2
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
cache.put({b"2" * 32: ones})
atexit._run_exitfuncs()
"""


def test_a_fork_and_the_end_of_a_program_lose_nothing(valkey: Valkey, tmp_path: Path) -> None:
    """A process that was forked from one that has begun reads and writes by itself; the end writes what waits."""
    process = program(PROGRAM, valkey.url, SECRET, PATIENCE_S, folder=tmp_path)
    assert process.wait(PATIENCE_S) == 0, process.said()
    assert len(shared(valkey.url).get([b"0" * 32, b"1" * 32, b"2" * 32])) == 3


# --- In the encoder ---------------------------------------------------------------------------------------------------


def features(encoder: TextEncoder) -> np.ndarray:
    """Look up as a ranking does: what is new is found or computed, and then it is tried again."""
    known = encoder.only_known()
    for _ in range(6):
        try:
            return PassagesRecipe().features([QUESTION], known)
        except UnknownTextError as error:
            error.compute()
    raise AssertionError("The cache keeps nothing.")


def test_a_second_machine_embeds_nothing(valkey: Valkey, machine: Machine) -> None:
    """What one machine has embedded another has by one lookup, with the same features to the last bit, and keeps."""
    one, embedded, written = machine("one", valkey.url)
    expected = features(one)
    assert embedded.asked
    written.settle(within_s=PATIENCE_S)
    two, nothing, read = machine("two", valkey.url)
    before = commands(valkey)
    np.testing.assert_array_equal(features(two), expected)
    assert nothing.asked == []
    assert two.computed == 0
    assert commands(valkey) - before == 1
    assert read.take_counts().keys() == {"found"}
    valkey.stop()
    np.testing.assert_array_equal(features(two), expected)
    assert nothing.asked == []
    assert read.take_counts() == {}


def commands(valkey: Valkey) -> int:
    with Redis.from_url(valkey.url) as client:
        return int(client.info("commandstats").get("cmdstat_mget", {}).get("calls", 0))


def test_a_new_text_costs_one_lookup(valkey: Valkey, machine: Machine) -> None:
    """A machine that is the first to see a question asks once, embeds, and does not ask for the same again."""
    one, embedded, _ = machine("one", valkey.url)
    features(one)
    assert embedded.asked
    assert commands(valkey) == 1


def test_without_the_server_all_is_as_before(valkey: Valkey, machine: Machine) -> None:
    """With the server gone the features are those of an encoder that never heard of one."""
    valkey.stop()
    one, embedded, _ = machine("one", valkey.url)
    alone = TextEncoder(QuickRuntime(), one._tokenizer)
    np.testing.assert_array_equal(features(one), PassagesRecipe().features([QUESTION], alone))
    assert embedded.asked


def test_what_an_index_keeps_is_not_written(valkey: Valkey, machine: Machine) -> None:
    """Passages that somebody else keeps are looked up, and go into no cache."""
    one, _, cache = machine("one", valkey.url)
    one.passages_to_keep(["A passage."])
    assert cache.take_counts() == {"absent": 1}
    one.encode_passages(["A passage."])
    cache.settle(within_s=PATIENCE_S)
    two, nothing, _ = machine("two", valkey.url)
    two.passages_to_keep(["A passage."])
    assert nothing.asked == []


def test_another_model_has_keys_of_its_own(valkey: Valkey, machine: Machine) -> None:
    """The keys are those of the first level: another encoder's vectors are never met."""
    one, _, cache = machine("one", valkey.url)
    one.encode(["A text."])
    cache.settle(within_s=PATIENCE_S)
    two, embedded, _ = machine("two", valkey.url)
    embedded.id = "another"
    two.encode(["A text."])
    assert embedded.asked == ["A text."]


# --- Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["cache:6379", "http://cache", "redis+sentinel://cache", "redis://cache:port", "redis://cache?no_such_option=1"],
)
def test_a_url_of_something_else_is_refused(url: str) -> None:
    """At the start, with what to write instead, and without what was written: it may have a password."""
    with pytest.raises(ConfigError, match="Sentinel and Cluster are not supported") as caught:
        open_shared(Settings(cache_url=url))
    assert url not in str(caught.value)


def test_there_is_none_by_default() -> None:
    """Without the setting there is no second level."""
    assert open_shared(Settings()) is None


def test_a_missing_client_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets the URL without the client is told what to install."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtraError, match=r"rlhf-loop\[redis\]"):
        open_shared(Settings(cache_url="redis://cache"))
