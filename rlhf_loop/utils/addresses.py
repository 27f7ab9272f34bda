"""Addresses of machines: what one is, and whether it is this machine's own."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address


def parsed(address: str | None) -> IPv4Address | IPv6Address | None:
    """Return the address without its zone, an IPv4 one within an IPv6 one as such; None if it is not a valid one."""
    try:
        found = ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def is_loopback(host: str | None) -> bool:
    """Tell whether a host, by name or address, is this machine to itself."""
    found = parsed(host)
    return host == "localhost" if found is None else found.is_loopback
