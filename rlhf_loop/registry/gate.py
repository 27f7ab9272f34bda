"""The gate: decides whether a new model may go live by itself.

It has to be better than the incoming order, not worse than the model that is live, and to know an answer to another
question from one to this, each question judged by models that were not fitted on it. Where that cannot be told it waits
for somebody to decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Interval, ModelState
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RewardModel
from rlhf_loop.training.comparison import (
    Comparison,
    Comparisons,
    against_incoming,
    by_chance,
    by_chance_within,
    compare,
    predict,
)
from rlhf_loop.training.evaluation import ENOUGH_QUESTIONS, Predictions, evaluate
from rlhf_loop.training.relevance import ENOUGH
from rlhf_loop.training.train import Incumbent, TrainingReport, TrainingResult
from rlhf_loop.utils.arrays import Floats, Mask
from rlhf_loop.utils.translation import Message

#: Share of the bootstrap's draws in which a model has to be better than the incoming order by one of the measures. Not
#: more: to hold back one that is better costs the users, too, and few questions can prove much. This and `MARGIN` were
#: chosen on the draws of an earlier simulation of the same sets; docs/GATE.md has what comes of them.
CERTAIN = 0.85
#: How probable it may be that a model that knows nothing would look as good. Chosen on the draws of docs/GATE.md: with
#: 0.01 labels by lot went live in 17 of 480 cases, with half of that in 9, and 4 % fewer good models of 50 ratings do.
CHANCE = 0.005
#: The same for being worse than a live model of the same recipe that learned from fewer ratings: to have learned from
#: more is a reason to be better, and of four measures on a few new questions one is soon worse by chance.
CERTAIN_SUCCESSOR = 0.95
#: P@1 that a model may lose, as measured, if it is certainly better by another measure: a few near ties.
MARGIN = 0.02
#: Questions on which an order can be compared with another. One that is no better does better on all three in one of
#: eight cases, which is about what `CERTAIN` allows; on both of two in one of four.
LEAST_QUESTIONS = 3
#: Answers to compare AUC on where too few questions have two or more of them.
_ENOUGH_ANSWERS = 20
_NAMES = {"precision_at_1": "P@1", "ndcg": "NDCG", "concordance": Message("pairs in the right order"), "auc": "AUC"}
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

    @property
    def incumbent(self) -> Incumbent | None:
        """The recipe and its questions, by which a training judges it on what the model has seen; None if unknown."""
        model, fitted = self.model, self.fitted
        return None if fitted is None else Incumbent(model.recipe, fitted, crossed=model.cross_encoder != "")


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
        return Message.joined(*self.reasons)


def judge(trained: TrainingResult, live: LiveModel | None, *, encoder: TextEncoder, apart: str = "") -> Judgement:
    """Compare a new model with the incoming order (see `beside_incoming`) and with the live one (`beside_live`).

    Where the incoming order is unknown, one that does not look whether an answer is about the question waits, too.

    Each question is judged by models that were not fitted on it: a frozen or held-out one by the new model itself,
    another by that of its fold. `apart` says why a live model that there is was not compared.
    """
    rows = trained.judged & np.isfinite(trained.probability)
    of = trained.data.predictions(trained.probability[rows], rows)
    first = beside_incoming(of)
    verdicts = [(first.state, first.reason)]
    ordered = first.measured.precision_at_1
    if ordered is None or ordered.questions < LEAST_QUESTIONS:
        verdicts += _off_subject(trained.report)
    found = None
    if live is None:
        verdicts.append((ModelState.LIVE, apart or Message("There was no live model to compare it with.")))
    else:
        own = live_scores(trained, live.model, live.fitted, rows, encoder)
        again = None if trained.incumbent is None else trained.incumbent[rows]
        second = beside_live(
            of, own, again, live=live.version, known=live.fitted is not None, successor=_succeeds(trained, live)
        )
        verdicts.append((second.state, second.reason))
        found = second.measured
    return Judgement(
        state=max((state for state, _ in verdicts), key=_SEVERITY.index),
        reasons=tuple(reason for _, reason in verdicts),
        incoming=ordered,
        incoming_ndcg=first.measured.ndcg,
        incoming_concordance=first.measured.concordance,
        live=live.version if live else None,
        precision_at_1=found.precision_at_1 if found else None,
        auc=found.auc if found else None,
    )


def _off_subject(report: TrainingReport) -> Iterator[_Verdict]:
    """Hold a model back that certainly puts right answers to other questions before right ones too often.

    Only where the incoming order is unknown: where it is known, lists as they were offered have decided already.
    """
    found = report.relevance
    if found is not None and found.bad:
        of = found.accuracy
        reason = Message(
            "It does not look whether an answer is about the question: of pairs of a right answer and one to another "
            "question it puts {share:.0%} in the right order (95 % {low:.0%} to {high:.0%}), and {enough:.0%} are "
            "asked for. Have answers rated that miss their question, or train another recipe (--recipe auto).",
            share=of.value,
            low=of.low,
            high=of.high,
            enough=ENOUGH,
        )
        yield ModelState.CANDIDATE, reason


def _succeeds(trained: TrainingResult, live: LiveModel) -> bool:
    """Tell whether a model learned by the live one's recipe from at least as many questions."""
    same = (trained.report.recipe, trained.model.cross_encoder) == (live.model.recipe, live.model.cross_encoder)
    return same and live.fitted is not None and len(trained.fitted) >= len(live.fitted)


def live_scores(
    trained: TrainingResult, model: RewardModel, fitted: NDArray[np.int64] | None, rows: Mask, encoder: TextEncoder
) -> Floats:
    """Return what the live model says of those rated answers whose questions it has not seen; nan for the others."""
    unseen = rows if fitted is None else rows & ~trained.data.seen(fitted)
    return predict(model, trained.data, unseen, encoder)[rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """The gate's verdict on a model beside another order or model, with what was `measured`."""

    state: ModelState
    reason: str
    measured: Comparisons


def beside_incoming(of: Predictions) -> Beside:
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
    if first is not None and known >= LEAST_QUESTIONS:
        # Whoever orders each list well need not know which list has good answers, nor the other way round. Who may pass
        # either of two tests is lucky twice as often (Bonferroni 1936).
        state, reason = _ordered(measured, first, min(1.0, 2 * by_chance(of), 2 * by_chance_within(of)))
    elif known and known >= several - known:
        state = ModelState.CANDIDATE
        reason = Message(
            "It cannot be compared with the incoming order yet: only {n} of the {least} questions that it takes have "
            "two or more rated answers. Rate answers to more questions.",
            n=known,
            least=LEAST_QUESTIONS,
        )
    else:
        state, reason = _without_order(of, by_chance(of), several=several)
    return Beside(state=state, reason=reason, measured=measured)


def _ordered(measured: Comparisons, first: Comparison, luck: float) -> _Verdict:
    orders = _of_order(measured)
    said = Message("{measures}, on {n} questions", measures=_said(orders), n=first.questions)
    sure = [each for each in orders if each.certainty >= CERTAIN]
    loss = -first.difference.value
    if loss > 0 and not any(each.difference.value > 0 for each in orders):
        return ModelState.REJECTED, Message("It is worse than the incoming order: {measured}.", measured=said)
    if not sure:
        return ModelState.CANDIDATE, Message(
            "It is not certain to be better than the incoming order: {measured}.", measured=said
        )
    if loss > MARGIN:
        return ModelState.CANDIDATE, Message(
            "It puts a good answer first less often than the incoming order, by more than {margin:.0f} points, though "
            "it is better by another measure: {measured}.",
            margin=100 * MARGIN,
            measured=said,
        )
    if luck > CHANCE:
        return ModelState.CANDIDATE, Message(
            "It looks better than the incoming order, but so would a model that knows nothing, {probably}: {measured}.",
            probably=_probably(luck),
            measured=said,
        )
    by = tuple(_in_draws(each.measure, each.certainty) for each in sure)
    return ModelState.LIVE, Message("It is better than the incoming order by {by}: {measured}.", by=by, measured=said)


def _in_draws(measure: str, share: float) -> Message:
    return Message("{measure} (in {share:.0%} of draws)", measure=_NAMES[measure], share=share)


def _without_order(of: Predictions, luck: float, *, several: int) -> _Verdict:
    """Judge where nothing is known of the incoming order but that it exists."""
    auc = evaluate(of).auc
    why = (
        Message("the incoming order is unknown (import shown_rank)")
        if several
        else Message("no question has two or more rated answers, so orders cannot be compared")
    )
    points = _points(Interval(auc.value - 0.5, auc.low - 0.5, auc.high - 0.5))
    said = Message("AUC against chance {points}; {why}", points=points, why=why)
    if auc.value < 0.5:
        return ModelState.REJECTED, Message("It is worse than chance: {measured}.", measured=said)
    if luck <= CHANCE:
        return ModelState.LIVE, Message("It is better than chance: {measured}.", measured=said)
    return ModelState.CANDIDATE, Message(
        "It is not certain to be better than chance, as a model that knows nothing would look as good, {probably}: "
        "{measured}.",
        probably=_probably(luck),
        measured=said,
    )


def _probably(luck: float) -> str:
    if luck >= 0.1:
        return Message("with a probability of {share:.0%}", share=luck)
    return Message("with a probability of {share:.1%}", share=luck)


def beside_live(
    of: Predictions, own: Floats, again: Floats | None, *, live: str, known: bool = True, successor: bool = False
) -> Beside:
    """Tell whether a model is worse than the live one, by predictions of models that had not seen the questions.

    `own` is what the live model says of the questions that it had not seen, nan for the others. For those it is `again`
    that counts where there is any: what its recipe says, fitted once more to the live model's questions and not to the
    one that is asked for. Worse: by any measure in `CERTAIN` of the draws of a bootstrap over questions; or P@1 as
    measured is lower, unless by a few near ties where another measure is certainly higher. A `successor`, of the same
    recipe and from as many questions or more, is worse only by a measure in `CERTAIN_SUCCESSOR` of the draws.
    """
    theirs = own if again is None else np.where(np.isfinite(own), own, again)
    there = np.isfinite(theirs)
    found = compare(of.only(there), theirs[there])
    beside = Message("the live model {version}", version=live)
    if not known:
        beside = Message("{model} (which may have been fitted on some of them)", model=beside)
    refitted = again is not None
    state, reason = _against_live(found, beside, refitted=refitted, successor=successor)
    return Beside(state=state, reason=reason, measured=found)


def _against_live(found: Comparisons, beside: str, *, refitted: bool, successor: bool) -> _Verdict:
    first = found.precision_at_1 if found.precision_at_1 and found.precision_at_1.questions >= LEAST_QUESTIONS else None
    auc = found.auc if found.auc and found.auc.answers >= _ENOUGH_ANSWERS else None
    every = [*(_of_order(found) if first else ()), *([auc] if auc else [])]
    told: list[str] = []
    if first is not None:
        told.append(Message("{measures}, on {n} questions", measures=_said(_of_order(found)), n=first.questions))
        if refitted:
            told[0] = Message("{measured} (by its recipe fitted anew where it has seen them)", measured=told[0])
    if auc is not None:
        told.append(Message("AUC {points} on {n} answers", points=_points(auc.difference), n=auc.answers))
    measured = Message.joined(*told, by=", ")
    worse = [each for each in every if each.doubt >= (CERTAIN_SUCCESSOR if successor else CERTAIN)]
    if worse:
        by = tuple(_in_draws(each.measure, each.doubt) for each in worse)
        return ModelState.CANDIDATE, Message(
            "It is worse than {model} by {by}: {measured}.", model=beside, by=by, measured=measured
        )
    if successor and every:
        return ModelState.LIVE, Message(
            "It is not worse than {model}, and learned by the same recipe from as many questions or more: {measured}.",
            model=beside,
            measured=measured,
        )
    if successor:
        return ModelState.LIVE, Message(
            "It is not worse than {model}, and learned by the same recipe from as many questions or more, as far as "
            "the few answers to new questions can tell.",
            model=beside,
        )
    worse_by = Message("It is worse than {model}: {measured}.", model=beside, measured=measured)
    not_worse = Message("It is not worse than {model}: {measured}.", model=beside, measured=measured)
    if first is not None and first.questions >= ENOUGH_QUESTIONS:
        loss = -first.difference.value
        sure = any(each.certainty >= CERTAIN for each in every)
        if loss > MARGIN or (loss > 0 and not sure):
            return ModelState.CANDIDATE, worse_by
        return ModelState.LIVE, not_worse
    if auc is not None:
        few = {"measured": Message("{measured}; too few questions for P@1", measured=measured), "model": beside}
        if auc.difference.value < 0:
            return ModelState.CANDIDATE, worse_by.with_values(few)
        return ModelState.LIVE, not_worse.with_values(few)
    return ModelState.CANDIDATE, Message(
        "It cannot be compared with {model} yet: too few rated answers to questions that neither was fitted on. More "
        "ratings to new questions will tell.",
        model=beside,
    )


def _of_order(found: Comparisons) -> tuple[Comparison, ...]:
    return tuple(each for each in (found.precision_at_1, found.ndcg, found.concordance) if each)


def _said(orders: Sequence[Comparison]) -> str:
    return Message.joined(*(Message.joined(_NAMES[each.measure], _points(each.difference)) for each in orders), by=", ")


def _points(value: Interval) -> str:
    return Message(
        "{value:+.1f} points (95 % {low:+.1f} to {high:+.1f})",
        value=100 * float(value.value),
        low=100 * float(value.low),
        high=100 * float(value.high),
    )
