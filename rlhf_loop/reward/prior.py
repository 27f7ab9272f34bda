"""Prior of a recipe's coefficients: what answers of other people's data have taught, before there are ratings here.

A fit on few ratings is shrunk to it instead of to nothing, and before the first training it can rank alone. The one
that is shipped, `prior.json`, was made by `python -m tools.prior`, and names what it was learnt from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_loop.encoders.runtime import same_model
from rlhf_loop.errors import ModelFileError
from rlhf_loop.reward.classifier import Prior, RewardClassifier, Scorer
from rlhf_loop.reward.model_file import LoadedModel, RewardModel
from rlhf_loop.reward.recipes import (
    ANSWER_FEATURES,
    FORMS,
    QualityRecipe,
    Recipe,
    TransformerRecipe,
    pointwise_columns,
    recipe_named,
)
from rlhf_loop.utils.arrays import Mask

FILE = Path(__file__).with_name("prior.json")
#: What a version's name begins with where the prior ranks.
NAME = "prior"
_COLUMNS = ("coef", "mean", "deviation", "low", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedPrior:
    """A prior with what it belongs to, a version of a recipe and an encoder; `sources` are what it was learnt from."""

    recipe: str
    recipe_version: int
    encoder: str
    prior: Prior
    sources: tuple[Mapping[str, Any], ...]
    sha256: str

    def as_model(self) -> LoadedModel:
        """Make it a model that can rank; its scores are not calibrated on any ratings."""
        columns = pointwise_columns(recipe_named(self.recipe))
        model = RewardModel(
            recipe=self.recipe,
            recipe_version=self.recipe_version,
            encoder=self.encoder,
            scorer=as_scorer(self.prior),
            pointwise=as_scorer(pointwise_prior(self.prior, columns)).spread(columns),
            card={NAME: True, "sources": list(self.sources)},
        )
        return LoadedModel(model, self.sha256, name=f"{NAME}-{self.sha256[:12]}")


def as_scorer(prior: Prior) -> Scorer:
    """Let a prior score by itself, in the scales of the data that taught it."""
    # A feature that never varied there says nothing.
    coef = prior.coef / np.where(prior.deviation > 0, prior.deviation, np.inf)
    return Scorer(coef, float(prior.intercept - prior.mean @ coef), prior.low, prior.high)


@cache
def shipped() -> ShippedPrior:
    """Return the prior that comes with the package."""
    return read(FILE.read_bytes())


def read(content: bytes) -> ShippedPrior:
    """Read what `written` has made."""
    values = json.loads(content)
    names = recipe_named(values["recipe"]).feature_names()
    columns = np.array([[values["features"][name][column] for column in _COLUMNS] for name in names]).T
    return ShippedPrior(
        recipe=values["recipe"],
        recipe_version=values["recipe_version"],
        encoder=values["encoder"],
        prior=Prior(**dict(zip(_COLUMNS, columns, strict=True)), intercept=values["intercept"]),
        sources=tuple(values["sources"]),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def written(prior: Prior, *, recipe: Recipe, encoder: str, sources: list[Mapping[str, Any]], made_by: str) -> bytes:
    """Return the file of a prior: JSON with its origin, and five numbers of four digits for each feature."""
    table = np.stack([getattr(prior, column) for column in _COLUMNS], axis=1)
    features = {
        name: dict(zip(_COLUMNS, (float(f"{value:.4g}") for value in row), strict=True))
        for name, row in zip(recipe.feature_names(), table.tolist(), strict=True)
    }
    values = {
        "made_by": made_by,
        "sources": sources,
        "recipe": recipe.name,
        "recipe_version": recipe.version,
        "encoder": encoder.partition("/")[0],
        "intercept": round(prior.intercept, 4),
    }
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in features.items()]
    head = json.dumps(values, indent=1).removesuffix("\n}")
    return (head + ',\n "features": {\n  ' + ",\n  ".join(lines) + "\n }\n}\n").encode()


def prior_of(recipe: Recipe, encoder: str) -> Prior | None:
    """Return the prior of a recipe for vectors of that encoder, None where none is known."""
    known = shipped()
    others = (QualityRecipe.name, TransformerRecipe.name)
    if recipe.name not in (known.recipe, *others) or not same_model(known.encoder, encoder):
        return None
    return widened(known.prior, len(recipe.feature_names()))


def widened(prior: Prior, columns: int) -> Prior:
    """Return a prior for more features behind those that it knows, of which it says nothing."""
    more = np.full(columns - len(prior.coef), np.nan)
    unknown = {name: np.append(getattr(prior, name), more) for name in ("mean", "deviation", "low", "high")}
    return Prior(coef=np.append(prior.coef, np.zeros(len(more))), intercept=prior.intercept, **unknown)


def pointwise_prior(prior: Prior, columns: Mask) -> Prior:
    """Return a prior of those columns alone, by which the answers to one question have the same order.

    The forms of a feature that compare it with the other candidates are the feature itself less what is the same for
    all of these. So within a question their coefficients add up to one.
    """
    kept, deviation = np.flatnonzero(columns), np.where(prior.deviation > 0, prior.deviation, np.inf)
    features = len(ANSWER_FEATURES)
    forms = (prior.coef / deviation)[: len(FORMS) * features].reshape(len(FORMS), features)
    known = kept < features
    coef = prior.coef[kept].copy()
    coef[known] = forms.sum(axis=0)[kept[known]] * prior.deviation[kept[known]]
    rest = {name: getattr(prior, name)[kept] for name in ("mean", "deviation", "low", "high")}
    return Prior(coef=coef, intercept=prior.intercept, **rest)


def classifier(
    recipe: Recipe, encoder: str, *, fold_count: int = 5, seed: int = 0, pointwise: bool = False
) -> RewardClassifier:
    """Make the classifier that a recipe is fitted by, with its prior if there is one for that encoder.

    Args:
        pointwise: for those columns alone that do not depend on the other candidates.
    """
    prior, scales = prior_of(recipe, encoder), recipe.scales()
    if pointwise:
        columns = pointwise_columns(recipe)
        prior = prior and pointwise_prior(prior, columns)
        scales = np.broadcast_to(scales, columns.shape)[columns]
    return RewardClassifier(
        penalty_c=recipe.penalty_c, scaled=recipe.scaled, prior=prior, scales=scales, fold_count=fold_count, seed=seed
    )


def model_of_prior(encoder: str) -> LoadedModel:
    """Return the prior as a model, to rank by before the first training.

    Raises:
        ModelFileError: it was learnt with another encoder.
    """
    known = shipped()
    if not same_model(known.encoder, encoder):
        raise ModelFileError(
            f"The prior was learnt with the encoder {known.encoder}, but {encoder} is in use; their vectors do not fit "
            "together. Set RLHF_RERANK_WITHOUT_MODEL=incoming until the first training (rlhf-loop train)."
        )
    return known.as_model()
