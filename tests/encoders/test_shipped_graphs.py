from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import tiny_encoders

from rlhf_loop.encoders.folder import load_runtime, read_folder
from rlhf_loop.encoders.onnx_graph import SHIPPED_FILE
from rlhf_loop.encoders.onnx_runtime import OnnxRuntime, Tensors
from rlhf_loop.encoders.tuned import TunedLayers, from_layer
from rlhf_loop.encoders.weights import WEIGHTS_FILE
from rlhf_loop.errors import MissingExtraError
from tools import graphs


@pytest.fixture
def _without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnx"]:
        monkeypatch.delitem(sys.modules, name)
    # What Python itself looks at first: None in its place is a module that is not there.
    monkeypatch.setitem(sys.modules, "onnx", None)


def test_the_file_is_what_the_library_writes() -> None:
    """The graphs that come with the package are those that ONNX's own library makes of the weights, all of them."""
    with ZipFile(SHIPPED_FILE) as file:
        assert {name: file.read(name) for name in file.namelist()} == graphs.shipped()


@pytest.mark.usefixtures("_without_onnx")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_all_minilm_needs_no_onnx(model_folder: Path, tmp_path: Path, precision: str) -> None:
    """A first start writes the graph without the library, whole and in two parts for tuned layers."""
    runtime = OnnxRuntime(model_folder, tmp_path, precision=precision, threads=1)
    weights = Tensors(model_folder / WEIGHTS_FILE)
    upper = {name: weights[name] for name in from_layer(weights, 4)}
    layers = TunedLayers(
        encoder=runtime.id, first=4, tensors=upper, question_tokens=64, passages=2, a=1.0, b=0.0, w=np.zeros(384)
    )
    before = runtime.encode(["bread", "a longer text about bees"])
    assert np.allclose(runtime.tuned(layers).encode(["bread", "a longer text about bees"]), before, atol=1e-5)


@pytest.mark.usefixtures("_without_onnx")
def test_an_encoder_of_ones_own_names_the_extra(tmp_path: Path) -> None:
    """The graph of another encoder is written by the library: where it is missing, its command is said."""
    tiny_encoders.write(tmp_path)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlhf-loop\[onnx\]'"):
        load_runtime(read_folder(tmp_path), tmp_path / "cache", threads=1)
