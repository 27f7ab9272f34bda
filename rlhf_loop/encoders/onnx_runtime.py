"""The default runtime: encoders on ONNX Runtime, without torch.

A graph is written once into the cache folder, beside its sha256 sums; a later start reads it only if they still hold.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rlhf_loop.encoders import weights
from rlhf_loop.encoders.runtime import Shape, Vectors, cores
from rlhf_loop.encoders.tokenizer import Batch, Batcher, load_tokenizer
from rlhf_loop.encoders.tuned import BELOW, Checkpoint, TunedLayers, from_layer
from rlhf_loop.errors import EncoderError, ModelFileError
from rlhf_loop.utils.concurrency import run_parallel
from rlhf_loop.utils.lru import LRUCache
from rlhf_loop.utils.text import clause

if TYPE_CHECKING:
    from rlhf_loop.encoders.onnx_graph import Form, Graph, Model

#: Part of the graph's name: raise it when what is written changes.
GRAPH_VERSION = 2
GRAPH_FILE = "model.onnx"
_SUMS_FILE = "SHA256SUMS"
_LOCK_TIMEOUT_S = 120
DTYPES: Mapping[str, type[np.generic]] = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
#: Tokens of a batch, padding included; its activations then fit the processor's cache (`make bench` shows others).
BATCH_TOKENS = {"fp32": 512, "int8": 256}
#: Memory for what the lower layers made of the passages read last; half of it is there at any time.
_KEPT_BYTES = 16_000_000
_LOWER_FILE, _UPPER_FILE, _BARE_FILE = "lower.onnx", "upper.onnx", "bare.onnx"
#: Part of the name of a graph's two parts, as `GRAPH_VERSION` is of that of the whole.
_HALVES_VERSION = 2


def cached_graph(model_folder: Path, cache_dir: Path, *, precision: str = "fp32") -> Path:
    """Return the graph's file, written now if the cache holds no intact one.

    Raises:
        EncoderError: the weights are not the official ones, or the cache folder cannot be written.
    """
    weights.verify(model_folder)

    def write(fresh: Path) -> None:
        write_graph(model_folder / weights.WEIGHTS_FILE, fresh / GRAPH_FILE, precision=precision)

    return kept(_graph_folder(cache_dir, precision), write) / GRAPH_FILE


def _graph_folder(cache_dir: Path, precision: str) -> Path:
    version = f"v{GRAPH_VERSION}" if precision == "fp32" else f"v{GRAPH_VERSION}.{weights.CALIBRATION_VERSION}"
    return cache_dir / "encoder" / f"{weights.MODEL_NAME}-{precision}-{version}"


def kept(folder: Path, write: Callable[[Path], None]) -> Path:
    """Return the folder with what `write` puts into it; it is called only where the folder is not there as it was.

    Raises:
        EncoderError: the folder cannot be written.
    """
    if not _intact(folder):
        try:
            _write(folder, write)
        except OSError as error:
            raise EncoderError(
                f"Cannot write the encoder graph to {folder}: {clause(error)}. Free some space, mend the folder's "
                "rights, or set RLHF_CACHE_DIR."
            ) from error
    return folder


def write_graph(weights_file: Path, target: Path, *, precision: str) -> None:
    """Write the graph of that precision to `target`, and its tensors beside it."""
    # Imported here: only the first start on a machine needs them.
    from rlhf_loop.encoders.onnx_graph import save_graph

    save_graph(minilm_graph(weights_file, precision).build(), target)


def minilm_graph(weights_file: Path, precision: str) -> Graph:
    """Return what makes the graph of all-MiniLM-L6-v2 in that precision."""
    from rlhf_loop.encoders.onnx_graph import Graph, Int8Graph

    tensors = Tensors(weights_file)
    return Graph(tensors) if precision == "fp32" else Int8Graph(tensors, weights.load_calibration())


@dataclass(frozen=True, slots=True)
class Halves:
    """A graph in two parts: files of the layers below a certain one, of those from there on, and of these without
    their weights.

    `shapes` are those of the weights, and `stored` makes of their values the tensors that the last file lacks.
    """

    lower: Path
    upper: Path
    bare: Path
    shapes: Mapping[str, tuple[int, ...]]
    stored: Callable[[Mapping[str, NDArray[np.float32]]], Mapping[str, NDArray[np.generic]]]


def halves(
    whole: Path,
    first: int,
    graph: Callable[[], Graph],
    weights: Mapping[str, NDArray[np.float32]],
    stored: Callable[[Mapping[str, NDArray[np.float32]]], Mapping[str, NDArray[np.generic]]] = dict,
) -> Halves:
    """Return a graph in two parts, written now if the folder beside that of the whole does not hold them intact.

    Raises:
        EncoderError: the folder cannot be written.
    """
    names = from_layer(weights, first)

    def write(fresh: Path) -> None:
        from rlhf_loop.encoders.onnx_graph import save_graph

        for part in parts(graph, first, stored({name: weights[name] for name in names})):
            save_graph(part.model, fresh / part.file, without=part.without)

    folder = kept(whole.with_name(f"{whole.name}-from{first}.{_HALVES_VERSION}"), write)
    shapes = {name: weights[name].shape for name in names}
    return Halves(folder / _LOWER_FILE, folder / _UPPER_FILE, folder / _BARE_FILE, shapes, stored)


@dataclass(frozen=True, slots=True)
class Part:
    """One of the files of a graph, and the tensors that it lacks."""

    file: str
    model: Model
    without: frozenset[str] = frozenset()


def parts(graph: Callable[[], Graph], first: int, own: Iterable[str]) -> Iterator[Part]:
    """Give the layers below a certain one, those from there on, and these without tensors of their own."""
    yield Part(_LOWER_FILE, graph().build(stop=first))
    yield Part(_UPPER_FILE, graph().build(start=first))
    yield Part(_BARE_FILE, graph().build(start=first), frozenset(own))


@dataclass(frozen=True, slots=True)
class _Sessions:
    """A graph that is loaded: for all threads together, and for one thread alone where each has batches of its own."""

    together: onnxruntime.InferenceSession
    alone: onnxruntime.InferenceSession | None

    def run(self, feed: Mapping[str, NDArray[np.generic]], *, output: str, alone: bool) -> Vectors:
        session = self.alone if alone and self.alone is not None else self.together
        found: Vectors = session.run([output], feed)[0]
        return found


class _Lower:
    """The layers below `first`, with what they made of the texts read last."""

    def __init__(self, first: int, sessions: _Sessions) -> None:
        self.first = first
        self._sessions = sessions
        self._kept: LRUCache[Vectors] = LRUCache(max_bytes=_KEPT_BYTES)

    def run(self, batch: Batch, feed: Mapping[str, NDArray[np.generic]], *, alone: bool, keep: bool) -> Vectors:
        """Return a vector for each token, texts x tokens x width; they are made anew unless all texts are known."""
        lengths = batch.mask.sum(axis=1).tolist()
        keys = [ids[:length].tobytes() for ids, length in zip(batch.ids, lengths, strict=True)]
        known = [self._kept.get(key) for key in keys]
        found = [vectors for vectors in known if vectors is not None]
        if len(found) == len(keys):
            made = np.zeros((*batch.ids.shape, found[0].shape[1]), dtype=np.float32)
            for row, vectors in zip(made, found, strict=True):
                row[: len(vectors)] = vectors
            return made
        made = self._sessions.run(feed, output="hidden", alone=alone)
        for key, row, length in zip(keys, made, lengths, strict=True) if keep else ():
            self._kept.put(key, row[:length].copy(), row[:length].nbytes)
        return made


class GraphRuntime:
    """A graph that gives a text's vector, or those of its tokens and something that makes one of them.

    A few texts are run by all threads together. Of many, each thread runs batches of its own, where the graph may be in
    memory twice for that: it saves waiting for each other after every product.

    Args:
        session: runs the graph on all threads together.
        alone: runs it on one thread, where each shall have batches of its own.
        id: see `Runtime`.
        shape: see `Runtime`.
        tokenizer: without truncation and padding.
        tokens: of a batch at most, padding included.
        threads: of one call; 0 means one for each core.
        padding: the token that fills up shorter texts.
        output: the name of what is asked for; by default the only one.
        pool: makes vectors of that output and the mask.
        halves: gives the graph in two parts, cut below that layer; None where there is nothing to cut.
        checkpoint: gives its weights, where layers of its kind can be trained.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        alone: onnxruntime.InferenceSession | None = None,
        *,
        id: str,
        shape: Shape,
        tokenizer: Tokenizer,
        tokens: int,
        threads: int = 0,
        padding: int = 0,
        output: str = "embedding",
        pool: Callable[[Vectors, NDArray[np.int32]], Vectors] | None = None,
        halves: Callable[[int], Halves] | None = None,
        checkpoint: Callable[[], Checkpoint] | None = None,
    ) -> None:
        self.id = id
        self.shape = shape
        self.tokenizer = tokenizer
        self._threads = threads or cores()
        self._batcher = Batcher(tokenizer, tokens=tokens, window=shape.window, padding=padding)
        #: All layers, or the upper ones beside the lower ones, once the graph was cut in two.
        self._parts: tuple[_Sessions, _Lower | None] = _Sessions(session, alone), None
        self._inputs = {each.name: DTYPES[each.type] for each in session.get_inputs()}
        self._output = output
        self._pool = pool
        self._halves = halves
        self._checkpoint = checkpoint
        self._tuned: WeakKeyDictionary[TunedLayers, TunedRuntime] = WeakKeyDictionary()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text, shape (texts, dimension), of as many of its first tokens as a window has."""
        return self._encoded(texts, *self._parts, keep=True)

    def tuned(self, layers: TunedLayers) -> TunedRuntime:
        """Return the same encoder with other upper layers; what the lower ones make of a passage serves both.

        From then on both run in two parts, to the same numbers. Nothing is kept once nobody has the layers any more.

        Raises:
            EncoderError: the encoder is a graph that cannot be cut, or the cache folder cannot be written.
            ModelFileError: the layers do not fit it.
        """
        found = self._tuned.get(layers)
        if found is None:
            self._tuned[layers] = found = self._loaded(layers)
        return found

    def loaded(self, layers: TunedLayers) -> TunedRuntime | None:
        """Return what `tuned` returned for these layers before."""
        return self._tuned.get(layers)

    def checkpoint(self) -> Checkpoint:
        """Return the weights that layers are trained from.

        Raises:
            EncoderError: it is an encoder of another kind.
        """
        if self._checkpoint is None:
            raise EncoderError(
                f"The encoder {self.id} has no layers that can be trained here: these are BERT's, as weights in "
                "safetensors, with one pooling and no layer behind it. Choose another one: RLHF_ENCODER."
            )
        return self._checkpoint()

    def _loaded(self, layers: TunedLayers) -> TunedRuntime:
        if self._halves is None:
            raise EncoderError(
                f"The encoder {self.id} has no weights that layers could be tuned from. Set RLHF_ENCODER to the one of "
                f"the model ({layers.encoder})."
            )
        halves = self._halves(layers.first)
        shapes = {name: tensor.shape for name, tensor in layers.tensors.items()}
        try:
            if wrong := sorted(name for name, _ in shapes.items() ^ halves.shapes.items()):
                raise ValueError(f"{wrong[0]} has the shape {shapes.get(wrong[0])}, not {halves.shapes.get(wrong[0])}")
            if len(layers.w) != self.shape.dimension:
                raise ValueError(f"they give vectors of {len(layers.w)} numbers, not of {self.shape.dimension}")
            upper = self._open(halves.bare, halves.stored(layers.tensors))
        except Exception as error:  # the library's own classes have no common one
            raise ModelFileError(
                f"The tuned layers {layers.sha256[:12]} do not fit the encoder {self.id} from layer {layers.first} on: "
                f"{clause(error)}. Set the encoder back, or train a new model: rlhf-loop train."
            ) from error
        lower = self._parts[1]
        if lower is None or lower.first != layers.first:
            lower = _Lower(layers.first, self._open(halves.lower))
            self._parts = self._open(halves.upper), lower
        encode = partial(self._encoded, upper=upper, lower=lower)
        return TunedRuntime(f"{self.id}+{layers.sha256}", self.shape, encode)

    def _open(self, graph: Path, tensors: Mapping[str, NDArray[np.generic]] | None = None) -> _Sessions:
        twice = self._parts[0].alone is not None
        return _Sessions(
            open_graph(graph, threads=self._threads, tensors=tensors),
            open_graph(graph, threads=1, tensors=tensors) if twice else None,
        )

    def _encoded(self, texts: Sequence[str], upper: _Sessions, lower: _Lower | None, *, keep: bool = False) -> Vectors:
        vectors = np.empty((len(texts), self.shape.dimension), dtype=np.float32)

        def run(batch: Batch, *, alone: bool = False) -> None:
            feed = self._fed(batch)
            if lower is not None:
                feed = {BELOW: lower.run(batch, feed, alone=alone, keep=keep), "attention_mask": batch.mask}
            found = upper.run(feed, output=self._output, alone=alone)
            vectors[batch.places] = found if self._pool is None else self._pool(found, batch.mask)

        batches = list(self._batcher.batches(texts))
        if upper.alone is None or len(batches) < self._threads:
            for batch in batches:
                run(batch)
        else:
            # The longest first, so that no thread is left with it at the end.
            run_parallel(partial(run, alone=True), reversed(batches), threads=self._threads)
        return vectors

    def _fed(self, batch: Batch) -> dict[str, NDArray[np.generic]]:
        # One text at a time has the token type 0 throughout.
        values = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": np.zeros_like(batch.ids)}
        return {name: values[name].astype(kind, copy=False) for name, kind in self._inputs.items()}


@dataclass(frozen=True, slots=True, weakref_slot=True)
class TunedRuntime:
    """An encoder with other upper layers; see `GraphRuntime.tuned`."""

    id: str
    shape: Shape
    encode: Callable[[Sequence[str]], Vectors]


class OnnxRuntime(GraphRuntime):
    """all-MiniLM-L6-v2 on the CPU.

    In 8 bits each thread runs batches of its own. In 32 bits the weights twice would take more memory than it is worth.

    Args:
        model_folder: holds `model.safetensors` and `tokenizer.json`.
        cache_dir: where the graph is kept; it takes 90 MB at fp32, 34 MB at int8.
        precision: fp32, or int8 (see `Int8Graph`).
        threads: of one call; 0 means one for each core.
    """

    def __init__(self, model_folder: Path, cache_dir: Path, *, precision: str = "fp32", threads: int = 0) -> None:
        tokenizer = load_tokenizer(model_folder / weights.TOKENIZER_FILE)
        graph = cached_graph(model_folder, cache_dir, precision=precision)
        twice = precision == "int8" and (threads or cores()) > 1

        def cut(first: int) -> Halves:
            file = model_folder / weights.WEIGHTS_FILE
            whole, graph = _graph_folder(cache_dir, precision), partial(minilm_graph, file, precision)
            return halves(whole, first, graph, Tensors(file), dict if precision == "fp32" else weights.in_int8)

        super().__init__(
            open_graph(graph, threads=threads),
            open_graph(graph, threads=1) if twice else None,
            id=runtime_id(precision),
            shape=Shape(),
            tokenizer=tokenizer,
            tokens=BATCH_TOKENS[precision],
            threads=threads,
            halves=cut,
            checkpoint=partial(checkpoint, Tensors(model_folder / weights.WEIGHTS_FILE)),
        )


def checkpoint(of: Mapping[str, NDArray[np.float32]], form: Form | None = None, pooling: str = "mean") -> Checkpoint:
    """Return weights with their measures, by default those of all-MiniLM-L6-v2."""
    from rlhf_loop.encoders.onnx_graph import MINILM

    form = form or MINILM
    return Checkpoint(
        weights=of,
        layers=form.layers,
        heads=form.heads,
        width=form.width,
        epsilon=form.epsilon,
        first_position=form.first,
        approximate=form.approximate,
        pooling=pooling,
    )


def runtime_id(precision: str) -> str:
    """Name the model and its precision: runtimes of one precision differ by no more than rounding noise."""
    return f"{weights.MODEL_NAME}/{precision}" + (f".{weights.CALIBRATION_VERSION}" if precision == "int8" else "")


class Tensors(Mapping[str, NDArray[np.float32]]):
    """The weights, each read when it is asked for: all at once would take 90 MB more at a first start."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        from safetensors import safe_open

        # Opened anew each time, as what was read stays in memory for as long as it is open.
        with safe_open(self._file, framework="numpy") as tensors:
            tensor: NDArray[np.float32] = tensors.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        from safetensors import safe_open

        with safe_open(self._file, framework="numpy") as tensors:
            yield from tensors.keys()

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _write(folder: Path, write: Callable[[Path], None]) -> None:
    """Write what belongs into the folder beside its place and move it there whole: no reader ever sees half of it."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock", timeout=_LOCK_TIMEOUT_S):
        if _intact(folder):
            return  # another process was quicker
        fresh = folder.with_name(f"{folder.name}.new")
        for remains in (fresh, folder):
            if remains.exists():
                shutil.rmtree(remains)
        fresh.mkdir()
        write(fresh)
        (fresh / _SUMS_FILE).write_bytes(_sums(fresh))
        for file in fresh.iterdir():
            file.chmod(0o644)  # onnx keeps its tensors from other users, who may share the folder
        fresh.replace(folder)


def _intact(folder: Path) -> bool:
    try:
        return (folder / _SUMS_FILE).read_bytes() == _sums(folder)
    except OSError:
        return False


def _sums(folder: Path) -> bytes:
    files = sorted(file for file in folder.iterdir() if file.name != _SUMS_FILE)
    return "".join(f"{_sha256(file)}  {file.name}\n" for file in files).encode()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_graph(
    graph: Path, *, threads: int, tensors: Mapping[str, NDArray[np.generic]] | None = None
) -> onnxruntime.InferenceSession:
    """Load a graph to run on so many threads; 0 means one for each core. `tensors` are what its file lacks."""
    _share_memory()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = threads or cores()
    # Batches differ in shape: a plan of memory for each shape would take another block for each, and saves no time.
    options.enable_mem_pattern = False
    # Copied while it is loaded, and given back once the processor's own form of them is made.
    given = {name: np.ascontiguousarray(value).reshape(-1).view(np.uint8) for name, value in (tensors or {}).items()}
    if given:
        sizes = [len(value) for value in given.values()]
        options.add_external_initializers_from_files_in_memory(list(given), list(given.values()), sizes)
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


@cache
def _share_memory() -> None:
    """Let all graphs of the process work in the same memory, one after the other: each would keep its own for good."""
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # It grows by what is asked for, and not to twice as much each time.
    onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1}))
