"""The command line: reads the settings, calls one service, and says what happened."""

from __future__ import annotations

import click

from rlhf_loop.cli.accounts import audit, tokens, users
from rlhf_loop.cli.common import Commands, FilePath, keep_env_file
from rlhf_loop.cli.index import index
from rlhf_loop.cli.mcp import mcp
from rlhf_loop.cli.operate import alarms, backup, forget, purge, rankings, report, restore, worker
from rlhf_loop.cli.ratings import ratings
from rlhf_loop.cli.serve import serve
from rlhf_loop.cli.setup import demo, doctor, init, settings
from rlhf_loop.cli.training import encoder, models, rerank, retrain, score, train, warm
from rlhf_loop.version import __version__


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="To begin: rlhf-loop demo, then rlhf-loop serve. Each command says more: rlhf-loop serve --help",
)
@click.version_option(__version__, prog_name="rlhf-loop")
@click.option(
    "--env-file",
    type=FilePath(dir_okay=False),
    expose_value=False,
    callback=keep_env_file,
    help="File of lines NAME=value that go into the environment, where they are not yet; in place of .env.",
)
def main() -> None:
    """Expert ratings become a reward model that puts the best answer first.

    Settings come from the environment, from --env-file or .env, and from rlhf-loop.toml, in this order:
    RLHF_DATABASE_URL names the database (default: sqlite:///rlhf.db).
    """


#: The sections of `rlhf-loop --help`, in the order in which one needs them.
SECTIONS = {
    "Begin": (demo, init, doctor, settings),
    "Ratings": (ratings, users, tokens),
    "The model": (train, rerank, score, models, encoder),
    "The service": (index, warm, serve, mcp),
    "Keep it going": (worker, retrain, backup, restore, alarms, report, audit, purge, rankings, forget),
}
for section, commands in SECTIONS.items():
    for command in commands:
        main.add_command(command, section=section)
