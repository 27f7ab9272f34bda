"""Sentence encoders as ONNX graphs, written straight from their weights, without torch.

A graph is nodes and tensors; ONNX's own library makes a file of them (extra [onnx]). Those of all-MiniLM-L6-v2, which
are the same everywhere but for the weights, come with the package (`python -m tools.graphs` writes them): the tensors
go into a file beside, so no library is needed.

A graph is the published architecture in standard operators (opset 23, whose `Attention` ONNX Runtime has a fast kernel
for). It takes `input_ids` and `attention_mask` (int32, batch x tokens). Inside, the tokens of all texts stand in one
matrix; only attention has to know where a text ends.

`Graph` is BERT: embeddings, post-norm transformer layers (Devlin et al. 2019, "BERT"), and for all-MiniLM-L6-v2 the
mean over real tokens and L2 normalisation, `embedding` (float32, batch x 384). The other transformers give `hidden`
(float32, batch x tokens x width), which is pooled by whoever runs them.

With its products in 8 bits, all-MiniLM-L6-v2 takes about half the time and memory (`make bench`): weights are rounded
to signed 8 bits, one scale an output channel; inputs to unsigned 8 bits, with ranges from the calibration. Attention
itself, GELU and the norms stay in 32 bits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.encoders.tuned import BELOW
from rlhf_loop.encoders.weights import INPUT_OF, Calibration
from rlhf_loop.utils.extras import require

if TYPE_CHECKING:
    import onnx

#: ONNX Runtime's own operators, beside the standard ones.
MICROSOFT = "com.microsoft"
_OPSET = 23
_IR_VERSION = 11
#: Types of numbers, as ONNX's format counts them.
_FLOAT, _INT32, _BOOL = 1, 6, 9
#: Graphs without their large tensors, each under its `digest`.
SHIPPED_FILE = Path(__file__).parent / "minilm_graphs.zip"
#: Bytes from which on a tensor stands in the file beside the graph.
_LARGE = 1024
#: What is added to a score so that nothing is left of it.
_NEVER = -1e9

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Form:
    """The measures of a transformer, with the defaults of all-MiniLM-L6-v2.

    `first` is the position of the first token, and `approximate` the way in which GELU is computed.
    """

    layers: int = 6
    heads: int = 12
    width: int = 384
    epsilon: float = 1e-12
    first: int = 0
    approximate: str = "none"


#: That of all-MiniLM-L6-v2.
MINILM = Form()


@dataclass(frozen=True, slots=True)
class Head:
    """The head by which a cross-encoder scores a pair: linear layers and norms, with the operator behind each, if any.

    They read the vector of the first token, or the mean over all. `types` says whether the embeddings tell question and
    passage apart.
    """

    layers: tuple[tuple[str, str], ...]
    mean: bool = False
    types: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """An operator with its inputs and outputs; "" is the domain of the standard ones."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, int | float | str], ...]
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of a graph, of numbers of a type."""

    name: str
    type: int
    shape: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A whole graph."""

    name: str
    inputs: tuple[Value, ...]
    output: Value
    nodes: Sequence[Node]
    tensors: Mapping[str, NDArray[np.generic]]

    def places(self, file: str, without: Container[str] = ()) -> Places:
        """Place large tensors in `file`, or instead those that the graph is to be `without` in files of their names."""
        if without:
            return {name: (name, 0, value.nbytes) for name, value in self.tensors.items() if name in without}
        found, end = {}, 0
        for name, value in self.tensors.items():
            if value.nbytes >= _LARGE:
                found[name] = file, end, value.nbytes
                end += value.nbytes
        return found

    def digest(self, places: Places) -> str:
        """Return the sum of all that the graph's file holds when those tensors stand elsewhere."""
        tensors = [(name, value.dtype.str, value.shape, places.get(name)) for name, value in self.tensors.items()]
        parts = _IR_VERSION, _OPSET, self.name, self.inputs, self.output, list(self.nodes), tensors
        found = hashlib.sha256(repr(parts).encode())
        for name, value in self.tensors.items():
            if name not in places:
                found.update(value.tobytes())
        return found.hexdigest()

    def to_onnx(self, places: Places | None = None) -> onnx.ModelProto:
        """Return it as ONNX has it, without the tensors that stand elsewhere.

        Raises:
            MissingExtraError: onnx is not installed.
        """
        helper = require("onnx.helper", "onnx")
        numpy_helper, outside = require("onnx.numpy_helper", "onnx"), require("onnx.external_data_helper", "onnx")
        nodes, tensors = [], []
        for node in self.nodes:
            named = {"name": node.outputs[0]} if len(node.outputs) == 1 else {}
            made = helper.make_node(node.operator, node.inputs, node.outputs, domain=node.domain, **named)
            made.attribute.extend(helper.make_attribute(name, value) for name, value in node.attributes)
            nodes.append(made)
        for name, value in self.tensors.items():
            tensor = numpy_helper.from_array(value, name)
            if places and name in places:
                outside.set_external_data(tensor, *places[name])
                tensor.ClearField("raw_data")
            tensors.append(tensor)
        inputs, outputs = (
            [helper.make_tensor_value_info(each.name, each.type, each.shape) for each in values]
            for values in (self.inputs, [self.output])
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        graph = helper.make_graph(nodes, self.name, inputs, outputs, tensors)
        whole: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return whole


#: Of tensors that do not stand in the graph the file, where they begin in it, and their bytes.
Places = Mapping[str, tuple[str, int, int]]


def save_graph(model: Model, target: Path, *, without: Container[str] = ()) -> None:
    """Write the graph to `target`, its large tensors to a file beside it (`target` + ".data", mapped when loaded).

    `without` some tensors all others are in the graph itself, and whoever loads it gives those, by their names.

    Raises:
        MissingExtraError: it does not come with the package, and onnx is not installed.
    """
    beside = target.with_name(f"{target.name}.data")
    places = model.places(beside.name, without)
    target.write_bytes(_shipped(model.digest(places)) or model.to_onnx(places).SerializeToString())
    if not without:
        with beside.open("wb") as file:
            for name in places:
                file.write(model.tensors[name].tobytes())


def _shipped(digest: str) -> bytes | None:
    with ZipFile(SHIPPED_FILE) as graphs:
        return graphs.read(digest) if digest in graphs.namelist() else None


class Nodes:
    """Nodes and tensors in the making. Each method adds some and returns the name of its output.

    The output of a linear layer has the layer's name, so that a calibration finds it.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._nodes: list[Node] = []
        self._tensors: dict[str, NDArray[np.generic]] = {}

    def _model(self, name: str, output: str, *shape: str | int, below: int = 0, types: bool = False) -> Model:
        """Return the graph, which reads tokens, or of each the so many numbers that layers below have made of it.

        With `types` it reads which of two texts each token belongs to as well.
        """
        names = ["input_ids"] * (not below) + ["attention_mask"] + ["token_type_ids"] * types
        inputs = [Value(name, _INT32, ("batch", "tokens")) for name in names]
        if below:
            inputs.insert(0, Value(BELOW, _FLOAT, ("batch", "tokens", below)))
        return Model(name, tuple(inputs), Value(output, _FLOAT, ("batch", *shape)), self._nodes, self._tensors)

    def _node(
        self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: int | float | str
    ) -> str:
        self._nodes.append(Node(operator, tuple(inputs), (output,), tuple(attributes.items()), domain))
        return output

    def _split(self, whole: str, parts: list[str], *, axis: int) -> None:
        attributes = (("axis", axis), ("num_outputs", len(parts)))
        self._nodes.append(Node("Split", (whole,), tuple(parts), attributes))

    def _tensor(self, name: str, value: NDArray[np.generic]) -> str:
        self._tensors[name] = np.ascontiguousarray(value)
        return name

    def _ints(self, name: str, *values: int) -> str:
        return self._tensor(name, np.array(values, dtype=np.int64))

    def _weight(self, name: str) -> str:
        return self._tensor(name, self._weights[name])


class Graph(Nodes):
    """BERT, and what has its layers: RoBERTa, XLM-R. By default all-MiniLM-L6-v2, down to the text's vector."""

    def __init__(self, weights: Weights, form: Form = MINILM, *, pooled: bool = True) -> None:
        super().__init__(weights)
        self._form = form
        self._pooled = pooled
        self._types = False

    def build(self, *, start: int = 0, stop: int | None = None, head: Head | None = None) -> Model:
        """Return the graph of the layers from `start` to before `stop`, by default the whole encoder.

        Layers that are not the first take `below` (float32, batch x tokens x width) in place of tokens; those that are
        not the last give `hidden`. With a `head` it is a cross-encoder, which gives `logits` (float32, batch x 1).
        """
        width, end = self._form.width, self._form.layers if stop is None else stop
        self._types = head is not None and head.types
        self._shapes(width)
        self._prepare()
        hidden = self._node("Reshape", [BELOW, "flat"], "below.flat") if start else self._embeddings()
        for layer in range(start, end):
            hidden = self._layer(layer, hidden)
        below = width if start else 0
        if end == self._form.layers:
            hidden = self._last(hidden)
            if head is not None:
                self._score(hidden, head)
                return self._model("cross-encoder", "logits", 1, types=self._types)
            if self._pooled:
                self._pool(hidden)
                return self._model("all-MiniLM-L6-v2", "embedding", width, below=below)
        self._node("Reshape", [hidden, "texts"], "hidden")
        return self._model("encoder", "hidden", "tokens", width, below=below)

    def _shapes(self, width: int) -> None:
        """Add "flat" and "texts", the shapes of one row a token and of batch x tokens x width, and the mask.

        The mask is boolean, batch x 1 x tokens x tokens: no position looks at padding.
        """
        self._ints("flat", -1, width)
        one, width_ = self._ints("one", 1), self._ints("width", width)
        self._node("Concat", [self._node("Shape", ["attention_mask"], "batch"), width_], "texts", axis=0)
        tokens = self._node("Shape", ["attention_mask"], "tokens", start=1, end=2)
        real = self._node("Cast", ["attention_mask"], "mask.real", to=_BOOL)
        real = self._node("Unsqueeze", [real, self._ints("mask.axes", 1, 2)], "mask.row")
        shape = self._node("Concat", [one, one, tokens, tokens], "mask.shape", axis=0)
        self._node("Expand", [real, shape], "mask")

    def _first_rows(self, name: str, rows: NDArray[np.float32], output: str) -> str:
        """Return as many rows of a tensor as a text has tokens."""
        zero = self._ints("zero", 0)
        return self._node("Slice", [self._tensor(name, rows), zero, "tokens", zero], output)

    def _linear(self, name: str, inputs: str) -> str:
        matrix, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        # As torch keeps it, outputs x inputs; one row a token makes it a plain product with the bias added on the way.
        return self._node("Gemm", [inputs, matrix, bias], name, transB=1)

    def _norm(self, name: str, inputs: str, *, epsilon: float) -> str:
        scale, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self._node("LayerNormalization", [inputs, scale, bias], name, epsilon=epsilon)

    def _prepare(self) -> None:
        """Add what all layers need."""

    def _positions(self) -> NDArray[np.float32]:
        """Return what is added to a token by its place."""
        places = self._weights["embeddings.position_embeddings.weight"]
        if self._types:
            return places
        # One text at a time has the token type 0 throughout, so that vector can be added to every position's.
        typed: NDArray[np.float32] = places + self._weights["embeddings.token_type_embeddings.weight"][0]
        return typed

    def _embeddings(self) -> str:
        self._first_rows("positions", self._positions()[self._form.first :], "places")
        words = self._words()
        if self._types:
            types = self._weight("embeddings.token_type_embeddings.weight")
            words = self._node("Add", [words, self._node("Gather", [types, "token_type_ids"], "types")], "words.typed")
        summed = self._node("Add", [words, "places"], "embeddings.sum")
        flat = self._node("Reshape", [summed, "flat"], "embeddings.flat")
        return self._norm("embeddings.LayerNorm", flat, epsilon=self._form.epsilon)

    def _words(self) -> str:
        return self._node("Gather", [self._weight("embeddings.word_embeddings.weight"), "input_ids"], "words")

    def _layer(self, layer: int, hidden: str) -> str:
        at = f"encoder.layer.{layer}."
        parts = [self._linear(f"{at}attention.self.{part}", hidden) for part in ("query", "key", "value")]
        context = self._attention(at, parts, "mask")
        attended = self._add_and_norm(f"{at}attention.output.dense", f"{at}attention.output.LayerNorm", context, hidden)
        return self._feed_forward(at, attended)

    def _attention(self, at: str, parts: list[str], mask: str) -> str:
        inputs = [self._node("Reshape", [part, "texts"], f"{part}.texts") for part in parts]
        heads = self._form.heads
        context = self._node("Attention", [*inputs, mask], f"{at}attention", q_num_heads=heads, kv_num_heads=heads)
        return self._node("Reshape", [context, "flat"], f"{at}attention.flat")

    def _feed_forward(self, at: str, attended: str) -> str:
        inner = self._gelu(self._linear(f"{at}intermediate.dense", attended), f"{at}gelu")
        return self._add_and_norm(f"{at}output.dense", f"{at}output.LayerNorm", inner, attended)

    def _gelu(self, inputs: str, output: str) -> str:
        if self._form.approximate == "none":
            return self._node("Gelu", [inputs], output)
        return self._node("Gelu", [inputs], output, approximate=self._form.approximate)

    def _add_and_norm(self, dense: str, norm: str, inputs: str, residual: str) -> str:
        added = self._node("Add", [self._linear(dense, inputs), residual], f"{norm.rpartition('.')[0]}.residual")
        return self._norm(norm, added, epsilon=self._form.epsilon)

    def _last(self, hidden: str) -> str:
        """Return what follows the last layer."""
        return hidden

    def _score(self, hidden: str, head: Head) -> None:
        """Add the score of each pair."""
        if head.mean:
            vector = self._mean(hidden)
        else:
            texts = self._node("Reshape", [hidden, "texts"], "pairs")
            first = self._node("Gather", [texts, self._ints("pair.place", 0)], "pair.first", axis=1)
            vector = self._node("Reshape", [first, "flat"], "pair")
        for name, operator in head.layers:
            vector = self._plain_norm(name, vector) if name.endswith("norm") else self._product(name, vector)
            vector = self._node(operator, [vector], f"{name}.{operator.lower()}") if operator else vector
        self._node("Identity", [vector], "logits")

    def _product(self, name: str, inputs: str) -> str:
        """Add a linear layer, with or without a bias."""
        if f"{name}.bias" in self._weights:
            return self._linear(name, inputs)
        return self._node("Gemm", [inputs, self._weight(f"{name}.weight")], name, transB=1)

    def _plain_norm(self, name: str, inputs: str) -> str:
        """Add a norm, with or without a bias."""
        if f"{name}.bias" in self._weights:
            return self._norm(name, inputs, epsilon=self._form.epsilon)
        scale = self._weight(f"{name}.weight")
        return self._node("LayerNormalization", [inputs, scale], name, epsilon=self._form.epsilon)

    def _pool(self, hidden: str) -> None:
        self._node("LpNormalization", [self._mean(hidden)], "embedding", axis=1, p=2)

    def _mean(self, hidden: str) -> str:
        """Add the mean over real tokens."""
        hidden = self._node("Reshape", [hidden, "texts"], "pool.texts")
        real = self._node("Cast", ["attention_mask"], "pool.real", to=_FLOAT)
        weight = self._node("Unsqueeze", [real, self._ints("pool.last", -1)], "pool.weight")
        masked = self._node("Mul", [hidden, weight], "pool.masked")
        total = self._node("ReduceSum", [masked, "one"], "pool.total", keepdims=0)
        count = self._node("ReduceSum", [real, "one"], "pool.count", keepdims=1)
        return self._node("Div", [total, count], "pool.mean")


class MPNetGraph(Graph):
    """MPNet (Song et al. 2020): BERT whose attention knows how far apart two tokens are; pooled by the caller."""

    #: Distances that share a number, and from which on all do (T5's scheme, in both directions).
    _BUCKETS, _FAR = 32, 128

    def __init__(self, weights: Weights, form: Form, *, window: int) -> None:
        super().__init__(weights, form, pooled=False)
        self._window = window

    def _positions(self) -> NDArray[np.float32]:
        return self._weights["embeddings.position_embeddings.weight"]

    def _prepare(self) -> None:
        place = np.arange(self._window)
        buckets = self._bucket(place[np.newaxis] - place[:, np.newaxis])
        bias = self._weights["encoder.relative_attention_bias.weight"][buckets].transpose(2, 0, 1)
        sizes = self._node("Concat", ["tokens", "tokens"], "bias.sizes", axis=0)
        starts, axes = self._ints("bias.starts", 0, 0), self._ints("bias.axes", 1, 2)
        bias_ = self._node("Slice", [self._tensor("bias.all", bias), starts, sizes, axes], "bias")
        never = self._tensor("never", np.array(_NEVER, dtype=np.float32))
        none = self._tensor("none", np.array(0, dtype=np.float32))
        masked = self._node("Where", ["mask", none, never], "mask.scores")
        self._node("Add", [masked, bias_], "mask.bias")

    def _bucket(self, distance: NDArray[np.int64]) -> NDArray[np.int64]:
        half = self._BUCKETS // 2
        near = half // 2
        apart = np.abs(distance)
        # In single precision, as where the weights were trained: a border case falls on the same side.
        ratio = np.log(np.maximum(apart, 1).astype(np.float32) / np.float32(near)) / np.float32(
            math.log(self._FAR / near)
        )
        far = np.minimum(near + (ratio * np.float32(half - near)).astype(np.int64), half - 1)
        bucket: NDArray[np.int64] = np.where(distance > 0, half, 0) + np.where(apart < near, apart, far)
        return bucket

    def _layer(self, layer: int, hidden: str) -> str:
        at = f"encoder.layer.{layer}."
        parts = [self._linear(f"{at}attention.attn.{part}", hidden) for part in ("q", "k", "v")]
        context = self._attention(at, parts, "mask.bias")
        attended = self._add_and_norm(f"{at}attention.attn.o", f"{at}attention.LayerNorm", context, hidden)
        return self._feed_forward(at, attended)


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions: the base of the angles of all layers, and of those whose tokens look `reach` tokens far."""

    base: float
    local_base: float
    reach: int
    local: tuple[bool, ...]


class ModernBertGraph(Graph):
    """ModernBERT (Warner et al. 2024): pre-norm, rotary positions, most layers local, gated GELU, few biases."""

    def __init__(self, weights: Weights, form: Form, rotary: Rotary, *, window: int) -> None:
        super().__init__(weights, form, pooled=False)
        self._rotary = rotary
        self._window = window
        self._size = form.width // form.heads

    def _embeddings(self) -> str:
        words = self._node("Gather", [self._weight("embeddings.tok_embeddings.weight"), "input_ids"], "words")
        return self._plain_norm("embeddings.norm", self._node("Reshape", [words, "flat"], "words.flat"))

    def _last(self, hidden: str) -> str:
        return self._plain_norm("final_norm", hidden)

    def _prepare(self) -> None:
        self._node("Concat", ["batch", self._ints("heads", self._form.heads, self._size)], "apart.shape", axis=0)
        for name, base in (("far", self._rotary.base), ("near", self._rotary.local_base)):
            powers = np.arange(0, self._size, 2, dtype=np.float32) / np.float32(self._size)
            angles = np.outer(np.arange(self._window, dtype=np.float32), 1 / np.float32(base) ** powers)
            both = np.concatenate([angles, angles], axis=1)[:, np.newaxis].astype(np.float32)
            self._first_rows(f"{name}.cosines", np.cos(both), f"{name}.cos")
            self._first_rows(f"{name}.sines", np.sin(both), f"{name}.sin")
        place = np.arange(self._window)
        close = np.abs(place[np.newaxis] - place[:, np.newaxis]) <= self._rotary.reach
        sizes = self._node("Concat", ["tokens", "tokens"], "close.sizes", axis=0)
        starts, axes = self._ints("close.starts", 0, 0), self._ints("close.axes", 0, 1)
        cut = self._node("Slice", [self._tensor("close.all", close), starts, sizes, axes], "close")
        self._node("And", ["mask", cut], "mask.near")

    def _layer(self, layer: int, hidden: str) -> str:
        at = f"layers.{layer}."
        angles, mask = ("near", "mask.near") if self._rotary.local[layer] else ("far", "mask")
        inputs = self._plain_norm(f"{at}attn_norm", hidden) if f"{at}attn_norm.weight" in self._weights else hidden
        whole = self._product(f"{at}attn.Wqkv", inputs)
        parts = [f"{at}attn.{part}" for part in ("query", "key", "value")]
        self._split(whole, parts, axis=1)
        turned = [self._turned(part, angles) for part in parts[:2]]
        context = self._attention(at, [*turned, parts[2]], mask)
        hidden = self._node("Add", [self._product(f"{at}attn.Wo", context), hidden], f"{at}attended")
        whole = self._product(f"{at}mlp.Wi", self._plain_norm(f"{at}mlp_norm", hidden))
        halves = [f"{at}mlp.inner", f"{at}mlp.gate"]
        self._split(whole, halves, axis=1)
        gated = self._node("Mul", [self._gelu(halves[0], f"{at}gelu"), halves[1]], f"{at}gated")
        return self._node("Add", [self._product(f"{at}mlp.Wo", gated), hidden], f"{at}output")

    def _turned(self, part: str, angles: str) -> str:
        """Turn each head's vectors by their positions, the first half of the numbers against the second."""
        apart = self._node("Reshape", [part, "apart.shape"], f"{part}.apart")
        halves = [f"{part}.first", f"{part}.second"]
        self._split(apart, halves, axis=-1)
        swapped = self._node(
            "Concat", [self._node("Neg", [halves[1]], f"{part}.minus"), halves[0]], f"{part}.swapped", axis=-1
        )
        straight = self._node("Mul", [apart, f"{angles}.cos"], f"{part}.straight")
        across = self._node("Mul", [swapped, f"{angles}.sin"], f"{part}.across")
        return self._node("Add", [straight, across], f"{part}.turned")


class UniversalGraph(Nodes):
    """Universal Sentence Encoder, multilingual, version 3 (Yang et al. 2019), with n-grams of 2, 3 and 5 tokens.

    Each token's vector, and what convolutions make of it and its neighbours, are summed over the text and go through
    four layers. The word vectors stay in the 6 bits in which they come.
    """

    _WIDTH, _BRANCH = 512, 256
    #: The tokens of each convolution, and how many of them stand before its own.
    _ORDERS = ((2, 0), (3, 1), (5, 2))

    def build(self) -> Model:
        """Return the whole graph."""
        self._ints("flat", -1, self._WIDTH)
        self._ints("last", -1)
        self._ints("one", 1)
        self._node("Shape", ["input_ids"], "batch")
        self._node("Shape", ["input_ids"], "tokens", start=1, end=2)
        self._node("Cast", ["attention_mask"], "mask.real", to=_FLOAT)
        self._node("Unsqueeze", ["mask.real", "last"], "mask")
        words = self._words()
        branches = self._branches(self._node("Reshape", [words, "flat"], "words.flat"))
        features = self._node("Concat", [words, *branches], "features", axis=-1)
        normal = self._norm("ln_g", "ln_b", features, "features.norm")
        total = self._node(
            "ReduceSum", [self._node("Mul", [normal, "mask"], "features.real"), "one"], "total", keepdims=0
        )
        length = self._node("ReduceSum", ["mask.real", "one"], "length", keepdims=1)
        bias = self._node("Mul", [length, self._weight("cnn_b")], "sum.bias")
        summed = self._node("Add", [self._times(total, "cnn_W"), bias], "sum")
        mean = self._node("Div", [summed, self._node("Sqrt", [length], "length.root")], "mean")
        inner = self._relu(self._times(mean, "d0"))
        inner = self._relu(self._node("Add", [self._times(mean, "p1"), self._times(inner, "d1")], "deep"))
        last = self._times(self._relu(self._times(inner, "d2")), "d3")
        outer = self._node("Tanh", [self._node("Add", [self._times(inner, "p3"), last], "deeper")], "outer")
        self._node("LpNormalization", [outer], "embedding", axis=1, p=2)
        return self._model("use-multilingual-v3", "embedding", self._WIDTH)

    def _words(self) -> str:
        parts = [self._weights[f"q{part + 1}"] for part in range(len(self._weights["scale"]))]
        # Their rows in turn, as the package lays them out; each part has a scale and a least value of its own.
        table = np.stack(parts, axis=1).reshape(-1, self._WIDTH)
        rows = self._node("Gather", [self._tensor("words.table", table), "input_ids"], "words.rounded")
        values = self._node("Cast", [rows], "words.values", to=_FLOAT)
        for name, operator, of in (("scale", "Mul", values), ("lo", "Add", "words.scale")):
            each = np.tile(self._weights[name], len(parts[0]))[:, np.newaxis]
            chosen = self._node("Gather", [self._tensor(f"{name}.each", each), "input_ids"], f"{name}.chosen")
            self._node(operator, [of, chosen], f"words.{name}")
        return "words.lo"

    def _branches(self, words: str) -> list[str]:
        """Return what the three convolutions make of the words."""
        orders = [order for order, _ in self._ORDERS]
        for name, axis in (("proj", 1), ("proj_b", 0), ("ln_g", 0), ("ln_b", 0)):
            self._tensor(
                f"{name}.all", np.concatenate([self._weights[f"{name}{order}"] for order in orders], axis=axis)
            )
        projected = self._node("Gemm", [words, "proj.all", "proj_b.all"], "projected")
        normal = self._norm("ln_g.all", "ln_b.all", projected, "projected.norm")
        self._node("Concat", ["batch", self._ints("branch.width", self._BRANCH)], "branch.shape", axis=0)
        whole = self._node(
            "Concat", ["batch", self._ints("all.width", self._BRANCH * len(orders))], "all.shape", axis=0
        )
        real = self._node("Mul", [self._node("Reshape", [normal, whole], "projected.texts"), "mask"], "projected.real")
        names = [f"branch{order}" for order in orders]
        self._split(real, names, axis=-1)
        branches = []
        for order, before in self._ORDERS:
            first = self._convolved(f"branch{order}", "1", order, before)
            first = self._node("Mul", [first, "mask"], f"{first}.real")
            branches.append(self._convolved(first, "2", order, before))
        return branches

    def _convolved(self, inputs: str, number: str, order: int, before: int) -> str:
        """Return relu(W x + b) + x, where x holds a token and its neighbours, and nothing beyond the text."""
        name = f"conv{order}.{number}"
        pads = self._ints(f"{name}.pads", 0, before, 0, 0, order - 1 - before, 0)
        padded = self._node("Pad", [inputs, pads], f"{name}.padded")
        parts = []
        for place in range(order):
            start = self._ints(f"{name}.start{place}", place)
            end = self._node("Add", ["tokens", start], f"{name}.end{place}")
            parts.append(self._node("Slice", [padded, start, end, "one"], f"{name}.part{place}"))
        beside = self._node("Concat", parts, f"{name}.beside", axis=-1)
        flat = self._node("Reshape", [beside, self._ints(f"{name}.flat", -1, order * self._BRANCH)], f"{name}.rows")
        weight, bias = self._weight(f"w{number}_{order}"), self._weight(f"b{number}_{order}")
        product = self._relu(self._node("Gemm", [flat, weight, bias], f"{name}.product"))
        return self._node("Add", [self._node("Reshape", [product, "branch.shape"], f"{name}.texts"), inputs], name)

    def _times(self, inputs: str, weight: str) -> str:
        return self._node("MatMul", [inputs, self._weight(weight)], f"{weight}.product")

    def _relu(self, inputs: str) -> str:
        return self._node("Relu", [inputs], f"{inputs}.relu")

    def _norm(self, scale: str, bias: str, inputs: str, output: str) -> str:
        tensors = [name if name in self._tensors else self._weight(name) for name in (scale, bias)]
        return self._node("LayerNormalization", [inputs, *tensors], output, epsilon=float(self._weights["eps"]))


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
        return self._node("Cast", [words], "words", to=_FLOAT)

    def _linear(self, name: str, inputs: str) -> str:
        at = INPUT_OF[name]
        of = self._calibration[at]
        rounded = {kind: self._tensor(kind, value) for kind, value in of.rounded(name, self._weights).items()}
        values, input_scale, zero = self._round(at, inputs)
        matrix, scales, bias = (rounded[f"{name}.{kind}"] for kind in ("matrix", "scale", "bias"))
        none = self._tensor(f"{name}.zero", np.zeros(len(self._weights[f"{name}.bias"]), dtype=np.int8))
        output = f"{name}.product" if len(of.outliers) else name
        factors = [values, matrix, input_scale, scales, zero, none, bias]
        self._node("MatMulIntegerToFloat", factors, output, domain=MICROSOFT)
        if not len(of.outliers):
            return output
        chosen = self._node("Gather", [inputs, self._tensor(f"{name}.outliers", of.outliers)], f"{name}.large", axis=1)
        large = self._node("MatMul", [chosen, rounded[f"{name}.exact"]], f"{name}.exact_product")
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
