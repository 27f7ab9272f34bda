"""Addresses of machines: what one is, and whether it is this machine's own."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address


def parsed(address: str | None) -> IPv4Address | IPv6Address | None:
    """Return the address without its zone, an IPv4 one within an IPv6 one as such; None if it is not a valid one."""
    bare, percent, _ = (address or "").partition("%")
    try:
        found = ip_address(bare)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        return found.ipv4_mapped or found
    return None if percent else found  # only IPv6 has zones


def is_loopback(host: str | None) -> bool:
    """Tell whether a host, by name or address, is this machine to itself."""
    found = parsed(host)
    return host == "localhost" if found is None else found.is_loopback
