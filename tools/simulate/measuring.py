"""The true quality of a model: measured on questions that the loop never sees, by their true grades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RewardModel
from rlhf_loop.training.evaluation import Evaluation, Predictions, evaluate
from tools.simulate.world import Asked


@dataclass(frozen=True, slots=True)
class Scores:
    """Measures of one model or order; nan where there is nothing to measure by. `new_*` are of the new topic alone."""

    accuracy: float
    auc: float
    precision_at_1: float
    new_accuracy: float
    new_precision_at_1: float


@dataclass(frozen=True, slots=True)
class Yardstick:
    """Questions with the true grades of all their answers."""

    questions: Sequence[Asked]
    encoder: TextEncoder

    def of_model(self, model: RewardModel) -> Scores:
        """Measure a model."""
        scores = model.score([asked.question for asked in self.questions], self.encoder)
        return self._scores(np.concatenate(scores), "model")

    def of_incoming(self) -> Scores:
        """Measure the order in which the answers came; it knows no accuracy."""
        nothing = np.full(sum(len(asked.answers) for asked in self.questions), 0.5)
        found = self._scores(nothing, "incoming")
        return Scores(np.nan, np.nan, found.precision_at_1, np.nan, found.new_precision_at_1)

    def best_possible(self) -> float:
        """Return the P@1 that the best order of all would have."""
        return (
            self._evaluation(np.zeros(sum(len(each.answers) for each in self.questions)), only_new=False)
            .orders["oracle"]
            .precision_at_1.value
        )

    def _scores(self, probability: np.ndarray, order: str) -> Scores:
        whole, new = (self._evaluation(probability, only_new=only_new) for only_new in (False, True))
        return Scores(
            whole.accuracy.value,
            whole.auc.value,
            whole.orders[order].precision_at_1.value,
            new.accuracy.value,
            new.orders[order].precision_at_1.value if order in new.orders else np.nan,
        )

    def _evaluation(self, probability: np.ndarray, *, only_new: bool) -> Evaluation:
        question = np.repeat(np.arange(len(self.questions)), [len(asked.answers) for asked in self.questions])
        answers = [answer for asked in self.questions for answer in asked.answers]
        kept = np.array([asked.new_topic or not only_new for asked in self.questions], dtype=np.bool_)[question]
        predictions = Predictions(
            np.unique(question[kept], return_inverse=True)[1],
            np.array([answer.rating for answer in answers], dtype=np.intp)[kept],
            probability[kept],
            np.array([answer.rank or np.nan for answer in answers], dtype=np.float64)[kept],
        )
        return evaluate(predictions, draws=0)
