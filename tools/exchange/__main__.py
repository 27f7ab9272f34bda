"""Hold readers and doors against what other tools' own SDKs write and send; the result goes to docs/RLHF_EXCHANGE.md.

    make exchange
    make exchange OPTIONS="--only trl --check"        that one, and write nothing

Each trial is a program beside this one, in an environment with its SDK. It is given the address of `rlhf-loop serve`
with a model of the sample ratings, a token, and a folder with that model; each line that it prints is JSON: what was
tried, in which version, and either its result or files that our reader has to read, with the ratings that have to come
out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from sqlalchemy import select

from rlhf_loop.accounts import tokens, users
from rlhf_loop.domain import UserRole
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.store.engine import open_database
from rlhf_loop.store.tables import Review
from tools.fuzz import served, train
from tools.install import main as install
from tools.report import DOCS, put_into, say, table, today

_HERE = Path(__file__).parent
_PAGE = DOCS / "RLHF_EXCHANGE.md"
_WORKS = "works"


@dataclass(frozen=True)
class Trial:
    """A program, what it needs from PyPI, and whether this package has to be beside it; `node` runs it if it is one."""

    name: str
    requirements: Sequence[str]
    beside: bool = False


#: Pinned, so that the table names what was tried.
TRIALS = (
    Trial("langfuse", ["langfuse==5.0.4"]),
    Trial("mcp", ["mcp==2.3.0"], beside=True),
    Trial("trl", ["trl==1.16.0", "torch==2.13.0", "transformers==5.24.0", "datasets==5.2.0"], beside=True),
)
_TYPESCRIPT = "typescript"


@click.command()
@click.option("--environments", type=click.Path(path_type=Path), required=True, help="The folder of the environments.")
@click.option("--only", multiple=True, help="Only these trials.")
@click.option("--check", is_flag=True, help="Write nothing.")
def main(environments: Path, only: Sequence[str], check: bool) -> None:
    """Run them all; the exit code is 1 if one does not work."""
    wanted = [trial for trial in TRIALS if not only or trial.name in only]
    found: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory(prefix="rlhf-exchange-") as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'rlhf.db'}"
        train(url, folder)
        token = _token(url)
        with served(url, folder) as server:
            for trial in wanted:
                say(f"{trial.name} ...")
                python = _environment(environments, trial)
                found += _said(
                    [str(python), str(_HERE / f"{trial.name}.py"), server, token, str(folder)], trial.name, folder
                )
            if not only or _TYPESCRIPT in only:
                found += _typescript(server, token, folder)
    for package, what, result in found:
        click.echo(f"{result:<10} {package}: {what}")
    if not check:
        put_into(_PAGE, "exchange", f"By `make exchange` on {today()}:\n\n{table(['by', 'what', 'result'], found)}")
    sys.exit(0 if found and all(result in (_WORKS, _MISSING) for _, _, result in found) else 1)


def _token(url: str) -> str:
    engine = open_database(url)
    users.add(engine, "langfuse", role=UserRole.SERVICE, actor="exchange")
    scopes = [tokens.RERANK, tokens.READ, tokens.WRITE, tokens.REVIEW]
    secret = tokens.add(engine, "exchange", user="langfuse", scopes=scopes, actor="exchange").secret
    engine.dispose()
    return secret


def _environment(folder: Path, trial: Trial) -> Path:
    """Return the Python of a trial's environment, made if it is not there or was for something else."""
    made, stamp = folder / trial.name, "\n".join(trial.requirements)
    if not (made / ".installed").exists() or (made / ".installed").read_text() != stamp:
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(made)], check=True)
        [packages] = made.glob("lib/python*/site-packages")
        if trial.beside:
            paths = [str(_HERE.parents[1]), sysconfig.get_path("purelib")]
            lines = [f"import site; site.addsitedir({path!r})" for path in paths]
            (packages / "beside.pth").write_text("\n".join(lines))
        if install(str(made / "bin" / "python"), *trial.requirements):
            raise click.ClickException(
                f"{trial.requirements} cannot be installed into {made}; the last words are above."
            )
        (made / ".installed").write_text(stamp)
    return made / "bin" / "python"


def _said(command: Sequence[str], name: str, folder: Path) -> Iterator[tuple[str, str, str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RLHF_", "LANGFUSE_"))}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=kept | {"RLHF_EXCHANGE_PYTHON": sys.executable}
    )
    for line in done.stdout.splitlines():
        # Trainers print dicts of their own.
        if line.startswith('{"what"'):
            said = json.loads(line)
            yield f"{name} {said.get('version', '')}".strip(), said["what"], _result(said, folder)
    if done.returncode:
        yield name, "all of it", "broke off; its last words are above"


def _result(said: dict[str, Any], folder: Path) -> str:
    """Return what became of it; a file is read into a database of its own."""
    if "file" not in said:
        return str(said["result"])
    url = f"sqlite:///{folder / 'read.db'}"
    (folder / "read.db").unlink(missing_ok=True)
    engine = open_database(url)
    try:
        for file in said["file"]:
            import_ratings(engine, file, format=said["format"])
        with engine.connect() as connection:
            found = sorted(connection.execute(select(Review.rating)).scalars())
    except Exception as error:  # whatever our reader makes of it, the table says it
        return f"fails: {error}"
    finally:
        engine.dispose()
    return _WORKS if found == sorted(said["ratings"]) else f"gives {found} for {said['ratings']}"


_MISSING = "not tried: node and npm are not here"


def _typescript(server: str, token: str, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Build the client as `make client-ts` does, check its types, and use it."""
    what = "the client of `make client-ts`, its types checked, used by node"
    if shutil.which("npm") is None or shutil.which("node") is None:
        yield _TYPESCRIPT, what, _MISSING
        return
    made = folder / "client_ts"
    shutil.copytree(_HERE / "client_ts", made)
    steps = (
        ["npm", "install", "--silent", "--no-audit", "--no-fund"],
        ["npx", "openapi-typescript", f"{server}/openapi.json", "--output", "schema.d.ts"],
        ["npx", "tsc", "--project", "."],
    )
    for step in steps:
        if (done := subprocess.run(step, cwd=made, stdout=subprocess.PIPE, text=True)).returncode:
            yield _TYPESCRIPT, what, f"fails: {' '.join(step)}: {done.stdout[-300:]}"
            return
    yield from _said(["node", str(made / "build" / "try.js"), server, token], _TYPESCRIPT, folder)


if __name__ == "__main__":
    main()
