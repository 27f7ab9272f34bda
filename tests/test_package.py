"""The wheel holds what the package needs, and nothing else; `make package` installs and uses it."""

from __future__ import annotations

import re
import subprocess
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from rlhf_loop.version import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
#: Modules at the root of the checkout that others import.
DOORS = {"rlhf_reranker.py", "model_utils.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    return zipfile.ZipFile(next(WheelBuilder(str(ROOT)).build(directory=str(folder))))


def in_wheel(wheel: zipfile.ZipFile, *, metadata: bool) -> set[str]:
    return {name for name in wheel.namelist() if (".dist-info/" in name) is metadata}


def test_the_wheel_has_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Each file of the package that git knows or could know: templates, scripts, migrations, the sample, py.typed."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "rlhf_loop"]
    known = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    there = {name for name in known if (ROOT / name).exists()}
    assert in_wheel(wheel, metadata=False) == there | DOORS
    for name in (
        "py.typed",
        "sample/ratings.jsonl",
        "store/migrations/script.py.mako",
        "encoders/int8_calibration.npz",
    ):
        assert f"rlhf_loop/{name}" in wheel.namelist()


def test_what_the_wheel_says_of_itself(wheel: zipfile.ZipFile) -> None:
    """Its name, version, licence, Python and extras, the README as its description, and the command."""
    (name,) = (name for name in in_wheel(wheel, metadata=True) if name.endswith("/METADATA"))
    metadata = message_from_string(wheel.read(name).decode())
    assert (metadata["Name"], metadata["Version"]) == ("rlhf-loop", __version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert set(metadata.get_all("Provides-Extra", ())) == set(PROJECT["optional-dependencies"])
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text("utf-8").strip()
    (entries,) = (name for name in in_wheel(wheel, metadata=True) if name.endswith("/entry_points.txt"))
    assert "rlhf-loop = rlhf_loop.cli:main" in wheel.read(entries).decode()


def test_the_default_install_has_no_torch(wheel: zipfile.ZipFile) -> None:
    """Nor anything that brings it; the extra [torch] does."""
    names = " ".join(PROJECT["dependencies"])
    assert "torch" not in names
    assert "transformers" not in names


def test_the_default_install_has_no_server_and_no_index() -> None:
    """What ranks and trains brings nothing that draws, serves or searches, nor ONNX's library; [all] has the four."""
    extras = PROJECT["optional-dependencies"]
    names = {re.split(r"[\[<>=]", need)[0] for need in PROJECT["dependencies"]}
    heavy = {"flask", "gunicorn", "lancedb", "matplotlib", "onnx", "pyarrow", "scikit-learn", "scipy"}
    assert names & heavy == set()
    assert extras["all"] == ["rlhf-loop[charts,index,onnx,serve]"]
    assert heavy <= {
        re.split(r"[\[<>=]", need)[0] for name in ("charts", "index", "onnx", "serve") for need in extras[name]
    }
