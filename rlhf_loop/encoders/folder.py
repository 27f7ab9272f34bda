"""Any sentence encoder from a folder, as sentence-transformers and the model hub lay it out.

`tokenizer.json`, and `model.onnx` or the safetensors of a model of BERT's, RoBERTa's, XLM-R's, MPNet's or ModernBERT's
kind. How its tokens become one vector is read from `modules.json` and what that names, what it wants to read before a
question and before a passage from `config_sentence_transformers.json`. All vectors are brought to length 1.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import normalizers

from rlhf_loop.encoders.onnx_runtime import (
    GRAPH_FILE,
    GraphRuntime,
    Halves,
    Tensors,
    checkpoint,
    halves,
    kept,
    open_graph,
)
from rlhf_loop.encoders.runtime import MAX_TOKENS, Shape, Vectors
from rlhf_loop.encoders.tokenizer import load_tokenizer, markers_of
from rlhf_loop.encoders.tuned import Checkpoint
from rlhf_loop.encoders.weights import TOKENIZER_FILE, WEIGHTS_FILE
from rlhf_loop.errors import EncoderError

if TYPE_CHECKING:
    from rlhf_loop.encoders.onnx_graph import Form, Graph, Head

#: Tokens of a window at most, whatever a model could read: the memory of attention grows with their square.
MOST_TOKENS = 1024
#: Fewer leave no room for a sentence beside the markers.
_LEAST_TOKENS = 8
#: Part of the graph's name: raise it when what is written changes.
_GRAPH_VERSION = 1
_GRAPHS = (GRAPH_FILE, f"onnx/{GRAPH_FILE}")
_MODULES = "modules.json"
#: Tokens of a batch, padding included.
_BATCH_TOKENS = 512
#: The vector of a text, where a graph has it.
_POOLED = "sentence_embedding"
#: The layers that a graph can be made of, by the name in `config.json`; those of RoBERTa count positions from its
#: padding token on.
_BERT, _ROBERTA = ("bert", "distilbert"), ("roberta", "xlm-roberta", "camembert")
KINDS = (*_BERT, *_ROBERTA, "mpnet", "modernbert")
_ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
#: In the order in which several of them stand beside each other.
_POOLINGS = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}
#: Names that models give to what stands before a passage.
_PASSAGE_PROMPTS = ("passage", "document", "corpus")
_DENSE: Mapping[str, Callable[[Vectors], Vectors]] = {
    "Identity": lambda values: values,
    "Tanh": np.tanh,
    "ReLU": lambda values: np.maximum(values, 0),
}
#: Questions that have nothing in common.
UNRELATED_QUESTIONS = (
    "How can I lower my blood pressure?",
    "How long do eggs have to boil?",
    "When should apple trees be pruned?",
    "Why is my laptop so slow?",
    "What do I do if I lose my passport abroad?",
    "Who painted the ceiling of the Sistine Chapel?",
    "How far is the moon?",
    "May my landlord raise the rent?",
    "What is the rule of offside in football?",
    "How do volcanoes erupt?",
    "Which chords has a blues?",
    "How do I knit a scarf?",
)
#: What in a configuration changes no vector.
_ASIDE = ("transformers_version", "torch_dtype", "dtype", "architectures", "use_cache")
#: DistilBERT's names of BERT's layers.
_DISTILLED = (
    ("encoder.layer.", "transformer.layer."),
    ("attention.self.query", "attention.q_lin"),
    ("attention.self.key", "attention.k_lin"),
    ("attention.self.value", "attention.v_lin"),
    ("attention.output.dense", "attention.out_lin"),
    ("attention.output.LayerNorm", "sa_layer_norm"),
    ("intermediate.dense", "ffn.lin1"),
    ("output.dense", "ffn.lin2"),
    ("output.LayerNorm", "output_layer_norm"),
)
_TYPES = "embeddings.token_type_embeddings.weight"


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer behind the pooling."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    activation: str

    def __call__(self, vectors: Vectors) -> Vectors:
        """Return what it makes of each row."""
        product = vectors @ self.weight.T
        made: Vectors = _DENSE[self.activation](product if self.bias is None else product + self.bias)
        return made


@dataclass(frozen=True, slots=True)
class EncoderFolder:
    """A sentence encoder as its files describe it.

    `name` holds the sum of all that makes its vectors: another file under the same path is another encoder. `window` is
    what is read of a text at most. `weights` are a graph, or what one is made of. `lowers` says that capital letters
    are made small first.
    """

    path: Path
    name: str
    config: Mapping[str, Any]
    weights: Path
    pooling: tuple[str, ...]
    dense: tuple[Dense, ...]
    window: int
    query: str
    passage: str
    padding: int
    lowers: bool

    @property
    def kind(self) -> str:
        """The kind of its architecture, such as "bert"."""
        return str(self.config.get("model_type", ""))


def read_folder(path: Path, *, any_kind: bool = False) -> EncoderFolder:
    """Read what the files of a folder say of the encoder in it, be it of `any_kind` or only of one that is known here.

    Raises:
        EncoderError: a file is missing, or says something that is not known here.
    """
    if not (path / TOKENIZER_FILE).is_file():
        raise _unusable(path, f"has no {TOKENIZER_FILE}", "Save the encoder with its fast tokenizer there")
    from safetensors import SafetensorError

    try:
        return _read(path, any_kind)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, SafetensorError) as error:
        said = f"{type(error).__name__}: {error}"[:200]
        raise _unusable(path, f"cannot be read as an encoder ({said})", "Fetch or save it again") from error


def _read(path: Path, any_kind: bool) -> EncoderFolder:
    modules = {} if any_kind else _modules(path)
    inner = path / _inner(modules)
    config = read_json(inner / "config.json")
    weights = _weights(path, inner, str(config.get("model_type", "")), any_kind=any_kind)
    pooling = _pooling(path, modules)
    dense = tuple(_dense(path, path / folder) for folder in modules.get("Dense", ()))
    prompts = read_json(path / "config_sentence_transformers.json").get("prompts") or {}
    query = str(prompts.get("query", ""))
    passage = next((str(prompts[name]) for name in _PASSAGE_PROMPTS if name in prompts), "")
    own = read_json(inner / "sentence_bert_config.json")
    tokenizer = read_json(path / TOKENIZER_FILE)
    window = _window(own, tokenizer, config)
    kept = {name: value for name, value in config.items() if name not in _ASIDE and not name.startswith("_")}
    lowers = bool(own.get("do_lower_case", False))
    of = [
        _sum(weights),
        _sum(path / TOKENIZER_FILE),
        *(_sum(path / folder / WEIGHTS_FILE) for folder in modules.get("Dense", ())),
    ]
    what = json.dumps(
        [of, pooling, [layer.activation for layer in dense], query, passage, window, lowers, kept], sort_keys=True
    )
    digest = hashlib.sha256(what.encode()).hexdigest()
    return EncoderFolder(
        path=path,
        name=f"{re.sub(r'[^A-Za-z0-9._-]+', '-', path.resolve().name)[:60]}-{digest[:12]}",
        config=config,
        weights=weights,
        pooling=pooling,
        dense=dense,
        window=window,
        query=query,
        passage=passage,
        padding=_padding(tokenizer, config),
        lowers=lowers,
    )


def load_runtime(of: EncoderFolder, cache_dir: Path, *, threads: int = 0) -> GraphRuntime:
    """Load the encoder; a graph that has to be made of its weights is written into the cache folder once.

    Raises:
        EncoderError: it cannot be read, or is of an architecture that is not known here.
    """
    graph = of.weights if of.weights.suffix == ".onnx" else made_graph(of, cache_dir)
    tokenizer = load_tokenizer(of.path / TOKENIZER_FILE)
    if of.lowers:
        rest = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
    before, behind = markers_of(tokenizer)
    try:
        session = open_graph(graph, threads=threads)
    except Exception as error:  # the library's own classes have no common one
        raise _unusable(of.path, f"holds a graph that cannot be loaded ({error})", "Export it again") from error
    output, width, pooled = _output(of, session)
    dimension = width if pooled else width * len(of.pooling)
    dimension = len(of.dense[-1].weight) if of.dense and output != _POOLED else dimension

    def pool(values: Vectors, mask: NDArray[np.int32]) -> Vectors:
        vectors = values if pooled else _one_a_text(values, mask, of.pooling)
        for layer in of.dense if output != _POOLED else ():
            vectors = layer(vectors)
        unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit

    def cut(first: int) -> Halves:
        return halves(_graph_folder(of, cache_dir), first, partial(_graph, of), _Named(of))

    def train() -> Checkpoint:
        return checkpoint(_Named(of), _form(of), of.pooling[0])

    plain = len(of.pooling) == 1 and not of.dense
    shape = Shape(
        dimension=dimension,
        window=of.window,
        markers=len(before) + len(behind),
        query=of.query,
        passage=of.passage,
        unknown=_unknown(read_json(of.path / TOKENIZER_FILE)),
    )
    runtime = GraphRuntime(
        session,
        id=f"{of.name}/fp32",
        shape=shape,
        tokenizer=tokenizer,
        tokens=_BATCH_TOKENS,
        padding=of.padding,
        output=output,
        pool=pool,
        halves=None if graph == of.weights else cut,
        checkpoint=train if graph != of.weights and of.kind in (*_BERT, *_ROBERTA) and plain else None,
    )
    vectors = runtime.encode([of.query + question for question in UNRELATED_QUESTIONS])
    pairs = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    runtime.shape = replace(shape, unrelated=float(pairs.mean()))
    return runtime


def from_hub(name: str, *, download: bool) -> Path:
    """Return the folder of an encoder of the model hub: fetched before, else fetched now if that is allowed.

    Raises:
        EncoderError: it is not there, or nothing that is known here.
    """
    # Imported here: it takes half a second.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    known, missing, trouble = None, None, "it was not fetched as a whole"
    try:
        folder = Path(snapshot_download(name, allow_patterns="*.json", local_files_only=True))
        known = folder if _is_whole(folder) else None
    except Exception as error:  # its own classes and those of the HTTP library below, which has changed before
        missing, trouble = error, type(error).__name__
    # Another program may have left out what says how tokens are pooled. Some encoders have nothing that does.
    if known is not None and (not download or (known / _MODULES).is_file()):
        return known
    advice = f"Fetch it where the hub can be reached: rlhf-loop train does, or hf download {name}"
    if download:
        try:
            return _fetched(name)
        except EncoderError:
            raise
        except Exception as error:
            if known is not None:
                return known
            missing, trouble = error, type(error.__cause__ or error).__name__
            if isinstance(error, RepositoryNotFoundError):
                trouble = f"{type(error).__name__}: the hub has none, or not for everybody"
                advice = "Check the name; for a gated or private one accept its terms on the hub, and set HF_TOKEN"
    raise EncoderError(
        f"RLHF_ENCODER={name!r} is not a folder, and not here as a model of the hub ({trouble}). {advice}. Or give the "
        "folder of a copy."
    ) from missing


def _fetched(name: str) -> Path:
    """Fetch an encoder from the hub.

    First comes what describes it. So weights are fetched only of what is known here; and where they are all else is,
    also after a download that was broken off: the next one goes on there.
    """
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, allow_patterns="*.json"))
    for files in _weights_of(folder):
        snapshot_download(name, revision=folder.name, allow_patterns=files)
        if _is_whole(folder):
            return folder
    kind = read_json(folder / _inner(_modules(folder)) / "config.json").get("model_type")
    raise EncoderError(
        f"RLHF_ENCODER={name!r}, of the kind {kind!r}, has on the model hub no {GRAPH_FILE}, and no {WEIGHTS_FILE} of "
        f"a kind of which graphs are made ({', '.join(KINDS)}). Choose another one, or give a folder with {GRAPH_FILE}."
    )


def _weights_of(folder: Path) -> Iterator[list[str]]:
    """Yield the files to fetch, until one kind of weights is there.

    Raises:
        EncoderError: by its description it cannot be used.
    """
    modules = _modules(folder)
    if not (folder / TOKENIZER_FILE).is_file():
        raise _unusable(folder, f"has no {TOKENIZER_FILE}")
    _pooling(folder, modules)
    if read_json(folder / _inner(modules) / "config.json").get("model_type") in KINDS:
        yield [WEIGHTS_FILE, f"*/{WEIGHTS_FILE}"]
    # The tensors of a large graph stand in a file beside it.
    yield [f"{graph}*" for graph in _GRAPHS] + [f"{dense}/{WEIGHTS_FILE}" for dense in modules.get("Dense", ())]


def _is_whole(folder: Path) -> bool:
    """Tell whether the weights are there."""
    modules = _modules(folder)
    inner = folder / _inner(modules)
    try:
        _weights(folder, inner, str(read_json(inner / "config.json").get("model_type", "")))
    except EncoderError:
        return False
    return all((folder / dense / WEIGHTS_FILE).is_file() for dense in modules.get("Dense", ()))


def _inner(modules: Mapping[str, Sequence[str]]) -> str:
    """Return where the transformer is within the folder."""
    return modules["Transformer"][0] if "Transformer" in modules else ""


def _modules(path: Path) -> dict[str, list[str]]:
    """Return the folders of each kind of module, in order; without a list of them it is a transformer alone."""
    if not (path / _MODULES).is_file():
        return {}
    listed = json.loads((path / _MODULES).read_text(encoding="utf-8"))
    modules: dict[str, list[str]] = {}
    for module in listed:
        kind = str(module["type"]).rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize", "Dense"):
            raise _unusable(path, f"has a module {kind} in modules.json, which is not known here")
        modules.setdefault(kind, []).append(str(module["path"]))
    return modules


def _weights(path: Path, inner: Path, kind: str, *, any_kind: bool = False) -> Path:
    """Return the weights, where a graph can be made of them, else the graph that is there, else those of `any_kind`."""
    if kind in KINDS and (inner / WEIGHTS_FILE).is_file():
        return inner / WEIGHTS_FILE
    graphs = [folder / name for folder in (path, inner) for name in _GRAPHS if (folder / name).is_file()]
    if graphs or (graphs := sorted(path.glob("*.onnx"))):
        return graphs[0]
    if (inner / WEIGHTS_FILE).is_file():
        if any_kind:
            return inner / WEIGHTS_FILE
        raise _unusable(
            path,
            f"holds weights of the kind {kind!r}, and graphs are made of {', '.join(KINDS)} only",
            "Export model.onnx there",
        )
    raise _unusable(path, f"has no {GRAPH_FILE} and no {WEIGHTS_FILE}")


def _pooling(path: Path, modules: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    if "Pooling" not in modules:
        return ("mean",)
    config = read_json(path / modules["Pooling"][0] / "config.json")
    named = config.get("pooling_mode")
    chosen = {named} if isinstance(named, str) else set(named or ())
    chosen |= {name for name, key in _POOLINGS.items() if config.get(f"pooling_mode_{key}")}
    if not chosen or chosen - _POOLINGS.keys():
        raise _unusable(path, f"pools its tokens by {', '.join(sorted(chosen)) or 'nothing'}, which is not known here")
    if config.get("include_prompt") is False:
        raise _unusable(path, "leaves its prompts out of the pooling, which is not known here")
    return tuple(name for name in _POOLINGS if name in chosen)


def _dense(path: Path, folder: Path) -> Dense:
    config = read_json(folder / "config.json")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in _DENSE or not (folder / WEIGHTS_FILE).is_file():
        raise _unusable(
            path, f"has a layer in {folder.name} with the activation {activation} or without {WEIGHTS_FILE}"
        )
    tensors = Tensors(folder / WEIGHTS_FILE)
    bias = tensors["linear.bias"] if config.get("bias", True) else None
    return Dense(tensors["linear.weight"], bias, activation)


def _window(own: Mapping[str, Any], tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Return how many tokens are read: what was set for it, at most what it has positions for."""
    most = [MOST_TOKENS]
    if positions := config.get("max_position_embeddings"):
        most.append(int(positions) - first_position(config))
    wanted = own.get("max_seq_length") or (tokenizer.get("truncation") or {}).get("max_length")
    window = min(int(wanted or (most[-1] if len(most) > 1 else MAX_TOKENS)), *most)
    if window < _LEAST_TOKENS:
        raise ValueError(f"it would read {window} tokens of a text")
    return window


def first_position(config: Mapping[str, Any]) -> int:
    """Return the position of the first token: BERT's is 0, RoBERTa and MPNet count from their padding token on."""
    return int(config.get("pad_token_id", 1)) + 1 if config.get("model_type") in (*_ROBERTA, "mpnet") else 0


def _padding(tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    padding = (tokenizer.get("padding") or {}).get("pad_id", config.get("pad_token_id"))
    return int(padding or 0)


def _unknown(tokenizer: Mapping[str, Any]) -> str | None:
    model = tokenizer.get("model") or {}
    if model.get("unk_id") is not None:
        return str(model["vocab"][model["unk_id"]][0])
    return str(model["unk_token"]) if model.get("unk_token") else None


def _output(of: EncoderFolder, session: Any) -> tuple[str, int, bool]:
    """Return the graph's output to ask for, its width, and whether it is a text's vector or those of its tokens."""
    floats = {
        each.name: each.shape for each in session.get_outputs() if each.type in ("tensor(float)", "tensor(float16)")
    }
    if of.weights.suffix != ".onnx":
        return "hidden", int(of.config.get("hidden_size") or of.config["dim"]), False
    if _POOLED in floats:
        return _POOLED, _last(of, floats[_POOLED]), True
    hidden = [name for name, shape in floats.items() if len(shape) == 3]
    for name in ("last_hidden_state", "token_embeddings", *hidden):
        if name in hidden:
            return name, _last(of, floats[name]), False
    for name, shape in floats.items():
        if len(shape) == 2 and name != "pooler_output":
            return name, _last(of, shape), True
    raise _unusable(
        of.path, f"holds a graph without vectors of tokens or of texts; its outputs are {', '.join(floats)}"
    )


def _last(of: EncoderFolder, shape: Sequence[object]) -> int:
    size = shape[-1] if isinstance(shape[-1], int) else of.config.get("hidden_size")
    if not isinstance(size, int):
        raise _unusable(of.path, "does not say how long its vectors are", "Put its config.json (hidden_size) there")
    return size


def _one_a_text(values: Vectors, mask: NDArray[np.int32], pooling: Sequence[str]) -> Vectors:
    """Make one vector of those of a text's tokens, or several beside each other."""
    real = mask[:, :, np.newaxis].astype(np.float32)
    count = real.sum(axis=1)
    vectors = []
    for name in pooling:
        if name == "cls":
            vectors.append(values[:, 0])
        elif name == "max":
            vectors.append(np.where(real > 0, values, np.float32(-1e9)).max(axis=1))
        elif name == "lasttoken":
            vectors.append(values[np.arange(len(values)), mask.sum(axis=1) - 1])
        elif name == "weightedmean":
            weight = real * np.arange(1, values.shape[1] + 1, dtype=np.float32)[:, np.newaxis]
            vectors.append((values * weight).sum(axis=1) / weight.sum(axis=1))
        else:
            vectors.append((values * real).sum(axis=1) / (count if name == "mean" else np.sqrt(count)))
    return vectors[0] if len(vectors) == 1 else np.concatenate(vectors, axis=1)


class _Named(Mapping[str, NDArray[np.float32]]):
    """The weights under the names that a graph asks for, in 32 bits, whatever stands before them in the file."""

    def __init__(self, of: EncoderFolder) -> None:
        self._tensors = Tensors(of.weights)
        self._distilled = of.kind == "distilbert"
        # Where a model has a head for other things as well, all names begin with its own, as in "bert.embeddings".
        own = next((name for name in self._tensors if ".embeddings." in name), "")
        before = own[: own.index("embeddings.")] if own else ""
        self._names = {name.removeprefix(before): name for name in self._tensors}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if self._distilled and name == _TYPES:
            # DistilBERT adds nothing for the kind of a token.
            return np.zeros_like(self["embeddings.position_embeddings.weight"][:1])
        return self._tensors[self._names[self._own(name)]].astype(np.float32, copy=False)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (self._own(name) in self._names or (self._distilled and name == _TYPES))

    def __iter__(self) -> Iterator[str]:
        for name in self._names:
            for bert, distilled in _DISTILLED if self._distilled else ():
                name = name.replace(distilled, bert)
            yield name

    def __len__(self) -> int:
        return len(self._names)

    def _own(self, name: str) -> str:
        for bert, distilled in _DISTILLED if self._distilled else ():
            name = name.replace(bert, distilled)
        return name


def made_graph(of: EncoderFolder, cache_dir: Path, *, head: Head | None = None) -> Path:
    """Return the graph that is made of the weights, written now if the cache folder does not hold it.

    Raises:
        EncoderError: they are of another kind than they are said to be, or the cache folder cannot be written.
    """

    def write(folder: Path) -> None:
        # Imported here: only the first start on a machine needs it.
        from rlhf_loop.encoders.onnx_graph import save_graph

        try:
            last = f"{head.layers[-1][0]}.weight" if head else ""
            if last and last not in _Named(of):
                raise ValueError(f"it has no head that scores a pair: {last}")
            if last and len(_Named(of)[last]) != 1:
                raise ValueError("its head has several outputs")
            graph = _graph(of).build(head=head)
        except (KeyError, ValueError, TypeError) as error:
            raise _unusable(of.path, f"holds weights of another kind than {of.kind!r} ({error})") from error
        save_graph(graph, folder / GRAPH_FILE)

    folder = _graph_folder(of, cache_dir)
    return kept(folder.with_name(f"{folder.name}-pairs") if head else folder, write) / GRAPH_FILE


def _graph_folder(of: EncoderFolder, cache_dir: Path) -> Path:
    return cache_dir / "encoder" / f"{of.name}-v{_GRAPH_VERSION}"


def _graph(of: EncoderFolder) -> Graph:
    from rlhf_loop.encoders.onnx_graph import Graph, ModernBertGraph, MPNetGraph, Rotary

    config, form = of.config, _form(of)
    weights = _Named(of)
    if of.kind == "mpnet":
        return MPNetGraph(weights, form, window=of.window)
    if of.kind != "modernbert":
        return Graph(weights, form, pooled=False)
    every = int(config.get("global_attn_every_n_layers", 3))
    types = config.get("layer_types") or [
        "sliding_attention" if layer % every else "full_attention" for layer in range(form.layers)
    ]
    ropes = config.get("rope_parameters") or {}
    base, local = (
        float((ropes.get(kind) or {}).get("rope_theta") or config.get(f"{name}_rope_theta") or usual)
        for kind, name, usual in (("full_attention", "global", 160000), ("sliding_attention", "local", 10000))
    )
    reach = int(config.get("local_attention", 128)) // 2
    rotary = Rotary(base, local, reach, tuple(kind == "sliding_attention" for kind in types))
    return ModernBertGraph(weights, form, rotary, window=of.window)


def _form(of: EncoderFolder) -> Form:
    from rlhf_loop.encoders.onnx_graph import Form

    config = of.config
    distilled, modern = of.kind == "distilbert", of.kind == "modernbert"
    activation = config["activation" if distilled else "hidden_activation" if modern else "hidden_act"]
    if activation not in _ACTIVATIONS or config.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(f"activation {activation}, positions {config.get('position_embedding_type')}")
    return Form(
        layers=int(config["n_layers" if distilled else "num_hidden_layers"]),
        heads=int(config["n_heads" if distilled else "num_attention_heads"]),
        width=int(config["dim" if distilled else "hidden_size"]),
        epsilon=1e-12 if distilled else float(config["norm_eps" if modern else "layer_norm_eps"]),
        first=first_position(config),
        approximate=_ACTIVATIONS[activation],
    )


def read_json(file: Path) -> dict[str, Any]:
    """Return what a file holds, nothing where there is none."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EncoderError(f"{file} is not valid JSON: {error}. Fetch the encoder again.") from error
    return values if isinstance(values, dict) else {}


def _sum(file: Path) -> str:
    """Return the sha256 of a file, and of the tensors that a graph keeps beside it."""
    sums = []
    for part in (file, file.with_name(f"{file.name}_data"), file.with_name(f"{file.name}.data")):
        if part.is_file():
            with part.open("rb") as stream:
                sums.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return " ".join(sums)


def _unusable(path: Path, what: str, advice: str = "Choose another encoder") -> EncoderError:
    return EncoderError(f"The encoder folder {path} {what}. {advice}, or set RLHF_ENCODER to another one.")
