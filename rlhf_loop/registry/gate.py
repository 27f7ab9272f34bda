"""The gate: decides whether a new model may go live by itself.

It has to be better than the incoming order, and not worse than the model that is live, on questions that neither was
fitted on. Where that cannot be told it waits for somebody to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Interval, ModelState
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RewardModel
from rlhf_loop.training.comparison import CHANCE, Comparison, Comparisons, against_incoming, by_chance, compare, predict
from rlhf_loop.training.evaluation import ENOUGH_QUESTIONS, Predictions, evaluate
from rlhf_loop.training.train import TrainingResult

#: Share of the bootstrap's draws in which a model has to be better than the incoming order by one of the measures. Not
#: more: to hold back one that is better costs the users, too, and few questions can prove much. This, `MARGIN` and
#: `CHANCE` were chosen on the draws of an earlier simulation of the same sets; docs/GATE.md has what comes of them.
CERTAIN = 0.85
#: P@1 that a model may lose, as measured, if it is certainly better by another measure: a few near ties.
MARGIN = 0.02
#: Questions on which an order can be compared with another: of fewer even the best leaves chance too much room.
LEAST_QUESTIONS = 4
#: Answers to compare AUC on where too few questions have two or more of them.
_ENOUGH_ANSWERS = 20
_NAMES = {"precision_at_1": "P@1", "ndcg": "NDCG", "concordance": "pairs in the right order"}
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

    `reasons` are sentences for people, with the intervals. The measures that begin with `incoming` are beside those of
    the incoming order, `precision_at_1` and `auc` beside those of the version `live`; None where nothing was live, or
    where they cannot be told. `incoming` is P@1, `incoming_concordance` the share of pairs in the right order.
    """

    state: ModelState
    reasons: tuple[str, ...]
    incoming: Comparison | None
    live: str | None
    precision_at_1: Comparison | None
    auc: Comparison | None
    incoming_ndcg: Comparison | None = None
    incoming_concordance: Comparison | None = None

    @property
    def reason(self) -> str:
        """All reasons in one line."""
        return " ".join(self.reasons)


def judge(trained: TrainingResult, live: LiveModel | None, *, encoder: TextEncoder) -> Judgement:
    """Compare a new model with the incoming order (see `beside_incoming`) and with the live one.

    Not worse than the live model: P@1 is at least as high, and AUC not certainly lower; or P@1 is lower by a few near
    ties, and another measure certainly higher. Where too few questions have two or more rated answers, AUC is at least
    as high. Each question is judged by models that were not fitted on it: a frozen or held-out one by the new model
    itself, another by that of its fold.
    """
    rows = trained.judged & np.isfinite(trained.probability)
    first = beside_incoming(trained.data.predictions(trained.probability[rows], rows))
    verdicts = [(first.state, first.reason)]
    found = None
    if live is None:
        verdicts.append((ModelState.LIVE, "There was no live model to compare it with."))
    else:
        if live.fitted is not None:
            rows &= ~trained.data.seen(live.fitted)
        theirs = predict(live.model, trained.data, rows, encoder)
        rows &= np.isfinite(theirs)
        found = compare(trained.data.predictions(trained.probability[rows], rows), theirs[rows])
        verdicts.append(_against_live(live, found))
    return Judgement(
        state=max((state for state, _ in verdicts), key=_SEVERITY.index),
        reasons=tuple(reason for _, reason in verdicts),
        incoming=first.measured.precision_at_1,
        incoming_ndcg=first.measured.ndcg,
        incoming_concordance=first.measured.concordance,
        live=live.version if live else None,
        precision_at_1=found.precision_at_1 if found else None,
        auc=found.auc if found else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BesideIncoming:
    """The gate's verdict on a model beside the incoming order, with what was `measured`."""

    state: ModelState
    reason: str
    measured: Comparisons


def beside_incoming(of: Predictions) -> BesideIncoming:
    """Tell whether an order is better than the incoming one, by predictions of models that had not seen the questions.

    Better: by P@1, NDCG or the share of pairs in the right order in `CERTAIN` of the draws of a bootstrap over
    questions, P@1 as measured not lower by more than `MARGIN`, and hardly by chance (`CHANCE`). Which of the measures
    sees most depends on the lists: on short ones pairs and NDCG, on many questions P@1. Where the incoming order is not
    known, better than chance is all that can be asked for.
    """
    measured = against_incoming(of)
    first = measured.precision_at_1
    known = first.questions if first else 0
    several = int((np.bincount(of.question) > 1).sum())
    luck = by_chance(of)
    if first is not None and known >= LEAST_QUESTIONS:
        state, reason = _ordered(measured, first, luck)
    elif known and known >= several - known:
        state = ModelState.CANDIDATE
        reason = (
            f"It cannot be compared with the incoming order yet: only {known} of the {LEAST_QUESTIONS} questions that "
            "it takes have two or more rated answers. Rate answers to more questions."
        )
    else:
        state, reason = _without_order(of, luck, several=several)
    return BesideIncoming(state=state, reason=reason, measured=measured)


def _ordered(measured: Comparisons, first: Comparison, luck: float) -> _Verdict:
    orders = _of_order(measured)
    said = f"{_said(orders)}, on {first.questions} questions"
    sure = [each for each in orders if each.certainty >= CERTAIN]
    loss = -first.difference.value
    if loss > 0 and not any(each.difference.value > 0 for each in orders):
        return ModelState.REJECTED, f"It is worse than the incoming order: {said}."
    if not sure:
        return ModelState.CANDIDATE, f"It is not certain to be better than the incoming order: {said}."
    if loss > MARGIN:
        return ModelState.CANDIDATE, (
            f"It puts a good answer first less often than the incoming order, by more than {100 * MARGIN:.0f} points, "
            f"though it is better by another measure: {said}."
        )
    if luck > CHANCE:
        return ModelState.CANDIDATE, (
            f"It looks better than the incoming order, but so would a model that knows nothing, {_probably(luck)}: "
            f"{said}."
        )
    by = " and ".join(_NAMES[each.measure] for each in sure)
    return ModelState.LIVE, f"It is better than the incoming order, certainly by {by}: {said}."


def _without_order(of: Predictions, luck: float, *, several: int) -> _Verdict:
    """Judge where nothing is known of the incoming order but that it exists."""
    auc = evaluate(of).auc
    why = (
        "the incoming order is unknown (import shown_rank)"
        if several
        else "no question has two or more rated answers, so orders cannot be compared"
    )
    said = f"AUC against chance {_points(Interval(auc.value - 0.5, auc.low - 0.5, auc.high - 0.5))}; {why}"
    if auc.value < 0.5:
        return ModelState.REJECTED, f"It is worse than chance: {said}."
    if luck <= CHANCE:
        return ModelState.LIVE, f"It is better than chance: {said}."
    return ModelState.CANDIDATE, (
        f"It is not certain to be better than chance, as a model that knows nothing would look as good, "
        f"{_probably(luck)}: {said}."
    )


def _probably(luck: float) -> str:
    return f"with a probability of {luck:.0%}" if luck >= 0.1 else f"with a probability of {luck:.1%}"


def _against_live(live: LiveModel, found: Comparisons) -> _Verdict:
    ranked, auc = found.precision_at_1, found.auc
    flattered = " (which may have been fitted on some of them)" if live.fitted is None else ""
    beside = f"the live model {live.version}{flattered}"
    if ranked is not None and ranked.questions >= ENOUGH_QUESTIONS:
        measured = f"{_said(_of_order(found))}, on {ranked.questions} questions"
        if auc is not None:
            measured += f", AUC {_points(auc.difference)} on {auc.answers} answers"
        loss = -ranked.difference.value
        sure = any(each.certainty >= CERTAIN for each in (auc, *_of_order(found)) if each)
        if loss > MARGIN or (loss > 0 and not sure):
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


def _of_order(found: Comparisons) -> tuple[Comparison, ...]:
    return tuple(each for each in (found.precision_at_1, found.ndcg, found.concordance) if each)


def _said(orders: Sequence[Comparison]) -> str:
    return ", ".join(f"{_NAMES[each.measure]} {_points(each.difference)}" for each in orders)


def _points(value: Interval) -> str:
    return f"{100 * value.value:+.1f} points (95 % {100 * value.low:+.1f} to {100 * value.high:+.1f})"
