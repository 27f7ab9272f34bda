"""docs/SIMULATION.md: what a simulation showed, in sentences that say whatever came out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from textwrap import fill

import numpy as np

from rlhf_loop.domain import ModelState
from tools.report import machine, table, today
from tools.simulate import summary
from tools.simulate.loop import FLAWED_EVERY, FLAWS, Run
from tools.simulate.raters import ANY, BUSY, CARELESS, DICE, EXPERTS, HOSTILE, OVERLAP, OVERLAP_RATERS, STEP, Arm
from tools.simulate.raters import calendar as calendar_of
from tools.simulate.world import YARDSTICK_SHARE

_WIDTH = 120
_DATA = {
    "shared": "the real ratings beside this checkout (MEDIQA 2019 task 3; not part of the project)",
    "sample": "the 200 sample ratings of the package",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """The parts of a simulation, and the time it took."""

    data: str
    weeks: int
    drift: int
    questions: int
    new_topic: int
    seconds: float


def document(runs: Sequence[Run], of: Setting) -> str:
    """Return the whole document."""
    sections = (_introduction(runs, of), _improving(runs, of), _raters(runs, of), _gate(runs), _limits(of))
    blocks = "\n\n".join(sections).split("\n\n")
    return "\n\n".join(map(_wrapped, blocks)) + "\n"


def _wrapped(block: str) -> str:
    """Break the lines of prose anew: numbers have made them longer or shorter."""
    if block.startswith(("|", "#", "!")):
        return block
    parts = re.split(r"\n(?=- )", block)
    return "\n".join(
        fill(" ".join(part.split()), _WIDTH, subsequent_indent="  " * part.startswith("- "), break_on_hyphens=False)
        for part in parts
    )


def _introduction(runs: Sequence[Run], of: Setting) -> str:
    when, seeds = calendar_of(of.weeks), len(summary.of_arm(runs, Arm.HONEST))
    times = "once" if seeds == 1 else f"{seeds} times over"
    split = "The validation split and " if of.data == "shared" else ""
    return f"""# Simulation

{of.weeks} weeks of the loop, {times}: a real database, real reviews, a real training each week with the
real gate, on {_DATA[of.data]}. Only the calendar is made up. Everything on this page, its sentences included, is
written by `make simulate` (last run {today()}; {of.seconds / 60:.0f} minutes on {machine()}).

- **Questions.** {of.questions}, of which {of.new_topic} are one group of like ones (k-means on their vectors): nobody
  asks those before week {of.drift + 1}. That is the drift. All others come evenly, in an order of each seed's own.
- **The yardstick.** {split}{YARDSTICK_SHARE:.0%} of the other questions, drawn by the seed, are never asked, never
  rated and never fitted on. By them, and by the true grades, the accuracy and P@1 below are measured. Nothing was
  chosen by them: the thresholds of the weighting are from synthetic raters (`tests/training/test_reliability.py`).
- **Raters.** {len(EXPERTS)} experts give the true grade, but for one answer in {1 / STEP:.0f} a grade next to it, and
  for one in {1 / ANY:.0f} any. A careless rater joins in week {when.careless + 1} and throws dice for {DICE:.0%} of the
  answers. A hostile one joins in week {when.hostile + 1} and turns the scale over; in weeks {when.busy[0] + 1} to
  {when.busy[1] + 1} they rate as much as {BUSY} others. {OVERLAP:.0%} of the questions go to {OVERLAP_RATERS} raters,
  as by default.
- **Three arms**, with the same answers in the same weeks: {Arm.HONEST}; {Arm.UNWEIGHTED}
  (`RLHF_REVIEWER_WEIGHTING=no`); {Arm.WEIGHTED} (the default). In the first, weighted as well, two more experts take
  the places of the two bad raters.
- **Bad candidates.** Every {FLAWED_EVERY} weeks the gate is shown three models that must not go live: one fitted on
  labels in random order, one on a scale that is turned over, and one of recipe `joint`, which is known to rank worse
  than the incoming order on the real ratings. They are judged as any other model, and not kept."""


def _improving(runs: Sequence[Run], of: Setting) -> str:
    incoming = mean(run.incoming.precision_at_1 for run in runs)
    best = mean(run.best for run in runs)
    places = sorted({min(of.weeks, max(1, round(of.weeks * part))) for part in (0.12, 0.25, 0.5, 0.75, 1)})
    lines = []
    for arm in Arm:
        chosen = summary.of_arm(runs, arm)
        for label, name in (("accuracy", "accuracy"), ("P@1", "precision_at_1")):
            values = [summary.spread([getattr(run.weeks[n - 1].live, name) for run in chosen]) for n in places]
            lines.append([str(arm), label, *(_spread(value) for value in values)])
    honest = summary.of_arm(runs, Arm.HONEST)
    first = [week for week in summary.first_live(honest) if week]
    started = f"week {min(first)}" if min(first) == max(first) else f"weeks {min(first)} to {max(first)}"
    gain = summary.difference(
        summary.at_end(honest, summary.live("precision_at_1")), [run.incoming.precision_at_1 for run in honest]
    )
    accuracy = summary.spread(summary.at_end(honest, summary.live("accuracy")))
    reached = "above" if accuracy.mean >= 0.8 else "below"
    return f"""## Does the loop improve?

![Accuracy and P@1 of what is live](images/simulation-quality.png)

{table(("what is live", "measure", *(f"week {n}" for n in places)), lines)}

Means ± standard deviations over the seeds; before the first model is live the incoming order is, which has no
accuracy. The incoming order puts a correct answer first for {incoming:.1%} of the yardstick's questions, the best
possible order for {best:.1%}.

With honest raters the first model went live in {started}. In the last third of the weeks P@1 is
{_points(gain)} against the incoming order, and accuracy {accuracy.mean:.1%}: {reached} the line of 80 %.
{_saturation(honest, of)}

{_drift(runs, of)}"""


def _saturation(honest: Sequence[Run], of: Setting) -> str:
    """Say how much the second half of the time brought."""
    half = of.weeks // 2
    later = summary.difference(
        summary.at_end(honest, summary.live("precision_at_1")),
        [run.weeks[half - 1].live.precision_at_1 for run in honest],
    )
    if later.borne_out and later.mean > 0:
        return f"It still grew in the second half: {_points(later)}."
    return (
        f"Most of that comes early: from the middle of the time on P@1 changed by {_points(later)}. The learning curve "
        "in [Results](RESULTS.md) says the same: the features are few, and soon known."
    )


def _drift(runs: Sequence[Run], of: Setting) -> str:
    honest = summary.of_arm(runs, Arm.HONEST)
    before = [run.weeks[of.drift - 1].live for run in honest]
    after = [run.weeks[-1].live for run in honest]
    new = summary.difference([s.new_precision_at_1 for s in after], [s.new_precision_at_1 for s in before])
    accuracy = summary.difference([s.new_accuracy for s in after], [s.new_accuracy for s in before])
    beside = summary.difference(
        [s.new_precision_at_1 for s in before], [run.incoming.new_precision_at_1 for run in honest]
    )
    if not new.seeds:
        return "**The new topic.** The yardstick has too few questions of it to say anything."
    learnt = any(each.borne_out and each.mean > 0 for each in (new, accuracy))
    verdict = (
        "So the loop learned something of the topic from its own ratings."
        if learnt
        else "So there was little to learn anew: what makes an answer good is much the same in the new topic."
    )
    return f"""**The new topic.** On the yardstick's questions of the new topic the model that had seen none of it was
{_points(beside)} in P@1 against the incoming order. At the end, with ratings of it, P@1 there had changed by
{_points(new)} and accuracy by {_points(accuracy)}. {verdict}"""


def _raters(runs: Sequence[Run], of: Setting) -> str:
    lines = []
    for arm in Arm:
        chosen = summary.of_arm(runs, arm)
        for label, read in (("gate", summary.live), ("no gate", summary.newest)):
            values = [summary.at_end(chosen, read(name)) for name in ("accuracy", "auc", "precision_at_1")]
            said = _spread(summary.spread(summary.at_end(chosen, summary.own))) if label == "gate" else ""
            lines.append([str(arm), label, *(_spread(summary.spread(value)) for value in values), said])
    header = ("arm", "", "accuracy", "AUC", "P@1", "accuracy by the training's own report")
    return f"""## What bad raters cost

Means over the last third of the weeks, ± standard deviation over the seeds. "No gate" is the newest model of each
week, which would be live if there were none.

{table(header, lines)}

{_costs(runs)}

![Weights of the bad raters](images/simulation-raters.png)

{_weights(runs, of)}"""


def _costs(runs: Sequence[Run]) -> str:
    ends = {
        arm: {
            name: summary.at_end(summary.of_arm(runs, arm), read)
            for name, read in (
                ("accuracy", summary.live("accuracy")),
                ("auc", summary.live("auc")),
                ("precision_at_1", summary.live("precision_at_1")),
                ("own", summary.own),
            )
        }
        for arm in Arm
    }
    sentences = []
    for label, ours, theirs in (
        ("Without weighting, against honest raters", Arm.UNWEIGHTED, Arm.HONEST),
        ("With weighting, against honest raters", Arm.WEIGHTED, Arm.HONEST),
        ("Weighting against none", Arm.WEIGHTED, Arm.UNWEIGHTED),
    ):
        found = {name: summary.difference(ends[ours][name], ends[theirs][name]) for name in ends[ours]}
        sentences.append(
            f"- {label}: accuracy {_points(found['accuracy'])}, AUC {_points(found['auc'])}, P@1 "
            f"{_points(found['precision_at_1'])}; the accuracy that the training reports {_points(found['own'])}."
        )
    against = {
        name: summary.difference(ends[Arm.WEIGHTED][name], ends[Arm.UNWEIGHTED][name]) for name in ends[Arm.HONEST]
    }
    helped = [words for name, words in _MEASURES.items() if against[name].borne_out and against[name].mean > 0]
    harmed = [words for name, words in _MEASURES.items() if against[name].borne_out and against[name].mean < 0]
    unclear = [words for name, words in _MEASURES.items() if not against[name].borne_out]
    verdict = []
    if helped:
        verdict.append(f"Weighting helps {_joined(helped)}.")
    if harmed:
        verdict.append(f"It harms {_joined(harmed)}.")
    if unclear:
        verdict.append(f"For {_joined(unclear)} the seeds differ too much to tell.")
    return (
        "Seed by seed, with standard errors (the seeds do not bear out a difference of less than two of these):\n\n"
        + "\n".join(sentences)
        + "\n\n"
        + " ".join(verdict)
        + " "
        + _robust(ends)
    )


def _robust(ends: dict[Arm, dict[str, list[float]]]) -> str:
    lost = summary.difference(ends[Arm.UNWEIGHTED]["precision_at_1"], ends[Arm.HONEST]["precision_at_1"])
    reported = summary.difference(ends[Arm.UNWEIGHTED]["own"], ends[Arm.HONEST]["own"])
    if reported.mean < 2 * lost.mean and reported.borne_out:
        return (
            "The order itself suffers less than one might fear: wrong ratings that fall on good and bad answers alike "
            "mostly make a fit of few features less sure of itself. What they spoil is the judgement: held-out "
            "answers bear wrong grades, too, and so the loop thinks less of its models than they deserve."
        )
    return ""


_MEASURES = {
    "accuracy": "the accuracy of what is live",
    "auc": "its AUC",
    "precision_at_1": "its P@1",
    "own": "the accuracy that the training reports of itself",
}


def _weights(runs: Sequence[Run], of: Setting) -> str:
    weighted, when = summary.of_arm(runs, Arm.WEIGHTED), calendar_of(of.weeks)
    sentences = []
    for name, joined in ((HOSTILE, when.hostile), (CARELESS, when.careless)):
        doubted, silent = (_after(summary.found_out(weighted, name, joined, limit)) for limit in (1.0, 0.01))
        last = summary.spread([run.weeks[-1].weights.get(name, 1.0) for run in weighted])
        sentences.append(
            f"- The {name} rater: doubted {doubted}, without any weight {silent}; weight in the last week "
            f"{_spread(last)}."
        )
    beside = summary.least_honest(weighted, (CARELESS, HOSTILE))
    among = summary.least_honest(summary.of_arm(runs, Arm.HONEST), ())
    lost = mean(run.weeks[-1].disregarded for run in weighted)
    rated = mean(run.weeks[-1].rated for run in weighted)
    return (
        "\n".join(sentences) + "\n\nThe least weight that an ordinary expert had in any week of any seed: "
        f"{beside:.2g} beside the bad raters, {among:.2g} among honest ones. At the end {lost:.0f} of {rated:.0f} "
        "answers were left out on average, as nobody but raters without weight had rated them."
    )


def _gate(runs: Sequence[Run]) -> str:
    lines = []
    for arm in Arm:
        chosen = summary.of_arm(runs, arm)
        for label, promoted in (("promoted", True), ("not promoted", False)):
            found = summary.decided(chosen, promoted=promoted)
            lines.append(
                [
                    str(arm),
                    label,
                    str(found.count),
                    str(found.better),
                    str(found.worse),
                    *(
                        f"{100 * value:+.2f}" if np.isfinite(value) else "-"
                        for value in (found.precision_at_1, found.auc)
                    ),
                ]
            )
    header = ("arm", "decision", "models", "better or equal", "worse", "P@1, points", "AUC, points")
    return f"""## Was the gate right?

![Decisions of the gate](images/simulation-gate.png)

Each week's model against the one that was live, by the yardstick (P@1, and AUC where P@1 is the same), all seeds
together; the last two columns are mean differences. The very first model of a run has no rival and is not counted.

{table(header, lines)}

{_verdict(runs)}

Models that were made to be bad, all seeds together; P@1 by the yardstick:

{_flawed(runs)}"""


def _verdict(runs: Sequence[Run]) -> str:
    promoted, waiting = summary.decided(runs, promoted=True), summary.decided(runs, promoted=False)
    sentences = []
    if promoted.count:
        change = promoted.precision_at_1
        kind = "lose" if change < -0.005 else "gain" if change > 0.005 else "change"
        sentences.append(
            f"Of {promoted.count} promotions {promoted.better} were better than what they replaced or equal; on "
            f"average they {kind} {100 * abs(change):.2f} points of P@1."
        )
    if waiting.count:
        sentences.append(
            f"Of {waiting.count} models that were held back {waiting.worse} were worse, {waiting.better} better or "
            "equal."
        )
        if waiting.better > waiting.worse:
            sentences.append(
                "So among models of nearly the same worth the gate does not tell better from worse: with the "
                "questions of a few weeks nobody could. What it holds back costs little, since the next week brings "
                "another one."
            )
        else:
            sentences.append("So most of what it held back was rightly held back.")
    early = summary.before_the_first(runs)
    if early:
        better = sum(gain > 0 for gain in early)
        sentences.append(
            f"Before any model was live {len(early)} waited or were rejected, of which {better} would have put a "
            f"correct answer first more often than the incoming order, by {100 * mean(early):+.1f} points on average "
            "over all of them: that is what it costs to wait until the gate is certain."
        )
    return " ".join(sentences)


def _flawed(runs: Sequence[Run]) -> str:
    lines, passed, total = [], 0, 0
    for kind in FLAWS:
        for arm in Arm:
            found = summary.flawed(summary.of_arm(runs, arm), kind)
            if not found:
                continue
            live = [each for each in found if each.state == ModelState.LIVE]
            passed, total = passed + len(live), total + len(found)
            worse = sum(each.scores.precision_at_1 < each.live.precision_at_1 for each in found)
            lines.append(
                [
                    kind,
                    str(arm),
                    str(len(found)),
                    str(worse),
                    str(sum(each.state == ModelState.REJECTED for each in found)),
                    str(sum(each.state == ModelState.CANDIDATE for each in found)),
                    str(len(live)),
                    f"{mean(each.scores.precision_at_1 for each in found):.3f}",
                    f"{mean(each.live.precision_at_1 for each in found):.3f}",
                ]
            )
    if not lines:
        return "No model was live when they were to be shown, so there was nothing to compare with."
    header = (
        "candidate",
        "arm",
        "shown",
        "in truth worse",
        "rejected",
        "waits",
        "**passed**",
        "its P@1",
        "that of live",
    )
    verdict = "The gate let none of them pass." if not passed else f"The gate let {passed} of {total} pass."
    return f"{table(header, lines)}\n\n{verdict}"


def _limits(of: Setting) -> str:
    kind = "One data set" if of.data == "shared" else "A small data set"
    return f"""## What this does not show

{kind}, one encoder, raters as they are in books. A real careless rater is careless about hard answers; a real hostile
one would learn about the overlap. Raters who act together are not simulated: what most say is taken for the truth
(`rlhf_loop/training/reliability.py` names the limits). Users do not react to what is live, and the answers of a
question do not depend on the model. The yardstick's questions are few, so single weeks of one seed jump
by a point or two."""


def _after(weeks: Sequence[int | None]) -> str:
    known = [week for week in weeks if week is not None]
    if not known:
        return "in no seed"
    spread = f"{min(known)} to {max(known)}" if min(known) < max(known) else f"{known[0]}"
    seeds = f" (in {len(known)} of {len(weeks)} seeds)" if len(known) < len(weeks) else ""
    return f"after {spread} weeks{seeds}"


def _spread(value: summary.Spread) -> str:
    return f"{value.mean:.3f} ± {value.deviation:.3f}" if np.isfinite(value.mean) else "-"


def _points(value: summary.Difference) -> str:
    if not value.seeds:
        return "not measurable"
    error = f" (± {100 * value.error:.1f})" if value.seeds > 1 else ""
    return f"{100 * value.mean:+.1f} points{error}"


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
