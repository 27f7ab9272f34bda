"""Print the API's description, for what is generated from it: `python -m tools.exchange.description`."""

from __future__ import annotations

import sys
import tempfile

from rlhf_loop.config import Settings
from rlhf_loop.web import create_app


def main() -> None:
    """Ask an application that nobody serves."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(database_url=f"sqlite:///{folder}/rlhf.db", sources=()))
        sys.stdout.write(app.test_client().get("/openapi.json").text)


if __name__ == "__main__":
    main()
