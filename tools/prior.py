"""Learn the prior that is shipped, from answers that other people have rated, and write `rlhf_loop/reward/prior.json`.

`python -m tools.prior` reads FeedbackQA and SelQA, whose licence is Apache-2.0, from beside the checkout, and the
project's own sample. `make results` judges priors of the same making, each on a data set that it was not learnt from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from rlhf_loop.config import Settings
from rlhf_loop.domain import Example
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.reward import prior, recipe_named
from rlhf_loop.reward.classifier import Prior
from rlhf_loop.sample import RATINGS_FILE
from rlhf_loop.training.data import TrainingSet, assemble
from rlhf_loop.training.fit import read_features
from rlhf_loop.utils.arrays import Floats, Ints
from tools.report import say
from tools.results.data import FEEDBACKQA, SELQA, read_examples

RECIPE = recipe_named("passages")
#: Answers that a source counts for at most: the largest would otherwise be all there is.
_MOST = 1000
#: Ten times the penalty of a fit on ratings: what only one source teaches is no prior for others. By trial on MEDIQA
#: and on FeedbackQA, each with a prior from the other sets; SelQA was left for judging.
_PENALTY_C = RECIPE.penalty_c / 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where answers come from, and how many of them there are."""

    name: str
    licence: str
    questions: int
    answers: int


@dataclass(frozen=True, slots=True)
class Material:
    """A source's answers: their features, and 1 for each that is correct."""

    features: Floats
    label: Ints


def main() -> None:
    """Learn from the three sources and write the file."""
    encoder = load_encoder(Settings.from_env())
    found, sources = [], []
    for name, licence, data in (
        ("FeedbackQA (Li, Sharma, Lu, Cheung, Reddy, ACL 2022)", "Apache-2.0", assemble(read_examples(FEEDBACKQA)[0])),
        ("SelQA (Jurczyk, Zhai, Choi, ICTAI 2016)", "Apache-2.0", assemble(read_examples(SELQA)[0])),
        ("the sample of this project", "as the project", assemble(sample_examples())),
    ):
        found.append(material(data, encoder))
        sources.append(Source(name=name, licence=licence, questions=len(data.start) - 1, answers=len(data.row)))
        say(f"{sources[-1].answers:,} answers of {name}")
    content = prior.written(
        learn(found),
        recipe=RECIPE,
        encoder=encoder.id,
        sources=[asdict(source) for source in sources],
        made_by="python -m tools.prior",
    )
    prior.FILE.write_bytes(content)
    say(f"written to {prior.FILE.name}, {len(content):,} bytes")


def sample_examples() -> list[Example]:
    """Return the sample's ratings."""
    rows = map(json.loads, RATINGS_FILE.read_text(encoding="utf-8").splitlines())
    return [Example(row["user_prompt"], row["ai_response"], row["rating"], row["candidate_group"]) for row in rows]


def material(data: TrainingSet, encoder: TextEncoder) -> Material:
    """Compute what a source teaches by."""
    features = read_features(data, {RECIPE.name: np.ones(len(data.row), dtype=np.bool_)}, encoder)
    return Material(features.features[RECIPE.name].astype(np.float64), data.label)


def learn(sources: Sequence[Material]) -> Prior:
    """Fit one balanced logistic regression on all sources, each in its own scales and with a weight of its own.

    The scales of the prior are the means of theirs, its ranges reach as far as the widest of theirs.
    """
    from sklearn.linear_model import LogisticRegression

    tables = [source.features for source in sources]
    mean, deviation = (np.stack([of(table, axis=0) for table in tables]) for of in (np.mean, np.std))
    whole = np.where(deviation > 0, deviation, 1.0)
    weight = []
    for source in sources:
        counts = np.bincount(source.label, minlength=2)
        weight.append(min(len(source.label), _MOST) / 2 / counts[source.label])
    model = LogisticRegression(C=_PENALTY_C, max_iter=2000)
    model.fit(
        np.concatenate([(table - own) / scale for table, own, scale in zip(tables, mean, whole, strict=True)]),
        np.concatenate([source.label for source in sources]),
        sample_weight=np.concatenate(weight),
    )
    return Prior(
        coef=model.coef_[0],
        intercept=float(model.intercept_[0]),
        mean=mean.mean(axis=0),
        deviation=np.sqrt((deviation**2).mean(axis=0)),
        low=np.min([table.min(axis=0) for table in tables], axis=0),
        high=np.max([table.max(axis=0) for table in tables], axis=0),
    )


if __name__ == "__main__":
    main()
