"""The card of a version in Markdown: what it is, what it learned from, how good it is, and what it is not good for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_loop.registry.versions import Version

_MEASURES = {"accuracy": "Accuracy", "auc": "AUC", "precision": "Precision", "recall": "Recall", "brier": "Brier score"}
_ORDERS = {"model": "this model", "incoming": "incoming order", "random": "random order", "oracle": "best possible"}
_LIMITS = """\
- It has learned from the ratings above and from nobody else's: on other subjects, languages or kinds of answers its
  scores may mean little. Watch drift and fresh accuracy on the dashboard.
- It compares answers by their texts with the question. It does not check facts, and knows no sources.
- A score is the probability that an expert of this team would rate the answer 4 or 5, calibrated on the ratings above.
- Answers to questions that are nearly alike may stand on both sides of a comparison."""


def card(version: Version) -> str:
    """Return the card. What nobody measured is left out."""
    return "\n".join(_lines(version)) + "\n"


def _lines(version: Version) -> Iterator[str]:
    measured = version.metrics
    yield f"# Reward model {version.version}"
    yield ""
    yield f"- State: {version.state}. {version.reason}"
    yield f"- Made: {version.made_at:%Y-%m-%d %H:%M} UTC" + (f", by run {version.run_id}" if version.run_id else "")
    yield f"- Recipe: {version.recipe}; encoder: {version.encoder}"
    yield f"- File: {version.version}.joblib, sha256 {version.sha256}"
    yield ""
    yield "## Data"
    yield ""
    if not measured:
        yield "Nobody knows: it is older than the registry."
    else:
        yield from _data(version, measured)
    if overall := measured.get("overall"):
        yield ""
        yield "## Quality"
        yield ""
        yield from _quality(overall, measured.get("held_out") or {})
    if version.judgement:
        yield ""
        yield "## What the gate said"
        yield ""
        yield from (f"- {reason}" for reason in version.judgement.get("reasons", ()))
    yield ""
    yield "## Limits"
    yield ""
    yield _LIMITS


def _data(version: Version, measured: Mapping[str, Any]) -> Iterator[str]:
    overall, held_out, pairs = (measured.get(name) or {} for name in ("overall", "held_out", "pairs"))
    yield (
        f"- {overall.get('answers', 0)} rated answers to {overall.get('questions', 0)} questions, judged by "
        f"ratings of {'experts' if measured.get('judged_by') == 'expert' else 'end users'}; fitted on "
        f"{measured.get('trained_on', 0)} of them, {held_out.get('answers', 0)} held out"
    )
    if version.frozen_share:
        yield f"- {version.frozen_share:.0%} of all questions are frozen: no version is fitted on them"
    if measured.get("end_users"):
        yield f"- {measured['end_users']} answers that only end users rated, weight {measured['end_user_weight']:.2f}"
    if pairs.get("corrections") or pairs.get("preferences"):
        yield f"- {pairs.get('corrections', 0)} corrections and {pairs.get('preferences', 0)} preferences"


def _quality(overall: Mapping[str, Any], held_out: Mapping[str, Any]) -> Iterator[str]:
    yield "Each question judged by a model that was not fitted on it; in brackets 95 % intervals, by questions."
    yield ""
    yield "| | all questions | held out, this very model |"
    yield "|---|---|---|"
    for name, label in _MEASURES.items():
        yield f"| {label} | {_interval(overall.get(name))} | {_interval(held_out.get(name))} |"
    yield ""
    yield "| Order of the answers | P@1 | NDCG | MRR |"
    yield "|---|---|---|---|"
    for name, label in _ORDERS.items():
        if order := (overall.get("orders") or {}).get(name):
            values = (_interval(order.get(measure)) for measure in ("precision_at_1", "ndcg", "mrr"))
            yield f"| {label} | {' | '.join(values)} |"


def _interval(value: Mapping[str, Any] | None) -> str:
    if not value or value.get("value") is None:
        return "-"
    if value.get("low") is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
