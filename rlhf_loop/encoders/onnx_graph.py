"""all-MiniLM-L6-v2 as an ONNX graph, written straight from the safetensors file, without torch.

The graph is the published architecture in standard operators (opset 23, whose `Attention` ONNX Runtime has a fast
kernel for): embeddings, six post-norm transformer layers (Devlin et al. 2019, "BERT"), the mean over real tokens, L2
normalisation. It takes `input_ids` and `attention_mask` (int32, batch x tokens) and gives `embedding` (float32,
batch x 384). Inside, the tokens of all texts stand in one matrix; only attention has to know where a text ends.

With its products in 8 bits it takes about half the time and memory (`make bench`): weights are rounded to signed 8
bits, one scale an output channel; inputs to unsigned 8 bits, with ranges from the calibration. Attention itself, GELU
and the norms stay in 32 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rlhf_loop.encoders.weights import INPUTS, Calibration

LAYERS = 6
HEADS = 12
DIMENSION = 384
#: ONNX Runtime's own operators, beside the standard ones.
MICROSOFT = "com.microsoft"
_EPSILON = 1e-12
_OPSET = 23
_IR_VERSION = 11

Weights = Mapping[str, NDArray[np.float32]]


def save_graph(model: onnx.ModelProto, target: Path) -> None:
    """Write the graph to `target`, its tensors to a second file beside it (`target` + ".data", mapped when loaded)."""
    onnx.save_model(
        model, target, save_as_external_data=True, all_tensors_to_one_file=True, location=target.name + ".data"
    )


class Graph:
    """Nodes and tensors in the making. Each method adds some and returns the name of its output.

    The output of a linear layer has the layer's name, so that a calibration finds it.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, onnx.TensorProto] = {}

    def build(self) -> onnx.ModelProto:
        """Return the whole graph."""
        self._shapes()
        hidden = self._embeddings()
        for layer in range(LAYERS):
            hidden = self._layer(f"encoder.layer.{layer}.", hidden)
        self._pool(hidden)
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask")
        ]
        outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIMENSION])]
        graph = helper.make_graph(self._nodes, "all-MiniLM-L6-v2", inputs, outputs, list(self._tensors.values()))
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: int | float | str) -> str:
        domain = str(attributes.pop("domain", ""))
        node = helper.make_node(operator, inputs, [output], name=output, domain=domain)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self._nodes.append(node)
        return output

    def _tensor(self, name: str, value: NDArray[np.generic]) -> str:
        self._tensors[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def _ints(self, name: str, *values: int) -> str:
        return self._tensor(name, np.array(values, dtype=np.int64))

    def _weight(self, name: str) -> str:
        return self._tensor(name, self._weights[name])

    def _shapes(self) -> None:
        """Add "flat" and "texts", the shapes of one row a token and of batch x tokens x 384, and the mask.

        The mask is boolean, batch x 1 x tokens x tokens: no position looks at padding.
        """
        self._ints("flat", -1, DIMENSION)
        one, zero, width = self._ints("one", 1), self._ints("zero", 0), self._ints("width", DIMENSION)
        self._node("Concat", [self._node("Shape", ["input_ids"], "batch"), width], "texts", axis=0)
        tokens = self._node("Shape", ["input_ids"], "tokens", start=1, end=2)
        real = self._node("Cast", ["attention_mask"], "mask.real", to=TensorProto.BOOL)
        real = self._node("Unsqueeze", [real, self._ints("mask.axes", 1, 2)], "mask.row")
        shape = self._node("Concat", [one, one, tokens, tokens], "mask.shape", axis=0)
        self._node("Expand", [real, shape], "mask")
        # One text at a time has the token type 0 throughout, so that vector can be added to every position's.
        positions = self._tensor(
            "positions",
            self._weights["embeddings.position_embeddings.weight"]
            + self._weights["embeddings.token_type_embeddings.weight"][0],
        )
        self._node("Slice", [positions, zero, tokens, zero], "places")

    def _embeddings(self) -> str:
        summed = self._node("Add", [self._words(), "places"], "embeddings.sum")
        return self._norm("embeddings.LayerNorm", self._node("Reshape", [summed, "flat"], "embeddings.flat"))

    def _words(self) -> str:
        return self._node("Gather", [self._weight("embeddings.word_embeddings.weight"), "input_ids"], "words")

    def _layer(self, at: str, hidden: str) -> str:
        parts = [self._linear(f"{at}attention.self.{part}", hidden) for part in ("query", "key", "value")]
        inputs = [self._node("Reshape", [part, "texts"], f"{part}.texts") for part in parts]
        context = self._node("Attention", [*inputs, "mask"], f"{at}attention", q_num_heads=HEADS, kv_num_heads=HEADS)
        context = self._node("Reshape", [context, "flat"], f"{at}attention.flat")
        attended = self._add_and_norm(f"{at}attention.output", context, hidden)
        inner = self._node("Gelu", [self._linear(f"{at}intermediate.dense", attended)], f"{at}gelu")
        return self._add_and_norm(f"{at}output", inner, attended)

    def _add_and_norm(self, at: str, inputs: str, residual: str) -> str:
        added = self._node("Add", [self._linear(f"{at}.dense", inputs), residual], f"{at}.residual")
        return self._norm(f"{at}.LayerNorm", added)

    def _linear(self, name: str, inputs: str) -> str:
        matrix, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        # As torch keeps it, outputs x inputs; one row a token makes it a plain product with the bias added on the way.
        return self._node("Gemm", [inputs, matrix, bias], name, transB=1)

    def _norm(self, name: str, inputs: str) -> str:
        scale, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self._node("LayerNormalization", [inputs, scale, bias], name, epsilon=_EPSILON)

    def _pool(self, hidden: str) -> None:
        hidden = self._node("Reshape", [hidden, "texts"], "pool.texts")
        real = self._node("Cast", ["attention_mask"], "pool.real", to=TensorProto.FLOAT)
        weight = self._node("Unsqueeze", [real, self._ints("pool.last", -1)], "pool.weight")
        masked = self._node("Mul", [hidden, weight], "pool.masked")
        total = self._node("ReduceSum", [masked, "one"], "pool.total", keepdims=0)
        count = self._node("ReduceSum", [real, "one"], "pool.count", keepdims=1)
        mean = self._node("Div", [total, count], "pool.mean")
        self._node("LpNormalization", [mean], "embedding", axis=1, p=2)


_INPUT_OF = {layer: name for name, layers in INPUTS.items() for layer in layers}


class Int8Graph(Graph):
    """The same graph with another kind of linear layer, and the word vectors in 16 bits.

    The product is ONNX Runtime's own operator: it adds the bias in the same step, which the standard ones do not.
    Its `SkipLayerNormalization` is not used: it was far slower here than a sum and a norm.
    """

    def __init__(self, weights: Weights, calibration: Mapping[str, Calibration]) -> None:
        super().__init__(weights)
        self._calibration = calibration
        self._rounded: dict[str, list[str]] = {}

    def _words(self) -> str:
        table = self._weights["embeddings.word_embeddings.weight"].astype(np.float16)
        words = self._node("Gather", [self._tensor("words.table", table), "input_ids"], "words.half")
        return self._node("Cast", [words], "words", to=TensorProto.FLOAT)

    def _linear(self, name: str, inputs: str) -> str:
        at = _INPUT_OF[name]
        of = self._calibration[at]
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        start = len(bias) * INPUTS[at].index(name)
        bias = bias + of.correction[start : start + len(bias)]
        smoothed = weight * of.smoothing
        smoothed[:, of.outliers] = 0
        output = self._product(name, self._round(at, inputs), smoothed, bias)
        if not len(of.outliers):
            return output
        chosen = self._node("Gather", [inputs, self._tensor(f"{name}.outliers", of.outliers)], f"{name}.large", axis=1)
        exact = self._tensor(f"{name}.exact", weight[:, of.outliers].T)
        large = self._node("MatMul", [chosen, exact], f"{name}.exact_product")
        return self._node("Add", [output, large], name)

    def _round(self, at: str, inputs: str) -> list[str]:
        """Return the names of an input in 8 bits, of its scale and of its zero point; made once for all who read it."""
        if at not in self._rounded:
            of = self._calibration[at]
            scale = (of.high - of.low) / 255
            names = [
                self._tensor(f"{at}.scale", scale.astype(np.float32)),
                self._tensor(f"{at}.zero", np.round(-of.low / scale).astype(np.uint8)),
            ]
            smooth = self._node("Mul", [inputs, self._tensor(f"{at}.smoothing", 1 / of.smoothing)], f"{at}.smooth")
            self._rounded[at] = [self._node("QuantizeLinear", [smooth, *names], f"{at}.rounded"), *names]
        return self._rounded[at]

    def _product(self, name: str, rounded: list[str], weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        scale = np.abs(weight).max(axis=1) / 127
        matrix = self._tensor(f"{name}.matrix", np.rint(weight / scale[:, np.newaxis]).astype(np.int8).T)
        scales, biases = self._tensor(f"{name}.scale", scale), self._tensor(f"{name}.bias", bias)
        output = f"{name}.product" if len(self._calibration[_INPUT_OF[name]].outliers) else name
        values, input_scale, zero = rounded
        none = self._tensor(f"{name}.zero", np.zeros(len(bias), dtype=np.int8))
        inputs = [values, matrix, input_scale, scales, zero, none, biases]
        return self._node("MatMulIntegerToFloat", inputs, output, domain=MICROSOFT)
