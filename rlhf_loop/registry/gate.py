"""The gate: decides whether a new model may go live by itself.

It has to be better than the incoming order, and not worse than the model that is live, on questions that neither was
fitted on. Where that cannot be told it waits for somebody to decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Interval, ModelState
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RewardModel
from rlhf_loop.training.comparison import Comparison, against_incoming, compare, predict
from rlhf_loop.training.evaluation import ENOUGH_QUESTIONS, Evaluation
from rlhf_loop.training.train import TrainingResult

#: Share of the bootstrap's draws in which a model has to be better than the incoming order. Not more: to hold back one
#: that is better costs the users, too, and few questions can prove much.
CERTAIN = 0.9
#: Answers to compare AUC on where too few questions have two or more of them.
_ENOUGH_ANSWERS = 20
#: The states from the best to the worst: the worst verdict of all rules decides.
_SEVERITY = (ModelState.LIVE, ModelState.CANDIDATE, ModelState.REJECTED)
#: A rule's state and its reason, a sentence for people.
_Verdict = tuple[ModelState, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveModel:
    """The live model, which a new one is compared with. `fitted` are the questions that it was fitted on, None where
    that is not known: then it is judged on some that it may have seen, which flatters it.
    """

    version: str
    model: RewardModel
    fitted: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The gate's verdict: `state` is live (it may), candidate (it waits) or rejected (worse than the incoming order).

    `reasons` are sentences for people, with the intervals. `incoming` compares P@1 with that of the incoming order, the
    others with the version `live`; all are None where nothing was live.
    """

    state: ModelState
    reasons: tuple[str, ...]
    incoming: Comparison | None
    live: str | None
    precision_at_1: Comparison | None
    auc: Comparison | None

    @property
    def reason(self) -> str:
        """All reasons in one line."""
        return " ".join(self.reasons)


def judge(trained: TrainingResult, live: LiveModel | None, *, encoder: TextEncoder) -> Judgement:
    """Compare a new model with the incoming order and with the live one.

    Better than the incoming order: P@1 is higher, and so it is in nine of ten draws of a bootstrap over questions;
    where too few questions have a known incoming order, the 95 % interval of AUC lies above one half. Not worse than
    the live model: P@1 is at least as high, and AUC not certainly lower; where too few questions have two or more rated
    answers, AUC is at least as high. Each question is judged by models that were not fitted on it: a frozen or held-out
    one by the new model itself, another by that of its fold.
    """
    rows = trained.judged & np.isfinite(trained.probability)
    incoming = against_incoming(trained.data.predictions(trained.probability[rows], rows))
    verdicts = [_against_incoming(incoming, trained.report.overall)]
    found = None
    if live is None:
        verdicts.append((ModelState.LIVE, "There was no live model to compare it with."))
    else:
        if live.fitted is not None:
            rows &= ~trained.data.seen(live.fitted)
        theirs = predict(live.model, trained.data, rows, encoder)
        rows &= np.isfinite(theirs)
        found = compare(trained.data.predictions(trained.probability[rows], rows), theirs[rows])
        verdicts.append(_against_live(live, found.precision_at_1, found.auc))
    return Judgement(
        state=max((state for state, _ in verdicts), key=_SEVERITY.index),
        reasons=tuple(reason for _, reason in verdicts),
        incoming=incoming,
        live=live.version if live else None,
        precision_at_1=found.precision_at_1 if found else None,
        auc=found.auc if found else None,
    )


def _against_incoming(ranked: Comparison | None, overall: Evaluation) -> _Verdict:
    if ranked is not None and ranked.questions >= ENOUGH_QUESTIONS:
        gain, certain = ranked.difference, ranked.certainty >= CERTAIN
        measured = (
            f"P@1 {_points(gain)} on {ranked.questions} questions, higher in {ranked.certainty:.0%} of the bootstrap's "
            "draws"
        )
    else:
        # Too few questions to tell: then against chance.
        auc = overall.auc
        gain = Interval(auc.value - 0.5, auc.low - 0.5, auc.high - 0.5)
        certain = gain.low > 0
        measured = (
            f"only {overall.incoming_questions} questions can be compared with their incoming order; AUC against "
            f"chance {_points(gain)}"
        )
    if gain.value < 0:
        return ModelState.REJECTED, f"It is worse than the incoming order: {measured}."
    if certain and gain.value > 0:
        return ModelState.LIVE, f"It is better than the incoming order: {measured}."
    return ModelState.CANDIDATE, f"It is not certain to be better than the incoming order: {measured}."


def _against_live(live: LiveModel, ranked: Comparison | None, auc: Comparison | None) -> _Verdict:
    flattered = " (which may have been fitted on some of them)" if live.fitted is None else ""
    beside = f"the live model {live.version}{flattered}"
    if ranked is not None and ranked.questions >= ENOUGH_QUESTIONS:
        measured = f"P@1 {_points(ranked.difference)} on {ranked.questions} questions"
        if auc is not None:
            measured += f", AUC {_points(auc.difference)} on {auc.answers} answers"
        if ranked.difference.value < 0:
            return ModelState.CANDIDATE, f"It is worse than {beside}: {measured}."
        if auc is not None and auc.difference.high < 0:
            return ModelState.CANDIDATE, f"It separates good from bad answers worse than {beside}: {measured}."
        return ModelState.LIVE, f"It is not worse than {beside}: {measured}."
    if auc is not None and auc.answers >= _ENOUGH_ANSWERS:
        measured = f"AUC {_points(auc.difference)} on {auc.answers} answers; too few questions for P@1"
        if auc.difference.value < 0:
            return ModelState.CANDIDATE, f"It is worse than {beside}: {measured}."
        return ModelState.LIVE, f"It is not worse than {beside}: {measured}."
    return ModelState.CANDIDATE, (
        f"It cannot be compared with {beside} yet: too few rated answers to questions that neither was fitted on. More "
        "ratings to new questions will tell."
    )


def _points(value: Interval) -> str:
    return f"{100 * value.value:+.1f} points (95 % {100 * value.low:+.1f} to {100 * value.high:+.1f})"
