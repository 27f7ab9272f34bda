"""Where a browser may be led, whatever a form or a link says."""

from __future__ import annotations

import pytest

from rlhf_loop.web.origins import local_path

LOCAL = ["/", "/review", "/review?a=1&b=/x", "/a//b", "/%2F%2Fevil.example", "/review#here"]
NOT_LOCAL = [
    "",
    "review",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "\r//evil.example",
    " //evil.example",
    "https://evil.example",
    "http:evil.example",
    "javascript:alert(1)",
    "//[",
    "/" + "x" * 2_000,
]


@pytest.mark.parametrize(("address", "safe"), [*((a, True) for a in LOCAL), *((a, False) for a in NOT_LOCAL)])
def test_only_places_of_this_host_are_led_to(address: str, safe: bool) -> None:
    """Whatever a browser would make of it."""
    assert local_path(address) == (address if safe else None)
