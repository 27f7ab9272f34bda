"""Sentence encoders with vectors of eight numbers, written into folders as sentence-transformers lays them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WIDTH, INNER, HEADS, LAYERS, POSITIONS = 8, 12, 2, 3, 40
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat", "dog", "query", "passage", ":", "."]

Weights = dict[str, np.ndarray]


def write(
    folder: Path, kind: str = "bert", *, pooling: str = "mean_tokens", prompts: dict[str, str] | None = None
) -> Weights:
    """Write an encoder of that kind into the folder, and return its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"bert": bert, "xlm-roberta": bert, "mpnet": mpnet, "modernbert": modernbert}[kind]()
    save_file(weights, folder / "model.safetensors")
    put(folder / "config.json", CONFIGS[kind] | {"model_type": kind})
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    listed = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{name}"}
        for place, (name, path) in enumerate(modules)
    ]
    put(folder / "modules.json", listed)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    put(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": WIDTH, f"pooling_mode_{pooling}": True})
    put(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": True})
    if prompts:
        put(folder / "config_sentence_transformers.json", {"prompts": prompts})
    _tokenizer().save(str(folder / "tokenizer.json"))
    return weights


def write_cross(folder: Path, kind: str = "bert") -> Weights:
    """Write a cross-encoder of that kind into the folder, as transformers lays it out, and return its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = _Draw()
    head = [("classifier.dense", WIDTH), ("classifier.out_proj", 1)]
    head = [("bert.pooler.dense", WIDTH), ("classifier", 1)] if kind == "bert" else head
    layers = (draw.linear(name, outputs, WIDTH) for name, outputs in head)
    before = "bert" if kind == "bert" else "roberta"
    weights = {f"{before}.{name}": value for name, value in bert().items()}
    weights |= {name: value for layer in layers for name, value in layer.items()}
    save_file(weights, folder / "model.safetensors")
    put(folder / "config.json", CONFIGS[kind] | {"model_type": kind, "architectures": ["ForSequenceClassification"]})
    put(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 20})
    pairs = "[CLS] $A [SEP] $B:1 [SEP]:1" if kind == "bert" else "[CLS] $A [SEP] [SEP] $B [SEP]"
    _tokenizer(pairs).save(str(folder / "tokenizer.json"))
    return weights


def _tokenizer(pair: str | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def put(file: Path, values: object) -> None:
    """Write a file of JSON."""
    file.write_text(json.dumps(values), encoding="utf-8")


_BERT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "xlm-roberta": _BERT | {"pad_token_id": 1},
    "mpnet": _BERT | {"pad_token_id": 1},
    "modernbert": {
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "hidden_activation": "gelu",
        "norm_eps": 1e-5,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
        "global_attn_every_n_layers": 3,
        "local_attention": 4,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
    },
}


def bert() -> Weights:
    """Return the weights of BERT, under its names."""
    draw = _Draw()
    weights = {
        "embeddings.word_embeddings.weight": draw(len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": draw(POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": draw(2, WIDTH),
        **draw.norm("embeddings.LayerNorm"),
    }
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        for part in ("query", "key", "value"):
            weights |= draw.linear(f"{at}attention.self.{part}", WIDTH, WIDTH)
        weights |= draw.linear(f"{at}attention.output.dense", WIDTH, WIDTH) | draw.norm(
            f"{at}attention.output.LayerNorm"
        )
        weights |= draw.linear(f"{at}intermediate.dense", INNER, WIDTH) | draw.linear(f"{at}output.dense", WIDTH, INNER)
        weights |= draw.norm(f"{at}output.LayerNorm")
    return weights


def mpnet() -> Weights:
    """Return the weights of MPNet, under its names, which begin with its own."""
    draw = _Draw()
    weights = {
        "embeddings.word_embeddings.weight": draw(len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": draw(POSITIONS, WIDTH),
        "encoder.relative_attention_bias.weight": draw(32, HEADS),
        **draw.norm("embeddings.LayerNorm"),
    }
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        for part in "qkvo":
            weights |= draw.linear(f"{at}attention.attn.{part}", WIDTH, WIDTH)
        weights |= draw.norm(f"{at}attention.LayerNorm") | draw.norm(f"{at}output.LayerNorm")
        weights |= draw.linear(f"{at}intermediate.dense", INNER, WIDTH) | draw.linear(f"{at}output.dense", WIDTH, INNER)
    return {f"mpnet.{name}": value for name, value in weights.items()}


def modernbert() -> Weights:
    """Return the weights of ModernBERT, under its names."""
    draw = _Draw()
    weights = {
        "embeddings.tok_embeddings.weight": draw(len(WORDS), WIDTH),
        "embeddings.norm.weight": 1 + draw(WIDTH),
        "final_norm.weight": 1 + draw(WIDTH),
    }
    for layer in range(LAYERS):
        at = f"layers.{layer}."
        if layer:
            weights[f"{at}attn_norm.weight"] = 1 + draw(WIDTH)
        weights[f"{at}attn.Wqkv.weight"] = draw(3 * WIDTH, WIDTH)
        weights[f"{at}attn.Wo.weight"] = draw(WIDTH, WIDTH)
        weights[f"{at}mlp_norm.weight"] = 1 + draw(WIDTH)
        weights[f"{at}mlp.Wi.weight"] = draw(2 * INNER, WIDTH)
        weights[f"{at}mlp.Wo.weight"] = draw(WIDTH, INNER)
    return weights


class _Draw:
    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def __call__(self, *shape: int) -> np.ndarray:
        return (0.4 * self._rng.standard_normal(shape)).astype(np.float32)

    def linear(self, name: str, outputs: int, inputs: int) -> Weights:
        return {f"{name}.weight": self(outputs, inputs), f"{name}.bias": self(outputs)}

    def norm(self, name: str) -> Weights:
        return {f"{name}.weight": 1 + self(WIDTH), f"{name}.bias": self(WIDTH)}
