"""`rlhf-loop serve`: the question-answering service."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from rlhf_loop.cli.common import read_settings_for_log
from rlhf_loop.utils.addresses import is_loopback

if TYPE_CHECKING:
    from rlhf_loop.config import Settings
    from rlhf_loop.web.server.server import Size


_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@click.command(short_help="Answer questions over HTTP, and have experts rate the answers.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is the whole net.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 takes one that is free."
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Processes, about 300 MB each, 500 while one ranks a text of 4 MB. Default: half the cores, from 2 to 4.",
)
@click.option(
    "--threads", type=click.IntRange(1, 256), default=8, show_default=True, help="Questions at a time in each process."
)
@click.option("--blind", is_flag=True, help="Do not show raters where an answer comes from, as RLHF_REVIEW_BLIND=yes.")
def serve(host: str, port: int, workers: int | None, threads: int, blind: bool) -> None:
    """Answer questions, for people at /data-html and for programs at /data, and have experts rate at /review.

    Needs no model and no index to begin with. SIGTERM lets the running requests finish, for 30 seconds at most. Logs go
    to stderr: text at a terminal, elsewhere a line of JSON each (RLHF_LOG_FORMAT).
    """
    settings = read_settings_for_log()
    if sys.platform == "win32":
        from rlhf_loop.errors import ConfigError

        raise ConfigError(
            "rlhf-loop serve runs on gunicorn, which there is for Linux and macOS only, and this is Windows. "
            "Serve rlhf_loop.web.create_app(settings) with another server, such as waitress."
        )
    from rlhf_loop.answering import AnswerService
    from rlhf_loop.config import MADE_UP, SHORTEST_KEY
    from rlhf_loop.web.server import server

    settings = replace(settings, review_blind=settings.review_blind or blind)
    own_key = _check_key(settings, host)
    if not settings.hosts and is_loopback(host):
        # Else a page of somebody's whose name leads to this machine could read all there is.
        settings = replace(settings, hosts=tuple(dict.fromkeys((*_LOOPBACK, host))))
    if not own_key:
        # Made before the fork, so that all processes know each other's sessions.
        settings = replace(settings, secret_key=MADE_UP + secrets.token_urlsafe(SHORTEST_KEY))
    # A source of one's own (RLHF_SOURCES=package.module:name) is found where one stands, as with flask and gunicorn.
    sys.path.insert(0, os.getcwd())
    AnswerService(settings).check()
    server.check(settings)
    cores = server.cores()
    size = server.Size(workers or server.default_workers(cores), threads)
    listener = server.listen(host, port)
    for line in _greeting(settings, listener.getsockname()[:2], size, own_key=own_key):
        click.echo(line)
    sys.stdout.flush()
    server.serve(settings, listener, size, cores=cores)


def _check_key(settings: Settings, host: str) -> bool:
    """Tell whether the settings have a key of the operator's.

    Raises:
        ConfigError: it is too short, or there is none and others could reach the server.
    """
    from rlhf_loop.config import NEW_KEY, SHORTEST_KEY
    from rlhf_loop.errors import ConfigError

    advice = f"Make one and keep it: {NEW_KEY}"
    if settings.secret_key and len(settings.secret_key) < SHORTEST_KEY:
        raise ConfigError(
            f"RLHF_SECRET_KEY has {len(settings.secret_key)} characters, and fewer than {SHORTEST_KEY} can be "
            f"guessed. {advice}"
        )
    if not settings.secret_key and not is_loopback(host):
        raise ConfigError(
            f"The server would listen on {host}, where others reach it, and RLHF_SECRET_KEY, which signs the sessions "
            f"of whoever signs in, is not set. {advice}"
        )
    return bool(settings.secret_key)


def _greeting(settings: Settings, address: tuple[str, int], size: Size, *, own_key: bool) -> Iterator[str]:
    """Give the lines of the greeting: where it listens, who sees the questions, who may do what, what is missing."""
    host, port = address
    base = f"http://{_in_links(host)}:{port}"
    people, database = _people(settings, base)
    yield f"Open       {base}/data-html    (for programs: /data, described at /docs)"
    if people:
        yield people
    yield f"Sources    {'; '.join(_described(settings, name) for name in settings.sources) or 'none: set RLHF_SOURCES'}"
    if settings.llm_url:
        yield f"Drafts     by {settings.llm_model}; {_host(settings.llm_url)} gets the question and what was found"
    yield f"Model      {_model(settings.model_path)}"
    if settings.experiment_share:
        way = "interleaved with" if settings.experiment_interleave else "answered by"
        share = f"{100 * settings.experiment_share:g} %"
        yield f"Experiment {share} of the questions are {way} {settings.experiment_against}"
    yield f"Database   {database}"
    if not is_loopback(host):
        yield "Note       whoever reaches this port can ask, and rate as an end user; only experts and admins sign in"
        if not settings.hosts:
            yield "Hosts      any name that leads here is answered; set RLHF_HOSTS to those that should"
    if not own_key:
        yield "Sessions   end with this process; set RLHF_SECRET_KEY to keep people signed in when it starts anew"
    yield f"Workers    {size.workers} processes with {size.threads} threads each; stop with Ctrl-C"


def _in_links(host: str) -> str:
    """Return the host as an address has it that somebody can open: no browser gets to "all of this machine's"."""
    if ip_address(host).is_unspecified:
        return socket.gethostname() or "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _described(settings: Settings, name: str) -> str:
    if name in ("wikipedia", "arxiv"):
        from rlhf_loop.sources.wikipedia import api_address

        address = api_address(settings) if name == "wikipedia" else settings.arxiv_url
        return f"{name} ({_host(address)} gets the questions)"
    if name == "corrections":
        return "corrections (by your experts, once approved)"
    if name == "index":
        return "index (your documents)"
    return f"{name} (your own)"


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _model(path: Path) -> str:
    from rlhf_loop.ranking import is_off

    # From the sum beside the file: to open it would load NumPy into the process that forks.
    try:
        known = path.with_name(path.name + ".sha256").read_text("ascii", errors="replace")[:12]
    except OSError:
        known = ""
    if is_off(path):
        return "switched off, so that answers keep the order in which they come. To go on: rlhf-loop models on"
    if not path.exists():
        return f"none at {path} yet: answers keep the order in which they come. Train one: rlhf-loop train"
    return f"{path}, sha256 {known}..." if known else f"{path}, without the checksum that it needs"


def _people(settings: Settings, base: str) -> tuple[str, str]:
    """Return the greeting's line about who signs in, empty while nobody can, and what it says of the database."""
    from rlhf_loop.accounts.links import invite_first_admin
    from rlhf_loop.errors import DatabaseError
    from rlhf_loop.store.engine import describe, ensure_schema, make_engine

    engine = make_engine(settings.database_url, lasting=settings)
    try:
        ensure_schema(engine)
        first_admin = invite_first_admin(engine)
    except DatabaseError as error:
        return "", f"does not answer, so that records and ratings wait in the outbox: {error}"
    finally:
        # No connection may go through the fork.
        engine.dispose()
    if first_admin:
        return f"First admin  {base}/welcome/{first_admin}    (works once, within 24 hours)", describe(engine)
    return f"Review     {base}/review    (for experts, who sign in)", describe(engine)
