"""Ports of 127.0.0.1 that no other program gets while a server begins, or is stopped for a while."""

from __future__ import annotations

import socket
import sys


def own_port() -> int:
    """Return a free port, which this process holds to its end for servers that set SO_REUSEADDR, as most do.

    Where nobody listens, it refuses connections. Elsewhere than on Linux it is only free at this moment.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port: int = held.getsockname()[1]
    if sys.platform == "linux":
        held.detach()
    else:
        held.close()
    return port
