"""Write the graphs of all-MiniLM-L6-v2 that come with the package: whole and in two parts, without their weights.

    python -m tools.graphs

Run it when a graph or the calibration changes (`GRAPH_VERSION`, `CALIBRATION_VERSION`): a test holds the file against
what ONNX's library writes now. It holds the layout alone, and small tensors of the calibration, so that a machine
with the weights needs no onnx.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from rlhf_loop.encoders import weights
from rlhf_loop.encoders.onnx_graph import MINILM, SHIPPED_FILE
from rlhf_loop.encoders.onnx_runtime import GRAPH_FILE, Part, Tensors, minilm_graph, parts
from rlhf_loop.encoders.tuned import from_layer


def main() -> None:
    """Write them all into one file."""
    write(SHIPPED_FILE)
    sys.stderr.write(f"{SHIPPED_FILE.name}: {SHIPPED_FILE.stat().st_size:,} bytes\n")


def write(target: Path) -> None:
    """Write them to `target`; the same graphs make the same bytes."""
    with ZipFile(target, "w", ZIP_DEFLATED, compresslevel=9) as file:
        for name, content in sorted(shipped().items()):
            file.writestr(ZipInfo(name), content, ZIP_DEFLATED, 9)


def shipped() -> dict[str, bytes]:
    """Return the bytes of each graph, by its digest."""
    found = {}
    for precision in ("fp32", "int8"):
        for part in _parts(precision):
            places = part.model.places(f"{part.file}.data", part.without)
            found[part.model.digest(places)] = part.model.to_onnx(places).SerializeToString()
    return found


def _parts(precision: str) -> Iterator[Part]:
    file = weights.find_model_folder() / weights.WEIGHTS_FILE
    graph, tensors = partial(minilm_graph, file, precision), Tensors(file)
    yield Part(GRAPH_FILE, graph().build())
    for first in range(1, MINILM.layers):
        upper = {name: tensors[name] for name in from_layer(tensors, first)}
        yield from parts(graph, first, upper if precision == "fp32" else weights.in_int8(upper))


if __name__ == "__main__":
    main()
