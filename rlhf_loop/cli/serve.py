"""`rlhf-loop serve`: the question-answering service."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from rlhf_loop.cli.common import read_settings

if TYPE_CHECKING:
    from rlhf_loop.config import Settings
    from rlhf_loop.web.server import Size


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is the whole net.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 takes one that is free."
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Processes, about 300 MB each. Default: half as many as cores, from 2 to 4.",
)
@click.option(
    "--threads", type=click.IntRange(1, 256), default=8, show_default=True, help="Questions at a time in each process."
)
def serve(host: str, port: int, workers: int | None, threads: int) -> None:
    """Answer questions, for people at /data-html and for programs at /data.

    Needs no model and no index to begin with. SIGTERM lets the running requests finish. Logs go to stderr, a line of
    JSON each.
    """
    settings = read_settings()
    if sys.platform == "win32":
        from rlhf_loop.errors import ConfigError

        raise ConfigError(
            "rlhf-loop serve runs on gunicorn, which there is for Linux and macOS only, and this is Windows. "
            "Serve rlhf_loop.web.create_app(settings) with another server, such as waitress."
        )
    from rlhf_loop.answering import AnswerService
    from rlhf_loop.web import server

    # A source of one's own (RLHF_SOURCES=package.module:name) is found where one stands, as with flask and gunicorn.
    sys.path.insert(0, os.getcwd())
    AnswerService(settings).check()
    cores = server.cores()
    size = server.Size(workers or server.default_workers(cores), threads)
    listener = server.listen(host, port)
    for line in _greeting(settings, listener.getsockname()[:2], size):
        click.echo(line)
    sys.stdout.flush()
    server.serve(settings, listener, size, cores=cores)


def _greeting(settings: Settings, address: tuple[str, int], size: Size) -> Iterator[str]:
    """Say where it listens, who gets to see the questions, and what is missing."""
    host, port = address
    shown = f"[{host}]" if ":" in host else host
    yield f"Open       http://{shown}:{port}/data-html    (for programs: /data, described at /docs)"
    yield f"Sources    {'; '.join(_described(settings, name) for name in settings.sources) or 'none: set RLHF_SOURCES'}"
    if settings.llm_url:
        yield f"Drafts     by {settings.llm_model}; {_host(settings.llm_url)} gets the question and what was found"
    yield f"Model      {_model(settings.model_path)}"
    yield f"Database   {_database(settings.database_url)}"
    if host not in ("127.0.0.1", "::1"):
        yield "Note       nobody signs in: whoever reaches this port can ask and rate"
    yield f"Workers    {size.workers} processes with {size.threads} threads each; stop with Ctrl-C"


def _described(settings: Settings, name: str) -> str:
    outside = {"wikipedia": settings.wikipedia_url, "arxiv": settings.arxiv_url}
    if name in outside:
        return f"{name} ({_host(outside[name].replace('{language}', settings.wikipedia_language))} gets the questions)"
    if name == "index":
        return "index (your documents)"
    return f"{name} (your own)"


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _model(path: Path) -> str:
    # From the sum beside the file: to open it would load NumPy into the process that forks.
    try:
        known = path.with_name(path.name + ".sha256").read_text("ascii", errors="replace")[:12]
    except OSError:
        known = ""
    if not path.exists():
        return f"none at {path} yet: answers keep the order in which they come. Train one: rlhf-loop train"
    return f"{path}, sha256 {known}..." if known else f"{path}, without the checksum that it needs"


def _database(url: str) -> str:
    from rlhf_loop.db import describe, ensure_schema, make_engine
    from rlhf_loop.errors import DatabaseError

    engine = make_engine(url)
    try:
        ensure_schema(engine)
    except DatabaseError as error:
        return f"does not answer, so that records and ratings wait in the outbox: {error}"
    finally:
        # No connection may go through the fork.
        engine.dispose()
    return describe(engine)
