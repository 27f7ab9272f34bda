from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_process import program
from patience import PATIENCE_S

from rlhf_loop.encoders import onnx_runtime
from rlhf_loop.encoders.onnx_runtime import cached_graph
from rlhf_loop.errors import EncoderError


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Write small files in place of the graph, and list the writings."""
    calls: list[Path] = []

    def write_graph(weights: Path, target: Path, *, precision: str) -> None:
        calls.append(target)
        target.write_bytes(b"graph")
        target.with_name(f"{target.name}.data").write_bytes(b"tensors" * 1000)

    monkeypatch.setattr(onnx_runtime, "write_graph", write_graph)
    return calls


def test_the_graph_is_written_once(model_folder: Path, tmp_path: Path, written: list[Path]) -> None:
    """A second start reads the graph of the first, and nothing else is left in the folder but the lock."""
    graph = cached_graph(model_folder, tmp_path, precision="fp32")
    assert cached_graph(model_folder, tmp_path, precision="fp32") == graph
    assert len(written) == 1
    assert {path.name for path in graph.parent.parent.iterdir()} <= {graph.parent.name, f"{graph.parent.name}.lock"}


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "SHA256SUMS"])
def test_an_altered_file_is_written_anew(model_folder: Path, tmp_path: Path, written: list[Path], name: str) -> None:
    """A graph that does not match its sums is replaced, not run."""
    graph = cached_graph(model_folder, tmp_path, precision="fp32")
    file = graph.with_name(name)
    before = file.read_bytes()
    file.write_bytes(bytes([before[0] ^ 0x80]) + before[1:])
    cached_graph(model_folder, tmp_path, precision="fp32")
    assert len(written) == 2
    assert file.read_bytes() == before


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "SHA256SUMS"])
def test_a_half_written_folder_is_not_used(model_folder: Path, tmp_path: Path, written: list[Path], name: str) -> None:
    """A folder that lacks a file is written anew."""
    graph = cached_graph(model_folder, tmp_path, precision="fp32")
    graph.with_name(name).unlink()
    cached_graph(model_folder, tmp_path, precision="fp32")
    assert len(written) == 2
    assert graph.with_name(name).exists()


def test_what_a_killed_process_left_is_cleared_away(model_folder: Path, tmp_path: Path, written: list[Path]) -> None:
    """Files that a killed process had half written take no room for ever, and do not get into the graph."""
    graph = cached_graph(model_folder, tmp_path, precision="fp32")
    graph.parent.rename(graph.parent.with_name(f"{graph.parent.name}.new"))
    assert cached_graph(model_folder, tmp_path, precision="fp32") == graph
    assert len(written) == 2
    assert not list(tmp_path.glob("encoder/*.new"))


def test_an_unwritable_cache_folder_is_named(model_folder: Path, tmp_path: Path) -> None:
    """Where the graph cannot be written, the message names the folder and the setting."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EncoderError, match=r"Cannot write the encoder graph to .*file.*RLHF_CACHE_DIR"):
        cached_graph(model_folder, tmp_path / "file", precision="int8")


@pytest.fixture
def short_lived_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rlhf-cache-") as folder:
        yield Path(folder)


def test_processes_that_start_together_share_one_graph(model_folder: Path, short_lived_folder: Path) -> None:
    """Two first starts at the same moment both succeed, with the same vectors, also on a damaged graph."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from rlhf_loop.encoders.onnx_runtime import OnnxRuntime\n"
        "runtime = OnnxRuntime(Path(sys.argv[1]), Path(sys.argv[2]), precision='fp32', threads=1)\n"
        "print(runtime.encode(['bread']).tobytes().hex())\n"
    )
    graph = cached_graph(model_folder, short_lived_folder, precision="fp32")
    graph.write_bytes(b"damaged")
    processes = [program(code, model_folder, short_lived_folder, folder=short_lived_folder) for _ in range(2)]
    assert [process.wait(PATIENCE_S) for process in processes] == [0, 0]
    first, second = (process.said() for process in processes)
    assert first == second
    assert re.fullmatch(r"[0-9a-f]+\n", first)


def test_each_precision_has_its_own_graph(model_folder: Path, tmp_path: Path, written: list[Path]) -> None:
    """The graphs of 32 and 8 bits stand beside each other."""
    graphs = {cached_graph(model_folder, tmp_path, precision=precision) for precision in ("fp32", "int8")}
    assert len(graphs) == len(written) == 2
