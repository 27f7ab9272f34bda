"""Tuned layers: an encoder's upper layers after fine-tuning on ratings, and the head that makes a logit of two vectors.

A training leaves them as one file of the safetensors format, whose name is its sha256; they run without torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.encoders.runtime import Runtime, Vectors
from rlhf_loop.errors import ModelFileError
from rlhf_loop.utils.text import clause

#: What the logit is multiplied by, so that a cosine and a bias of about 1 suffice.
SHARPNESS = 10.0
#: The input of a graph of upper layers: what the layers below them made, batch x tokens x width.
BELOW = "below"
#: Bytes of a file at most: all layers of the largest encoders that a CPU could serve.
MOST_BYTES = 2 * 10**9
#: The name of what says whose layers they are, among the file's metadata.
_ABOUT = "rlhf-loop tuned layers"
_VERSION = 1
#: The name of the head's weights among the tensors.
_HEAD = "head.w"
_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}", re.ASCII)
_LAYER = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.", re.ASCII)
#: Numbers beyond are none of a training's, and their products overflow.
_LARGEST = 1e6
_RELEASED: Mapping[str, NDArray[np.float32]] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class TunedLayers:
    """Layers `first` and above of an encoder, tuned; the layers below and the embeddings are the encoder's own.

    Both texts are read by the same layers, and a text's vector (mean over its tokens, length 1) is u of a question, v
    of a passage: logit = 10 (a u.v + b + w.(u*v)). An answer's score is the highest logit of its passages.

    Attributes:
        encoder: the id of the encoder that they belong to, in whatever precision.
        first: the first tuned layer, counted from 0; at least 1, as the embeddings are never tuned.
        tensors: their weights, float32, under BERT's names in a checkpoint, as in
            `encoder.layer.3.attention.self.query.weight`.
        question_tokens: of a question so many tokens are read at most, markers not included.
        passages: of an answer so many passages are scored, those that fit best by the encoder as it was.
        a: weight of the cosine.
        b: bias.
        w: weights of the products, one a dimension.
    """

    encoder: str
    first: int
    tensors: Mapping[str, NDArray[np.float32]]
    question_tokens: int
    passages: int
    a: float
    b: float
    w: NDArray[np.float32]

    @cached_property
    def sha256(self) -> str:
        """The sum of their file, which is their name."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def logits(self, question: Vectors, passages: Vectors) -> NDArray[np.float64]:
        """Return a logit for each passage (passages x dimension), of the question's vector (dimension)."""
        weights = (self.a + self.w) * question
        found: NDArray[np.float64] = SHARPNESS * (passages @ weights.astype(np.float32) + self.b).astype(np.float64)
        return found

    def release(self) -> None:
        """Forget the tensors, once an encoder has its own form of them; what is left scores, and cannot be written."""
        assert self.sha256, "it is that of the tensors"
        object.__setattr__(self, "tensors", _RELEASED)

    def to_bytes(self) -> bytes:
        """Return what their file holds: the same bytes for the same layers."""
        from safetensors.numpy import save

        if self.tensors is _RELEASED:
            raise ValueError("The tensors of these tuned layers were released. Read their file again.")
        about = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("tensors", "w")}
        tensors = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in self.tensors.items()}
        tensors[_HEAD] = np.ascontiguousarray(self.w, dtype=np.float32)
        # In one value, as the order of several is left to chance.
        return save(tensors, metadata={_ABOUT: json.dumps({"version": _VERSION, **about}, sort_keys=True)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read what `to_bytes` made.

        Raises:
            ModelFileError: it is anything else, or holds numbers that cannot be served.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        if len(content) > MOST_BYTES:
            raise ModelFileError(f"{len(content):,} bytes are more than tuned layers have ({MOST_BYTES:,}). {_RETRAIN}")
        try:
            layers = cls._checked(_about(content), load(content))
            # That of the very file, whoever wrote it.
            layers.__dict__["sha256"] = hashlib.sha256(content).hexdigest()
            return layers
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelFileError(
                f"What should be tuned layers is not whole: {type(error).__name__}: {clause(error)}. {_RETRAIN}"
            ) from error

    @classmethod
    def _checked(cls, about: Mapping[str, Any], tensors: dict[str, NDArray[np.float32]]) -> Self:
        if about["version"] != _VERSION:
            raise ModelFileError(
                f"The tuned layers have format version {about['version']}; this rlhf-loop reads {_VERSION}. Install "
                f"the version that wrote them. {_RETRAIN}"
            )
        for name, tensor in tensors.items():
            if not _NAME.fullmatch(name) or tensor.dtype != np.float32 or tensor.ndim not in (1, 2) or not tensor.size:
                raise ValueError(f"{name[:100]!r} is not a valid layer ({tensor.dtype}, shape {tensor.shape})")
            # One pass: of numbers that are not finite the maximum is none either.
            if not max(tensor.max(), -tensor.min()) <= _LARGEST:
                raise ValueError(f"{name} holds numbers that are not finite, or beyond {_LARGEST:g}")
        w = tensors.pop(_HEAD)
        counts = {name: about[name] for name in ("first", "question_tokens", "passages")}
        if w.ndim != 1 or not tensors or not all(type(count) is int for count in counts.values()):
            raise ValueError(f"its head has the shape {w.shape}, beside {len(tensors)} tensors and {counts}")
        if not (1 <= counts["first"] < 1000 and all(0 < counts[name] <= 1024 for name in list(counts)[1:])):
            raise ValueError(f"{counts} are not valid counts")
        a, b = float(about["a"]), float(about["b"])
        if not (math.isfinite(a) and math.isfinite(b) and max(abs(a), abs(b)) <= _LARGEST):
            raise ValueError(f"its head has the numbers {a} and {b}")
        return cls(encoder=str(about["encoder"]), tensors=tensors, a=a, b=b, w=w, **counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The weights of an encoder with BERT's layers, under BERT's names, and its measures, to train it from.

    `first_position` is that of a text's first token; `approximate` the way in which GELU is computed ("none", "tanh");
    `pooling` the way in which the vectors of tokens become one ("mean", "cls" ...), which is then brought to length 1.
    """

    weights: Mapping[str, NDArray[np.float32]]
    layers: int
    heads: int
    width: int
    epsilon: float
    first_position: int
    approximate: str
    pooling: str


@runtime_checkable
class Tunable(Protocol):
    """A runtime whose upper layers can be replaced."""

    def tuned(self, layers: TunedLayers) -> Runtime:
        """Return the same with those layers."""
        ...

    def loaded(self, layers: TunedLayers) -> Runtime | None:
        """Return the same with those layers if they were loaded before."""
        ...

    def checkpoint(self) -> Checkpoint:
        """Return what they are trained from."""
        ...


def from_layer(names: Iterable[str], first: int) -> list[str]:
    """Return those tensors of a checkpoint that belong to the layers `first` and above."""
    layers = ((name, _LAYER.match(name)) for name in names)
    return [name for name, layer in layers if layer and int(layer[1]) >= first]


_RETRAIN = "Restore the file from a copy, or train a new model: rlhf-loop train."


def _about(content: bytes) -> Mapping[str, Any]:
    """Return what a file says of its layers; the format begins with the length of a header of JSON."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    about: Mapping[str, Any] = json.loads(header["__metadata__"][_ABOUT])
    return about
