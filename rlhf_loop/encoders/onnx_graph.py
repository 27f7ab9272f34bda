"""all-MiniLM-L6-v2 as an ONNX graph, written straight from the safetensors file, without torch.

The graph is the published architecture in standard operators (opset 23, whose `Attention` ONNX Runtime has a fast
kernel for): embeddings, six post-norm transformer layers (Devlin et al. 2019, "BERT"), the mean over real tokens, L2
normalisation. It takes `input_ids` and `attention_mask` (int32, batch x tokens) and gives `embedding` (float32,
batch x 384).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

LAYERS = 6
HEADS = 12
DIMENSION = 384
_EPSILON = 1e-12
_OPSET = 23
_IR_VERSION = 11


def write_graph(weights: Path, target: Path) -> None:
    """Write the graph to `target`, its tensors to a second file beside it (`target` + ".data", mapped when loaded)."""
    model = _Graph(load_file(weights)).build()
    onnx.save_model(
        model, target, save_as_external_data=True, all_tensors_to_one_file=True, location=target.name + ".data"
    )


class _Graph:
    """Nodes and tensors in the making. Each method adds some and returns the name of its output."""

    def __init__(self, weights: dict[str, NDArray[np.float32]]) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []

    def build(self) -> onnx.ModelProto:
        mask = self._attention_mask()
        hidden = self._embeddings()
        for layer in range(LAYERS):
            hidden = self._layer(f"encoder.layer.{layer}.", hidden, mask)
        self._pool(hidden)
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask")
        ]
        outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIMENSION])]
        graph = helper.make_graph(self._nodes, "all-MiniLM-L6-v2", inputs, outputs, self._tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: int | float) -> str:
        node = helper.make_node(operator, inputs, [output], name=output)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self._nodes.append(node)
        return output

    def _tensor(self, name: str, value: NDArray[np.generic]) -> str:
        self._tensors.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _ints(self, name: str, *values: int) -> str:
        return self._tensor(name, np.array(values, dtype=np.int64))

    def _weight(self, name: str) -> str:
        return self._tensor(name, self._weights[name])

    def _attention_mask(self) -> str:
        """Boolean, batch x 1 x tokens x tokens: no position looks at padding."""
        real = self._node("Cast", ["attention_mask"], "mask.real", to=TensorProto.BOOL)
        real = self._node("Unsqueeze", [real, self._ints("mask.axes", 1, 2)], "mask.row")
        tokens = self._node("Shape", ["input_ids"], "tokens", start=1, end=2)
        one = self._ints("one", 1)
        shape = self._node("Concat", [one, one, tokens, tokens], "mask.shape", axis=0)
        return self._node("Expand", [real, shape], "mask")

    def _embeddings(self) -> str:
        words = self._node("Gather", [self._weight("embeddings.word_embeddings.weight"), "input_ids"], "words")
        # One text at a time has the token type 0 throughout, so that vector can be added to every position's.
        positions = self._tensor(
            "positions",
            self._weights["embeddings.position_embeddings.weight"]
            + self._weights["embeddings.token_type_embeddings.weight"][0],
        )
        zero = self._ints("zero", 0)
        places = self._node("Slice", [positions, zero, "tokens", zero], "places")
        return self._norm("embeddings.LayerNorm", self._node("Add", [words, places], "embeddings.sum"))

    def _layer(self, at: str, hidden: str, mask: str) -> str:
        query, key, value = (self._linear(f"{at}attention.self.{part}", hidden) for part in ("query", "key", "value"))
        inputs = [query, key, value, mask]
        context = self._node("Attention", inputs, f"{at}attention", q_num_heads=HEADS, kv_num_heads=HEADS)
        projected = self._linear(f"{at}attention.output.dense", context)
        attended = self._node("Add", [projected, hidden], f"{at}attention.residual")
        attended = self._norm(f"{at}attention.output.LayerNorm", attended)
        inner = self._node("Gelu", [self._linear(f"{at}intermediate.dense", attended)], f"{at}gelu")
        outer = self._node("Add", [self._linear(f"{at}output.dense", inner), attended], f"{at}residual")
        return self._norm(f"{at}output.LayerNorm", outer)

    def _linear(self, name: str, inputs: str) -> str:
        # torch keeps a linear layer's matrix as outputs x inputs; MatMul wants it the other way round.
        matrix = self._tensor(f"{name}.matrix", self._weights[f"{name}.weight"].T)
        product = self._node("MatMul", [inputs, matrix], f"{name}.product")
        return self._node("Add", [product, self._weight(f"{name}.bias")], name)

    def _norm(self, name: str, inputs: str) -> str:
        scale, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self._node("LayerNormalization", [inputs, scale, bias], name, epsilon=_EPSILON)

    def _pool(self, hidden: str) -> None:
        real = self._node("Cast", ["attention_mask"], "pool.real", to=TensorProto.FLOAT)
        weight = self._node("Unsqueeze", [real, self._ints("pool.last", -1)], "pool.weight")
        masked = self._node("Mul", [hidden, weight], "pool.masked")
        total = self._node("ReduceSum", [masked, "one"], "pool.total", keepdims=0)
        count = self._node("ReduceSum", [real, "one"], "pool.count", keepdims=1)
        mean = self._node("Div", [total, count], "pool.mean")
        self._node("LpNormalization", [mean], "embedding", axis=1, p=2)
