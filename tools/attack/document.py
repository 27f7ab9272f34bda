"""The document of `make attack`: a table for each part, with what was there before beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.attack.product import Finding
from tools.report import DOCS, machine, table, today

DOCUMENT = DOCS / "ATTACK.md"
_HEAD = """# Under attack

`make attack` writes this, or with `--only` the parts that are named. It sets up a copy of the product in a new folder
and attacks it on loopback: the server has two processes with eight threads each, and SQLite.

Seconds of the clock say how busy the machine was, too; those of CPU do not. A peak is the most memory that a process
has had, the pages of mapped files among it.
"""
#: What each part is about, with the figures from before it held.
_PARTS = {
    "sockets": (
        "Slow sockets",
        """
48 connections send something and then nothing more, or never read; meanwhile others ask. Before, 16 anonymous
connections with a chunked body, `Expect: 100-continue` or a body above 64 KiB stopped everything, /healthz included,
for 10 to 20 s each time; of 837 writes by 200 clients at once 26 got 503; and each process counted for the rate limit
by itself, so that two allowed twice as much.
""",
    ),
    "hosts": (
        "Foreign hosts and sites",
        """
Before, any Host was answered, so a page whose name was rebound to 127.0.0.1 could read the index, and one-time links
were made of it; HTTP/1.1 without Host was answered, refusals of the server had no security headers, all had `Server`,
and a question of another site's page was recorded.
""",
    ),
    "names": (
        "Names that are none",
        """
Each stands for every text of the example of every operation in the OpenAPI document, for every parameter, and in the
commands that take a name. Before, `models show ''` and a report for a name of 4,000 characters failed, `..` could be
a user, and a source or a reason for a promotion of nothing but U+200B was kept.
""",
    ),
    "bombs": (
        "Bombs",
        """
Small where they lie, large where they are read. A command may take 300 MB, and must refuse in words, with exit code 2
and nothing stored; an honest file of 200 rows stands above them to compare with. Before, a `.jsonl.gz` of 10 GB of
zeros, a cell of 1 GB and a Parquet file of 33 KB with a text of 1 GiB were read into memory as a whole, a PDF with
100,000 references to one page was read 100,000 times, a file of newlines was read line by line to its end, and `index
add` loaded the encoder before it looked at a file: 344 MB with a bomb.
""",
    ),
    "models": (
        "Hostile model files",
        """
Each has the right checksum, and lies first where no registry is and then where the live model is. Before, a `recipe`
of `../../x` wrote files two folders up and became live, 10**400 as an intercept made every request a 500, and
coefficients overflowed.
""",
    ),
    "kills": (
        "Kills, and files that go away",
        """
At moments drawn by the seed. Before, a copy of the SQLite file after an orderly stop was empty in 5 of 5 tries with
six busy processes beside it, and a new empty database took the place of one that was deleted.
""",
    ),
    "backups": (
        "Backups under load, and killed",
        """
Eight clients write 60 times a second together, each at its times, while `rlhf-loop backup --index` runs, twice, beside
20,000 other ratings. What was due while a client waited goes out at once afterwards, and its time counts from when it
was due. The last file is restored into the other kind of database. Then backups and restorations are killed at moments
drawn by the seed.
""",
    ),
    "clock": (
        "A clock that jumps back",
        """
By libfaketime, an hour, a day or 40 days, beneath a server, a worker and trainings.
""",
    ),
}


def write(found: Sequence[Finding], document: Path = DOCUMENT) -> None:
    """Write the parts that were tried into the document, in place of what it said of them."""
    titles = {title for title, _ in _PARTS.values()}
    before = document.read_text(encoding="utf-8") if document.exists() else ""
    kept = {title: f"## {each}" for each in before.split("\n## ")[1:] if (title := each.partition("\n")[0]) in titles}
    kept |= sections(found)
    ordered = [kept[title].rstrip("\n") + "\n" for title, _ in _PARTS.values() if title in kept]
    document.write_text("\n".join([_HEAD, *ordered]), encoding="utf-8")


def sections(found: Sequence[Finding]) -> dict[str, str]:
    """Return the section of each part that was tried, by its title."""
    written = {}
    for part, (title, words) in _PARTS.items():
        of_part = [each for each in found if each.part == part]
        rows = [(_cell(each.attack), _cell(each.figures), _VERDICTS[each.holds]) for each in of_part]
        if rows:
            said = f"{summary(of_part)} {today()}, {machine()}."
            written[title] = f"## {title}\n\n{words.strip()}\n\n{said}\n\n{table(('attack', 'outcome', ''), rows)}\n"
    return written


def summary(found: Iterable[Finding]) -> str:
    """Say how many held."""
    verdicts = [each.holds for each in found]
    words = f"{verdicts.count(True)} of {len(verdicts)} attacks held, {verdicts.count(False)} did not"
    return f"{words}, {verdicts.count(None)} were skipped." if None in verdicts else f"{words}."


_VERDICTS = {True: "held", False: "**failed**", None: "skipped"}


def _cell(words: str) -> str:
    """Return what may stand in a table: without the folder of the run and what Markdown would take for its own."""
    plain = re.sub(r"/\S*/rlhf-attack-\w+/\S*/", "", words)
    return re.sub(r"([|<>*_\\`])", r"\\\1", plain)
