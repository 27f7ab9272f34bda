"""Build the wheel, install it into an empty environment, and use it there as somebody does who has no checkout.

    make package
    make package OPTIONS=--lowest        with the oldest versions that pyproject.toml allows
    make package OPTIONS=--sizes         and print what each install takes, beside that of an earlier commit

Nothing of the checkout is on the way: the environment and the folder are new, the weights come as a package, and no
variable of ours is set. The wheel is built from the source distribution, so that one is tried, too. All of it is used
in an environment with [all]; then the default and each of its extras do their work in one that has nothing else, and
say what they lack. It ends with the first thing that does not work.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import NoReturn, TypeVar
from urllib.error import HTTPError
from urllib.parse import urljoin
from urllib.request import Request, urlopen

import click

from tools.report import DOCS, machine, put_into, table, today

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
        return {**kept, "RLHF_SOURCES": "corrections,index", "RLHF_CACHE_DIR": str(self.folder.with_name("cache"))}


@click.command()
@click.option("--lowest", is_flag=True, help="Install the oldest versions that pyproject.toml allows.")
@click.option("--sizes", is_flag=True, help="Only measure what installs take, and write them into docs/INSTALL.md.")
@click.option("--beside", metavar="COMMIT", help="With --sizes: measure that commit's default install, too.")
def main(lowest: bool, sizes: bool, beside: str | None) -> None:
    """Build, install, use; the exit code is 1 if something does not work."""
    begun = monotonic()
    wheel = timed("build", build)
    if sizes:
        measure(wheel, beside)
        return
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
        # Here, since the vectors of the sample are in the cache by now.
        for extra, use_alone in _ALONE.items() if not lowest else ():
            step = partial(use_alone, wheel, Path(name))
            timed(f"[{extra}] alone" if extra else "the default alone", step)
    if not lowest:
        timed("extras", lambda: resolve_extras(wheel))
    click.echo(f"{wheel.name} works ({monotonic() - begun:.0f} s). It is in {wheel.parent.name}/.")


def build(source: Path = ROOT, target: Path = DIST) -> Path:
    """Build the source distribution, and the wheel from it."""
    for old in target.glob("rlhf_loop-*"):
        old.unlink()
    run([str(_UV), "build", "--quiet", "--out-dir", str(target), str(source)])
    (wheel,) = target.glob("*.whl")
    return wheel


def install(wheel: Path, installed: Installed, lowest: bool) -> None:
    """Install it as the README says, into an environment that has nothing else."""
    run([sys.executable, "-m", "venv", str(installed.environment)])
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    needed = ROOT / "pyproject.toml"
    if lowest:
        needed = installed.folder.with_name("lowest.txt")
        asked = ["--resolution", "lowest-direct", *(f"--extra={name}" for name in ("all", "postgres", "llm", "otel"))]
        run([str(_UV), "pip", "compile", "--quiet", "pyproject.toml", *asked, "--output-file", str(needed)], cwd=ROOT)
    # What it needs, in a tenth of pip's time; pip then has to find that nothing is missing.
    python = str(installed.environment / "bin" / "python")
    extra = () if lowest else ("--extra", "all")
    run([sys.executable, "-m", "tools.install", python, "--requirement", str(needed), *extra], cwd=ROOT)
    installed.run("python", *pip, "install", f"rlhf-loop[all] @ {wheel.as_uri()}")
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


def alone(wheel: Path, folder: Path, extra: str) -> Installed:
    """Install the wheel with one extra, by links to uv's cache."""
    installed = Installed(folder / (extra or "default"), folder / f"use-{extra}")
    installed.folder.mkdir()
    python = make(installed.environment)
    run([sys.executable, "-m", "tools.install", python, wanted(wheel, extra)], cwd=ROOT)
    run([sys.executable, "-m", "tools.install", python, "--no-deps", _weights()], cwd=ROOT)
    return installed


def use_default(wheel: Path, folder: Path) -> None:
    """Import ratings, train, rank; and hear of each extra by its command."""
    installed = alone(wheel, folder, "")
    (installed.folder / "text.md").write_text("# Hiccups\n\nHold your breath for ten seconds.\n")
    sample = installed.run("python", "-c", "from rlhf_loop.sample import RATINGS_FILE; print(RATINGS_FILE)").strip()
    installed.run("rlhf-loop", "ratings", "import", sample)
    installed.run("rlhf-loop", "train")
    installed.run("rlhf-loop", "rerank", "What helps against hiccups?", "Bees.", "Hold your breath.")
    installed.run("rlhf-loop", "doctor")
    # And a first start on a machine, which writes the encoder's graph.
    code = "from pathlib import Path; from rlhf_loop.encoders import onnx_runtime as runtime, weights"
    code += "; runtime.cached_graph(weights.find_model_folder(), Path('fresh'), precision='int8')"
    installed.run("python", "-c", code)
    for extra, *command in (
        ("serve", "serve"),
        ("serve", "worker", "--once"),
        ("serve", "report"),
        ("index", "demo"),
        ("index", "index", "add", "text.md"),
        ("index", "ratings", "export", "ratings.parquet"),
        ("charts", "train", "--learning-curve"),
    ):
        said = installed.run("rlhf-loop", *command, expect=2)
        if f"pip install 'rlhf-loop[{extra}]'" not in said:
            fail(f"`rlhf-loop {' '.join(command)}` does not name the extra [{extra}]: {said[-500:]}")


def use_serve(wheel: Path, folder: Path) -> None:
    """Serve every page without an index, look for alarms, and write the report."""
    installed = alone(wheel, folder, "serve")
    with _serving(installed) as address:
        for path in _PAGES:
            _get(f"{address}{path}")
    installed.run("rlhf-loop", "alarms", "--check")
    installed.run("rlhf-loop", "report")


def use_index(wheel: Path, folder: Path) -> None:
    """Index a page of HTML, and read and write Parquet."""
    installed = alone(wheel, folder, "index")
    (installed.folder / "page.html").write_text("<h1>Hiccups</h1><p>Hold your breath for ten seconds.</p>")
    installed.run("rlhf-loop", "index", "add", "page.html")
    installed.run("rlhf-loop", "ratings", "export", "ratings.parquet")
    installed.run("rlhf-loop", "ratings", "import", "ratings.parquet")


def use_charts(wheel: Path, folder: Path) -> None:
    """Draw a learning curve."""
    code = "plot([CurvePoint(*range(len(fields(CurvePoint))))], Path('curve.png'), title='curve')"
    imports = "from dataclasses import fields; from pathlib import Path"
    imports += "; from rlhf_loop.training.learning_curve import CurvePoint, plot"
    alone(wheel, folder, "charts").run("python", "-c", f"{imports}; {code}")


def use_onnx(wheel: Path, folder: Path) -> None:
    """Write a graph that does not come with the package."""
    code = "from rlhf_loop.encoders import onnx_runtime as runtime, weights"
    code += "; file = weights.find_model_folder(None) / weights.WEIGHTS_FILE"
    code += "; print(len(runtime.minilm_graph(file, 'fp32').build().to_onnx().graph.node))"
    alone(wheel, folder, "onnx").run("python", "-c", code)


#: What each extra does where it is the only one.
_ALONE: dict[str, Callable[[Path, Path], None]] = {
    "": use_default,
    "serve": use_serve,
    "index": use_index,
    "charts": use_charts,
    "onnx": use_onnx,
}


def measure(wheel: Path, beside: str | None) -> None:
    """Install the default and each extra, and write into docs/INSTALL.md what each takes."""
    with tempfile.TemporaryDirectory(prefix="rlhf-package-") as name:
        asked = {
            f"`rlhf-loop[{extra}]`" if extra else "`rlhf-loop`": wanted(wheel, extra) for extra in (*_ALONE, "all")
        }
        if beside is not None:
            earlier = Path(name) / "earlier"
            earlier.mkdir()
            run(["sh", "-c", f"git -C '{ROOT}' archive {beside} | tar -x -C '{earlier}'"])
            before = run(["git", "-C", str(ROOT), "log", "-1", "--format=%cs", beside]).strip()
            asked[f"`rlhf-loop` as of {before}"] = wanted(build(earlier, earlier / "dist"), "")
        lines = []
        for place, (what, need) in enumerate(asked.items()):
            environment = Path(name) / str(place)
            python, begun = make(environment), _processor_s()
            # Compiled, as by pip; however slow the machine.
            command = [sys.executable, "-m", "tools.install", python, "--compile-bytecode", need]
            run(command, cwd=ROOT, env={**os.environ, "UV_COMPILE_BYTECODE_TIMEOUT": "0"})
            packages = len([*environment.rglob("*.dist-info")])
            lines.append([what, str(packages), f"{on_disk(environment):,.0f}", f"{_processor_s() - begun:.0f}"])
            click.echo(" | ".join(lines[-1]))
    header = ["install", "packages", "MB on disk", "processor seconds"]
    said = f"Measured on {today()} on {machine()}, Python {platform.python_version()}: installed by uv and compiled as "
    said += "pip does, from a cache of archives; without pip and setuptools, and without the encoder's weights (92 MB)."
    put_into(DOCS / "INSTALL.md", "sizes", f"{table(header, lines)}\n\n{said}")


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make(environment: Path) -> str:
    """Make an environment without anything, and return its Python."""
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    return str(environment / "bin" / "python")


def wanted(wheel: Path, extra: str) -> str:
    """Return the wheel with an extra as pip wants it."""
    return f"rlhf-loop{f'[{extra}]' if extra else ''} @ {wheel.as_uri()}"


def on_disk(folder: Path) -> float:
    """Return the megabytes that a folder's files take on disk, each counted once."""
    found = {stat.st_ino: stat.st_blocks for stat in (path.lstat() for path in folder.rglob("*"))}
    return 512 * sum(found.values()) / 1e6


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
    return done.stdout + done.stderr


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
