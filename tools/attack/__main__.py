"""Attack a running copy of the product, print the figures, and end with exit code 1 where something does not hold.

    make attack
    make attack OPTIONS="--only sockets --only bombs"

Everything happens in a new folder and on loopback. Where all parts were tried, docs/ATTACK.md is written.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import click

from tools.attack import backups, bombs, clock, hosts, kills, models, names, sockets
from tools.attack.document import summary, write
from tools.attack.product import Finding, make
from tools.report import say

PARTS = ("sockets", "hosts", "names", "bombs", "models", "kills", "backups", "clock")
_VERDICTS = {True: "holds", False: "FAILS", None: "skipped"}


@click.command()
@click.option(
    "--only", "parts", type=click.Choice(PARTS), multiple=True, help="These parts; may be given several times."
)
@click.option("--seed", default=0, show_default=True, help="Of the moments at which something is killed.")
@click.option(
    "--faketime", type=click.Path(exists=True, path_type=Path), help="libfaketimeMT.so.1, where it is not installed."
)
@click.option("--keep", is_flag=True, help="Keep the folder with the logs of what was attacked.")
def main(parts: tuple[str, ...], seed: int, faketime: Path | None, keep: bool) -> None:
    """Attack, and say what held."""
    began = time.monotonic()
    with ExitStack() as stack:
        name = tempfile.mkdtemp(prefix="rlhf-attack-")
        if not keep:
            stack.callback(shutil.rmtree, name, ignore_errors=True)
        folder = Path(name).resolve()
        say(f"making the product that is attacked, in {folder}")
        found = list(_told(_found(folder, parts or PARTS, seed=seed, faketime=faketime)))
    for line in table(found):
        click.echo(line)
    click.echo(f"\n{summary(found)} {time.monotonic() - began:.0f} s.")
    write(found)
    sys.exit(any(each.holds is False for each in found))


def _found(folder: Path, parts: Iterable[str], *, seed: int, faketime: Path | None) -> Iterator[Finding]:
    bare, trained = make(folder)
    attacks: dict[str, Callable[[], Iterator[Finding]]] = {
        "sockets": lambda: sockets.attack(trained.copy(folder / "sockets")),
        "hosts": lambda: hosts.attack(trained.copy(folder / "hosts")),
        "names": lambda: names.attack(trained.copy(folder / "names")),
        "bombs": lambda: bombs.attack(trained.copy(folder / "bombs")),
        "models": lambda: models.attack(bare, trained),
        "kills": lambda: kills.attack(bare, trained, seed=seed),
        "backups": lambda: backups.attack(trained.copy(folder / "backups"), seed=seed),
        "clock": lambda: clock.attack(bare, trained, given=faketime),
    }
    for part in parts:
        try:
            yield from attacks[part]()
        except Exception as error:
            # The others may still say something.
            yield Finding(part, "this part itself", f"broke off: {error!r}"[:300], False)


def _told(found: Iterable[Finding]) -> Iterator[Finding]:
    for each in found:
        say(f"{_VERDICTS[each.holds]:<8}{each.part}: {each.attack}: {each.figures}")
        yield each


def table(found: Iterable[Finding]) -> Iterator[str]:
    """Return the lines of a table of the findings."""
    rows = [(each.part, each.attack, each.figures, _VERDICTS[each.holds]) for each in found]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row in rows:
        yield f"{row[3]:<8} " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip()


if __name__ == "__main__":
    main()
