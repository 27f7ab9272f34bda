"""How many requests somebody may make."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from rlhf_loop.config import Settings
from rlhf_loop.errors import ConfigError
from rlhf_loop.web import create_app, limiter
from rlhf_loop.web.limiter import Limiter, _wait, network


@pytest.mark.parametrize("limit", ["many", "0 per minute", "10 per fortnight", "-1 per day", "", "10"])
def test_a_limit_that_is_none_is_refused_at_the_start(limit: str) -> None:
    """Not at the first request."""
    with pytest.raises(ConfigError, match="RLHF_RATE_LIMIT"):
        create_app(Settings(rate_limit=limit))


def test_limits() -> None:
    """Several at once, or none."""
    both = Limiter("100 per year; 2 per month")
    assert [both.hit("a") > 0 for _ in range(3)] == [False, False, True]
    assert both.hit("b") == 0
    none = Limiter("0")
    assert not any(none.hit("a") for _ in range(1000))


def test_processes_count_together(tmp_path: Path) -> None:
    """By a file; a limit that refuses counts for none of the others, and a file that cannot be used refuses nobody."""
    one, other = (Limiter("3 per month; 4 per year", file=tmp_path / "requests") for _ in range(2))
    assert [each.hit("a") > 0 for each in (one, other, one, other, one)] == [False, False, False, True, True]
    assert one.hit("b") == 0
    alone = Limiter("1 per year", file=tmp_path / "no folder" / "requests")
    assert [alone.hit("a") > 0 for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("before", "present", "into", "waits"),
    [
        (0, 9, 0, 0),
        (0, 10, 6, 54),  # then one of the ten is more than a minute ago, by and by
        (10, 0, 0, 0.001),
        (10, 5, 29, 1),  # 5.2 + 5 now; less than 5 + 5 after 30
        (10, 5, 31, 0),
        (10, 4, 30, 0),
        (100, 0, 30, 24),
    ],
)
def test_the_window_slides(before: int, present: int, into: float, waits: float) -> None:
    """Of ten a minute: the last minute's requests lose their weight while this one goes by."""
    assert _wait(before, present, 10, into, 60) == pytest.approx(waits)
    if waits:
        later = into + waits - 60 if into + waits >= 60 else into + waits
        last, now = (present, 0) if into + waits >= 60 else (before, present)
        assert last * (1 - later / 60) + now == pytest.approx(10, abs=0.001)
        assert _wait(last, now, 10, later + 0.1, 60) == 0


def test_a_limit_of_one_is_one_in_each_period() -> None:
    """Not one in two: the last window counts in whole requests."""
    assert _wait(1, 0, 1, 0.1, 60) == 0
    assert _wait(0, 1, 1, 20, 60) == pytest.approx(40)


def test_a_stall_of_the_file_is_no_end_of_counting_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While it can not be written, each process counts alone, and says so once; after that they count together."""
    monkeypatch.setattr(limiter, "_COUNTING_S", 0)
    monkeypatch.setattr(limiter, "_ALONE_S", 0)
    file = tmp_path / "requests"
    one, other = (Limiter("2 per year", file=file) for _ in range(2))
    assert one.hit("a") == 0
    holding = sqlite3.connect(file, isolation_level=None)
    holding.execute("BEGIN IMMEDIATE")
    assert [one.hit("a") > 0 for _ in range(3)] == [False, False, True]
    holding.execute("ROLLBACK")
    holding.close()
    assert len(caplog.records) == 1
    assert [each.hit("a") > 0 for each in (other, one, other)] == [False, True, True]


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        (None, "unknown"),
        ("nonsense", "unknown"),
    ],
)
def test_what_counts_as_one_address(address: str | None, counted_as: str) -> None:
    """Of IPv6 a network: whoever has one has any number of addresses."""
    assert network(address) == counted_as


@pytest.mark.parametrize(("proxies", "status", "secure"), [(0, 200, False), (1, 429, True)])
def test_proxies_are_trusted_by_number(proxies: int, status: int, secure: bool) -> None:
    """What they say of the address and of TLS counts only if there are any; else it is what anybody may claim."""
    web = create_app(Settings(proxies=proxies, rate_limit="1 per year")).test_client(use_cookies=False)
    forwarded = {"X-Forwarded-For": "203.0.113.9, 192.0.2.1", "X-Forwarded-Proto": "https"}
    first = web.get("/sign-in", headers=forwarded, environ_base={"REMOTE_ADDR": "10.0.0.1"})
    assert ("Secure" in first.headers["Set-Cookie"]) == secure
    claimed = {**forwarded, "X-Forwarded-For": "198.51.100.1, 192.0.2.1"}
    second = web.get("/sign-in", headers=claimed, environ_base={"REMOTE_ADDR": "10.0.0.2"})
    assert second.status_code == status  # one client behind two proxies, or two clients
