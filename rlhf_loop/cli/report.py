"""`rlhf-loop report`: the dashboard as a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlhf_loop.cli.common import open_ratings, progress_bar, read_settings

if TYPE_CHECKING:
    from rlhf_loop.config import Settings
    from rlhf_loop.encoders import TextEncoder


@click.command(short_help="Write what the dashboard shows to a file.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default="rlhf_report.html")
@click.option("--open", "shown", is_flag=True, help="Open it in the browser, too.")
def report(file: Path, shown: bool) -> None:
    """Write what the dashboard shows to FILE (default: rlhf_report.html).

    It is one HTML file with all pictures and data in it: it needs no network, and can be sent, printed and kept.
    """
    from rlhf_loop.monitoring.report import report as made
    from rlhf_loop.monitoring.report import write_whole

    _check(file)
    engine, settings = open_ratings(), read_settings()
    with progress_bar("Computing the figures") as progress:
        html = made(engine, settings, encoder=_encoder(settings), progress=progress)
    engine.dispose()
    try:
        write_whole(file, html)
    except OSError as error:
        raise click.BadParameter(f"{str(file)!r} cannot be written: {error.strerror}.") from error
    click.echo(f"The report is in {file} ({max(1, len(html.encode()) // 1000):,} kB).")
    if shown:
        click.launch(file.resolve().as_uri())


def _encoder(settings: Settings) -> TextEncoder | None:
    from rlhf_loop.encoders import load_encoder
    from rlhf_loop.errors import EncoderError

    try:
        return load_encoder(settings, download=False)
    except EncoderError as error:
        click.echo(f"Without the encoder, what compares questions is left out: {error}", err=True)
        return None


def _check(file: Path) -> None:
    # Before the work, not after it.
    place = file if file.exists() else file.resolve().parent
    if not place.exists() or not os.access(place, os.W_OK):
        raise click.BadParameter(f"{str(file)!r} cannot be written. Choose another place.", param_hint="FILE")
