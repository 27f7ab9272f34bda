"""The gain of pairs and end users' ratings beside few ratings by experts, a section of docs/RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rlhf_loop.encoders import TextEncoder
from rlhf_loop.training import metrics
from rlhf_loop.training.fit import CORRECTION_WEIGHT, PREFERENCE_WEIGHT
from tools.report import table
from tools.results.simulation import (
    END_USERS,
    MADE_OTHERWISE,
    MISTAKES,
    SEEDS,
    USED,
    WRONG,
    Measured,
    load,
    load_sample,
    order_precision,
    simulate,
    with_end_users,
    with_own_pairs,
    with_pairs,
    with_used_passages,
)

RATED = (50, 100, 200)
PAIRS = (50, 200, 1000)
#: Of a preference, for which so many are used.
WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0)
WEIGHED = 200
CORRECTION_WEIGHTS = (0.1, 0.25, 0.5, 1.0, 2.0)
END_USER_WEIGHTS = (0.25, 1.0)
USED_WEIGHTS = (0.05, 0.25, 1.0)


def measured(encoder: TextEncoder) -> str:
    """Run the simulations and return the section."""
    material = load(encoder)
    by_count = {rated: simulate(material, rated, [with_pairs(count) for count in (0, *PAIRS)]) for rated in RATED}
    by_weight = {
        rated: simulate(material, rated, [with_pairs(WEIGHED, weight) for weight in WEIGHTS]) for rated in RATED
    }
    ways = [(weight, capped) for capped in (True, False) for weight in END_USER_WEIGHTS]
    by_users = {
        (rated, label): simulate(
            material, rated, [with_end_users(weight, wrong, capped=capped) for weight, capped in ways]
        )
        for label, wrong in MISTAKES.items()
        for rated in (RATED[0], RATED[-1])
    }
    by_used = {
        rated: simulate(material, rated, [with_used_passages(weight) for weight in USED_WEIGHTS]) for rated in RATED
    }
    corrected = load_sample(encoder)
    by_correction = simulate(corrected, None, [with_own_pairs(weight) for weight in (0.0, *CORRECTION_WEIGHTS)])
    none = {rated: found[0] for rated, found in by_count.items()}
    incoming = metrics.interval(order_precision(material.data, -material.data.rank))
    data = material.data
    return f"""## Pairs and end users

What preferences and end users add to few ratings by experts, simulated on the training split
({len(data.row):,} answers to {len(np.unique(data.question))} questions) with recipe `passages`: five folds by question,
{len(SEEDS)} shufflings. Each fit sees the answers to some training questions as experts rated them, and what others say
of answers to *other* training questions. All ways to fit have the same draws and are judged on the same questions; the
changes are those against the ratings alone, with 95 % intervals (paired bootstrap over questions, means over the
shufflings). In the incoming order P@1 is {incoming[0]:.3f} ({incoming[1]:.3f} to {incoming[2]:.3f}).

### Preferences

Of two answers that experts rated differently the one rated higher is preferred; the pairs are drawn at random. Real
raters will be less consistent than this. A preference weighs {PREFERENCE_WEIGHT:g} of a rating.

{_table(("rated answers", "preferences"), _rows_by_count(by_count))}

{_worth(by_count)}

The weight of a preference, with {WEIGHED} of them; that of training is {PREFERENCE_WEIGHT:g}:

{_table(("rated answers", "weight"), _rows_by_weight(by_weight, none))}

### Corrections

There are no real ones to measure on. Those of the sample ({len(corrected.of_pair)} corrections beside
{len(corrected.data.row)} ratings, all made up for this project) are fitted on with all ratings of the other folds; the
weight of training is {CORRECTION_WEIGHT:g}. That they help with other questions was not shown. What they are good for
is their own question: once an admin has approved one, it is a candidate there.

{_table(("weight",), _rows_of_corrections(by_correction))}

### End users

{END_USERS} answers to other questions are rated by end users who err in {WRONG:.0%} of all, at random or all alike:
towards the longer half of the answers. "No more than the experts" means that their ratings together weigh no more
than if they were as many as the experts'; so it is done in training. Weight 0 is the ratings alone.

{_table(("rated answers", "mistakes", "weight", "in all"), _rows_by_users(by_users, ways, none))}

{_caution(by_users, ways, none)}

### Passages of a rated answer

A language model answers each of the other questions from the first {USED} candidates of the incoming order; its answer
is good where most of them are, but for {MADE_OTHERWISE:.0%} of all, and what is said of it is said of each of them. In
all that weighs no more than the experts.

{_table(("rated answers", "weight"), _rows_by_used(by_used, none))}

A little is gained at a small weight and lost at a large one. How far answers follow their passages is assumed here,
so what is said of an answer is kept beside its passages (`rlhf_used_passages`) and trains nothing yet."""


_Rows = Iterator[list[str]]


def _table(header: Sequence[str], rows: _Rows) -> str:
    return table((*header, "AUC", "change", "P@1", "change"), rows)


def _rows_by_count(found: dict[int, list[Measured]]) -> _Rows:
    for rated, ways in found.items():
        for count, way in zip((0, *PAIRS), ways, strict=True):
            yield [str(rated), f"{count:,}", *_numbers(way, ways[0])]


def _rows_by_weight(found: dict[int, list[Measured]], none: dict[int, Measured]) -> _Rows:
    for rated, ways in found.items():
        for weight, way in zip(WEIGHTS, ways, strict=True):
            yield [str(rated), f"{weight:g}", *_numbers(way, none[rated])]


def _rows_by_used(found: dict[int, list[Measured]], none: dict[int, Measured]) -> _Rows:
    for rated, ways in found.items():
        for weight, way in zip((0, *USED_WEIGHTS), (none[rated], *ways), strict=True):
            yield [str(rated), f"{weight:g}", *_numbers(way, none[rated])]


def _rows_of_corrections(found: list[Measured]) -> _Rows:
    for weight, way in zip((0, *CORRECTION_WEIGHTS), found, strict=True):
        yield [f"{weight:g}", *_numbers(way, found[0])]


def _rows_by_users(
    found: dict[tuple[int, str], list[Measured]], ways: Sequence[tuple[float, bool]], none: dict[int, Measured]
) -> _Rows:
    for (rated, label), measured in found.items():
        yield [str(rated), label, "0", "", *_numbers(none[rated], none[rated])]
        for (weight, capped), way in zip(ways, measured, strict=True):
            limit = "no more than the experts" if capped else "as many as they are"
            yield [str(rated), label, f"{weight:g}", limit, *_numbers(way, none[rated])]


def _worth(found: dict[int, list[Measured]]) -> str:
    """Say what the pairs bring next to what more ratings would."""
    fewest, more, *_ = RATED
    most = found[RATED[-1]][-1]
    preferences, ratings = (_change(way, found[fewest][0])[0] for way in (found[fewest][2], found[more][0]))
    return (
        f"Beside {fewest} ratings {PAIRS[1]} preferences change AUC by {preferences}; {more - fewest} more ratings\n"
        f"alone change it by {ratings}. Beside {RATED[-1]} ratings {PAIRS[-1]:,} preferences\n"
        f"change it by {_change(most, found[RATED[-1]][0])[0]}. Where an interval has 0 in it, nothing was shown."
    )


def _caution(
    found: dict[tuple[int, str], list[Measured]], ways: Sequence[tuple[float, bool]], none: dict[int, Measured]
) -> str:
    """Say what the limit is good for."""
    fewest, place = RATED[0], {way: place for place, way in enumerate(ways)}
    weight = END_USER_WEIGHTS[0]
    at_random, alike = (found[fewest, label] for label in MISTAKES)
    harmless, learned, limited = (
        _change(of[place[weight, capped]], none[fewest])[0]
        for of, capped in ((at_random, True), (alike, False), (alike, True))
    )
    return (
        f"Beside {fewest} ratings by experts, end users who err at random change AUC by\n"
        f"{harmless} at weight {weight:g} and with the limit. What all err in alike is learned:\n"
        f"without the limit AUC changes by {learned}, with it by {limited}."
    )


def _numbers(way: Measured, none: Measured) -> list[str]:
    auc, precision = ("", "") if way is none else _change(way, none)
    return [f"{way.auc[0]:.3f}", auc, f"{way.precision_at_1[0]:.3f}", precision]


def _change(way: Measured, none: Measured) -> tuple[str, str]:
    found = (
        metrics.interval(of - than) for of, than in ((way.auc, none.auc), (way.precision_at_1, none.precision_at_1))
    )
    auc, precision = (f"{value:+.3f} ({low:+.3f} to {high:+.3f})" for value, low, high in found)
    return auc, precision
