from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rlhf_loop import sources
from rlhf_loop.config import Settings
from rlhf_loop.domain import Passage
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import ConfigError
from rlhf_loop.sources import Source, sources_from
from rlhf_loop.sources.arxiv import ArxivSource
from rlhf_loop.sources.wikipedia import WikipediaSource


@dataclass
class Own:
    """A source of a user's."""

    name: str = "own"

    def search(self, query: str, *, limit: int) -> Sequence[Passage]:
        return [Passage(text=query)][:limit]


class Configured(Own):
    def __init__(self, settings: Settings) -> None:
        super().__init__(name=f"in {settings.language}")


class Retriever:
    name = None

    def invoke(self, query: str) -> list[Any]:
        return []


class Holder:
    inside = Own("inside")


ready = Own("ready")
retriever = Retriever()
number = 7
HERE = __name__


def from_settings(settings: Settings) -> Source:
    return Own(f"from {settings.language}")


def retriever_from_settings(_: Settings) -> Retriever:
    return retriever


def nothing(_: Settings) -> None:
    return None


def broken(_: Settings) -> None:
    raise ValueError("its own trouble")


def chosen(*names: str, **settings: Any) -> list[str]:
    return [source.name for source in sources_from(Settings(sources=names, **settings), encoder=None)]


def test_the_settings_choose(tmp_path: Path) -> None:
    """Sources come in the order of the settings; none at all is a choice, too."""
    assert chosen("arxiv", "wikipedia", cache_dir=tmp_path) == ["arxiv", "wikipedia"]
    assert chosen() == []


def test_warming_up_asks_nobody(tmp_path: Path) -> None:
    """Preparing reads certificates and sends nothing."""
    settings = Settings(
        cache_dir=tmp_path, wikipedia_url="https://nowhere.invalid/", arxiv_url="https://nowhere.invalid/"
    )
    for source in (WikipediaSource(settings), ArxivSource(settings)):
        source.warm_up()
    assert list(tmp_path.iterdir()) == []


def test_corrections_are_one_of_them(encoder: TextEncoder, tmp_path: Path) -> None:
    """Approved corrections are a source by that name, with an encoder and without."""
    settings = Settings(sources=("corrections",), database_url=f"sqlite:///{tmp_path / 'rlhf.db'}")
    for given in (encoder, None):
        assert [source.name for source in sources_from(settings, encoder=given)] == ["corrections"]
    assert list(tmp_path.iterdir()) == []


def test_the_index_is_one_of_them(encoder: TextEncoder, tmp_path: Path) -> None:
    """The vector database is a source by the name of index, and needs an encoder."""
    database = f"sqlite:///{tmp_path / 'rlhf.db'}"
    settings = Settings(sources=("index",), index_path=tmp_path / "index", database_url=database)
    assert [source.name for source in sources_from(settings, encoder=encoder)] == ["index"]
    with pytest.raises(ValueError, match="needs an encoder"):
        sources_from(settings, encoder=None)


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("ready", "ready"),
        ("Own", None),
        ("Configured", "in en"),
        ("from_settings", "from en"),
        ("Holder.inside", "inside"),
        ("retriever", "retriever"),
        ("retriever_from_settings", "retriever_from_settings"),
    ],
)
def test_sources_of_ones_own(entry: str, name: str | None) -> None:
    """A source, a retriever of LangChain, or what makes one of the settings is named by module and name."""
    if name is None:
        with pytest.raises(ConfigError, match="not a source"):
            chosen(f"{HERE}:{entry}")
    else:
        assert chosen(f"{HERE}:{entry}") == [name]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "wiki",
            r"'wiki', which is unknown\. Known are corrections, index, wikipedia, arxiv, and package\.module:name",
        ),
        ("", "which is unknown"),
        ("Wikipedia", "which is unknown"),
        ("no.such.module:name", r"there is no module 'no\.such\.module'"),
        (f"{HERE}.more:name", "there is no module"),
        (":name", "there is no module ''"),
        (".relative:name", "there is no module"),
        (f"{HERE}:missing", "has no 'missing'"),
        (f"{HERE}:", "has no ''"),
        (f"{HERE}:ready.missing", r"has no 'ready\.missing'"),
        (f"{HERE}:number", "gives int and not a source"),
        (f"{HERE}:nothing", "gives NoneType and not a source"),
    ],
)
def test_entries_that_are_none(entry: str, message: str) -> None:
    """A value that is not a source is refused, with the setting, the value, and what is known."""
    with pytest.raises(ConfigError, match=message) as error:
        chosen(entry)
    assert "RLHF_SOURCES" in str(error.value)


def test_a_source_twice(tmp_path: Path) -> None:
    """Two sources of one name could not be told apart."""
    for names in (("wikipedia", "wikipedia"), (f"{HERE}:ready", f"{HERE}:ready")):
        with pytest.raises(ConfigError, match=r"Two sources have the name .*Take one of them out"):
            chosen(*names, cache_dir=tmp_path)


def test_a_broken_module_shows_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user's module or function raises is not hidden behind a message of ours."""
    (tmp_path / "broken_source.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        chosen("broken_source:name")
    with pytest.raises(ValueError, match="its own trouble"):
        chosen(f"{HERE}:broken")


def test_what_the_package_offers() -> None:
    """`__all__` is sorted, and each name in it is there."""
    assert list(sources.__all__) == sorted(set(sources.__all__))
    assert all(getattr(sources, name) is not None for name in sources.__all__)


def test_the_package_is_light() -> None:
    """Importing it loads neither numpy nor an HTTP client nor a database."""
    code = "import sys, rlhf_loop.sources; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    tops = {name.partition(".")[0] for name in loaded}
    assert (
        tops & {"numpy", "lancedb", "pyarrow", "httpx2", "httpcore2", "sqlalchemy", "filelock", "onnxruntime"} == set()
    )
    assert importlib.import_module("rlhf_loop.sources.http")  # the client is there when it is needed
