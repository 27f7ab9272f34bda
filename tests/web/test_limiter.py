"""How many requests somebody may make."""

from __future__ import annotations

import pytest

from rlhf_loop.config import Settings
from rlhf_loop.errors import ConfigError
from rlhf_loop.web import create_app
from rlhf_loop.web.guard import Limiter, network


@pytest.mark.parametrize("limit", ["many", "0 per minute", "10 per fortnight", "-1 per day", "", "10"])
def test_a_limit_that_is_none_is_refused_at_the_start(limit: str) -> None:
    """Not at the first request."""
    with pytest.raises(ConfigError, match="RLHF_RATE_LIMIT"):
        create_app(Settings(rate_limit=limit))


def test_limits() -> None:
    """Several at once, or none."""
    both = Limiter("100 per day; 2 per hour")
    assert [both.hit("a") > 0 for _ in range(3)] == [False, False, True]
    assert both.hit("b") == 0
    none = Limiter("0")
    assert not any(none.hit("a") for _ in range(1000))


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
    web = create_app(Settings(proxies=proxies, rate_limit="1 per day")).test_client(use_cookies=False)
    forwarded = {"X-Forwarded-For": "203.0.113.9, 192.0.2.1", "X-Forwarded-Proto": "https"}
    first = web.get("/sign-in", headers=forwarded, environ_base={"REMOTE_ADDR": "10.0.0.1"})
    assert ("Secure" in first.headers["Set-Cookie"]) == secure
    claimed = {**forwarded, "X-Forwarded-For": "198.51.100.1, 192.0.2.1"}
    second = web.get("/sign-in", headers=claimed, environ_base={"REMOTE_ADDR": "10.0.0.2"})
    assert second.status_code == status  # one client behind two proxies, or two clients
