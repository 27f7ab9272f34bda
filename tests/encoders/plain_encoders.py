"""Encoders computed as their papers have them, one text at a time, in double precision."""

from __future__ import annotations

import math

import numpy as np
from tiny_encoders import HEADS, LAYERS, WIDTH, WORDS, Weights


def ids(text: str) -> list[int]:
    words = text.lower().split()
    return [2, *(WORDS.index(word) if word in WORDS else 1 for word in words), 3]


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x.ravel()]).reshape(x.shape)


def normal(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * weight + bias


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return what the heads see, each at its part of the numbers; `bias` is heads x tokens x tokens."""
    q, k, v = (x.reshape(len(x), HEADS, -1).transpose(1, 0, 2) for x in (q, k, v))
    scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]) + bias
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(q[0]), -1)


def bert(
    w: Weights, tokens: list[int], first: int = 0, names: tuple[str, ...] = ("query", "key", "value")
) -> np.ndarray:
    """Compute BERT as its paper has it, one text at a time, in double precision; MPNet by other names."""

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        return normal(x, w[f"{name}.weight"], w[f"{name}.bias"])

    distance = np.arange(len(tokens))[np.newaxis] - np.arange(len(tokens))[:, np.newaxis]
    of_distance = w.get("encoder.relative_attention_bias.weight")
    bias = 0.0 if of_distance is None else np.array([[of_distance[bucket(d)] for d in row] for row in distance])
    bias = np.zeros((HEADS, 1, 1)) if of_distance is None else bias.transpose(2, 0, 1)
    x = w["embeddings.word_embeddings.weight"][tokens].astype(np.float64)
    x = x + w["embeddings.position_embeddings.weight"][first : first + len(tokens)]
    x = x + (w["embeddings.token_type_embeddings.weight"][0] if of_distance is None else 0)
    x = norm("embeddings.LayerNorm", x)
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        before = f"{at}attention.self." if of_distance is None else f"{at}attention.attn."
        after = (f"{at}attention.output.dense", f"{at}attention.output.LayerNorm")
        after = after if of_distance is None else (f"{at}attention.attn.o", f"{at}attention.LayerNorm")
        seen = attention(*(linear(before + name, x) for name in names), bias)
        x = norm(after[1], linear(after[0], seen) + x)
        x = norm(f"{at}output.LayerNorm", linear(f"{at}output.dense", gelu(linear(f"{at}intermediate.dense", x))) + x)
    return x


def bucket(distance: int) -> int:
    """Return the number of a distance: near ones have one each, farther ones share them, from 128 on all do."""
    apart = abs(distance)
    far = min(15, 8 + int(math.log(max(apart, 1) / 8) / math.log(128 / 8) * 8)) if apart >= 8 else apart
    return far + (16 if distance > 0 else 0)


def modernbert(w: Weights, tokens: list[int]) -> np.ndarray:
    """Compute ModernBERT as its paper has it: pre-norm, rotary positions, local attention in two layers of three."""
    place = np.arange(len(tokens))
    x = normal(w["embeddings.tok_embeddings.weight"][tokens].astype(np.float64), w["embeddings.norm.weight"])
    for layer in range(LAYERS):
        at, local = f"layers.{layer}.", layer % 3 != 0
        inner = normal(x, w[f"{at}attn_norm.weight"]) if layer else x
        q, k, v = np.split(inner @ w[f"{at}attn.Wqkv.weight"].T, 3, axis=1)
        base, size = (10000.0 if local else 160000.0), WIDTH // HEADS
        angle = place[:, np.newaxis] * base ** (-np.arange(0, size, 2) / size)

        def turned(x: np.ndarray, angle: np.ndarray = angle) -> np.ndarray:
            first, second = np.split(x.reshape(len(x), HEADS, -1), 2, axis=-1)
            cos, sin = np.cos(angle)[:, np.newaxis], np.sin(angle)[:, np.newaxis]
            return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(len(x), -1)

        far = local & (np.abs(place[np.newaxis] - place[:, np.newaxis]) > 2)
        seen = attention(turned(q), turned(k), v, np.where(far, -1e9, 0.0)[np.newaxis])
        x = x + seen @ w[f"{at}attn.Wo.weight"].T
        value, gate = np.split(normal(x, w[f"{at}mlp_norm.weight"]) @ w[f"{at}mlp.Wi.weight"].T, 2, axis=1)
        x = x + (gelu(value) * gate) @ w[f"{at}mlp.Wo.weight"].T
    return normal(x, w["final_norm.weight"])


def mpnet(w: Weights, tokens: list[int]) -> np.ndarray:
    return bert({name.removeprefix("mpnet."): value for name, value in w.items()}, tokens, 2, ("q", "k", "v"))


def roberta(w: Weights, tokens: list[int]) -> np.ndarray:
    return bert(w, tokens, 2)
