"""The simulated world: the questions of a simulation, and those that only measure it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rlhf_loop import sample
from rlhf_loop.domain import Example, Question, prompt_key
from rlhf_loop.encoders import TextEncoder
from tools.results.data import read_examples

WEEKS_A_MONTH = 52 / 12
#: Share of the questions that are fitted on and yet never asked: they join the validation split as the yardstick,
#: which is small. Drawn anew with each seed.
YARDSTICK_SHARE = 0.2
#: Groups of like questions; the one that is nearest to a quarter of all is the new topic.
_TOPICS = 4
_NEW_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with all its answers in the order in which they came, and the true grade of each."""

    group: str
    prompt: str
    answers: tuple[Example, ...]
    validation: bool
    new_topic: bool

    @property
    def question(self) -> Question:
        """The part of it that a model sees."""
        return Question(self.prompt, tuple(answer.response for answer in self.answers))


@dataclass(frozen=True, slots=True)
class Plan:
    """The questions of each week, the first week of the new topic, and the questions that only measure."""

    weeks: tuple[tuple[Asked, ...], ...]
    drift: int
    yardstick: tuple[Asked, ...]


def read_world(data: str, encoder: TextEncoder) -> list[Asked]:
    """Read the questions of `shared` (the real ratings beside the checkout) or of the package's `sample`."""
    examples, validation = read_examples() if data == "shared" else _sample()
    groups: dict[str, list[Example]] = {}
    kept: dict[str, bool] = {}
    for example, held in zip(examples, validation, strict=True):
        groups.setdefault(example.group, []).append(example)
        kept[example.group] = held
    new = _new_topic([answers[0].prompt for answers in groups.values()], encoder)
    return [
        Asked(group, answers[0].prompt, tuple(answers), kept[group], is_new)
        for (group, answers), is_new in zip(groups.items(), new, strict=True)
    ]


def plan(world: Sequence[Asked], *, weeks: int, drift: int, seed: int) -> Plan:
    """Lay out the weeks: the new topic comes from week `drift` (counted from 0) on, the others in all of them."""
    rng = np.random.default_rng(seed)
    free = [asked for asked in world if not asked.validation]
    chosen = rng.permutation(len(free))
    measuring = [free[place] for place in chosen[: round(YARDSTICK_SHARE * len(free))]]
    yardstick = [asked for asked in world if asked.validation] + measuring
    known = {prompt_key(asked.prompt) for asked in yardstick}
    # A question may be there twice; where it measures, it is not asked.
    served = [free[place] for place in chosen[len(measuring) :] if prompt_key(free[place].prompt) not in known]
    each = len(served) / weeks
    old = [asked for asked in served if not asked.new_topic]
    early = round(min(each * drift, len(old)))
    late = old[early:] + [asked for asked in served if asked.new_topic]
    late = [late[place] for place in rng.permutation(len(late))]
    parts = [*_dealt(old[:early], drift), *_dealt(late, weeks - drift)]
    return Plan(tuple(parts), drift, tuple(yardstick))


def _dealt(questions: Sequence[Asked], weeks: int) -> list[tuple[Asked, ...]]:
    edges = np.linspace(0, len(questions), weeks + 1).round().astype(int).tolist()
    return [tuple(questions[low:high]) for low, high in pairwise(edges)]


def _sample() -> tuple[list[Example], list[bool]]:
    rows = [json.loads(line) for line in sample.RATINGS_FILE.read_text(encoding="utf-8").splitlines()]
    places: dict[str, int] = {}
    examples = []
    for row in rows:
        group = row["candidate_group"]
        places[group] = places.get(group, 0) + 1
        rank = row.get("shown_rank") or places[group]
        examples.append(Example(row["user_prompt"], row["ai_response"], row["rating"], group, rank))
    return examples, [False] * len(examples)


def _new_topic(prompts: Sequence[str], encoder: TextEncoder) -> list[bool]:
    """Tell which questions belong to the topic that is held back: a group of questions with like vectors."""
    from sklearn.cluster import KMeans

    topic = KMeans(_TOPICS, n_init=10, random_state=0).fit_predict(encoder.encode(prompts))
    share = np.bincount(topic, minlength=_TOPICS) / len(topic)
    new: list[bool] = (topic == int(np.argmin(np.abs(share - _NEW_SHARE)))).tolist()
    return new
