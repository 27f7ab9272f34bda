"""Ten weeks of a service for the dashboard's pictures: the sample's questions are asked, people rate, models follow.

Everything is done by the real service; only the times are moved back afterwards, so that weeks need not pass.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.engine import Engine

from rlhf_loop import registry, sample
from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.domain import Answer, Passage, ReviewerRole
from rlhf_loop.registry.training_run import run_training
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import rate
from rlhf_loop.store.tables import Interaction, ModelVersion, Review, ServedQuestion

_WEEKS, _A_WEEK = 10, 14
#: After these weeks a model is trained.
_TRAINED_AFTER = (4, 9)


@dataclass(frozen=True, slots=True)
class _Shelf:
    """Some of the sample's answers to each question."""

    name: str
    answers: Mapping[str, Sequence[str]]

    def search(self, query: str, *, limit: int) -> list[Passage]:
        """Return what there is to that very question."""
        now = datetime.now(UTC)
        url = f"https://example.org/{self.name}"
        return [
            Passage(text=text, title=self.name, url=url, licence="sample text", retrieved_at=now)
            for text in self.answers.get(query, ())[:limit]
        ]


def let_weeks_pass(engine: Engine, settings: Settings) -> None:
    """Ask, rate and train as in the weeks before now."""
    rows = [json.loads(line) for line in sample.RATINGS_FILE.read_text(encoding="utf-8").splitlines()]
    known = {row["ai_response"]: int(row["rating"]) for row in rows}
    questions = sorted({row["user_prompt"] for row in rows})
    drawn = random.Random(11)
    begin = datetime.now(UTC) - timedelta(weeks=_WEEKS)
    _begin_earlier(engine, begin)
    service = AnswerService(replace(settings, experiment_share=0.35), sources=_shelves(rows, drawn))
    service.warm_up()
    for week in range(_WEEKS):
        for number in range(_A_WEEK):
            at = begin + timedelta(weeks=week, days=6.5 * number / _A_WEEK)
            answer = service.answer(questions[(week * _A_WEEK + number) % len(questions)])
            _move_back(engine, answer, at)
            _let_people_rate(engine, answer, known, at, drawn)
        if week in _TRAINED_AFTER:
            version = run_training(engine, settings).version
            _made_at(engine, version.version, begin + timedelta(weeks=week + 0.9))
    service.close()


def _shelves(rows: Sequence[Mapping[str, str]], drawn: random.Random) -> list[_Shelf]:
    """Put the answers on three shelves; the better ones are more often on the first."""
    shelves: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        good = int(row["rating"]) >= 4
        name = drawn.choices(("guidelines", "leaflets", "forum"), weights=(5, 3, 1) if good else (2, 3, 4))[0]
        shelves[name][row["user_prompt"]].append(row["ai_response"])
    return [_Shelf(name, shelves[name]) for name in ("guidelines", "leaflets", "forum")]


def _let_people_rate(
    engine: Engine, answer: Answer, known: Mapping[str, int], at: datetime, drawn: random.Random
) -> None:
    """Users rate every other first answer, experts some of all; both see a little more or less than there is."""
    for place, each in enumerate(answer.ranked):
        with engine.connect() as connection:
            found = select(Interaction.id).where(Interaction.external_id == each.interaction_id)
            id = connection.execute(found).scalar_one()
        if place == 0 and drawn.random() < 0.5:
            opinion = min(5, max(1, round(known[each.text] + drawn.gauss(0.3, 1.0))))
            visitor = f"visitor:{id}"
            rate(
                engine, id, reviewer=visitor, rating=opinion, role=ReviewerRole.END_USER, rated_at=at + timedelta(0, 90)
            )
        if drawn.random() < 0.35:
            for name in drawn.sample(("anna", "bela", "cleo"), 2 if drawn.random() < 0.5 else 1):
                opinion = min(5, max(1, round(known[each.text] + drawn.gauss(0, 0.9))))
                rate(engine, id, reviewer=name, rating=opinion, rated_at=at + timedelta(hours=8))


def _begin_earlier(engine: Engine, begin: datetime) -> None:
    """Let the sample's ratings and the model of them be from before the first week."""
    before = begin - timedelta(days=3)
    with transaction(engine) as connection:
        connection.execute(update(Review).where(Review.reviewer == "sample-expert").values(reviewed_at=before))
    live = registry.live(engine)
    if live is not None:
        _made_at(engine, live.version, before)


def _made_at(engine: Engine, version: str, at: datetime) -> None:
    with transaction(engine) as connection:
        connection.execute(
            update(ModelVersion).where(ModelVersion.version == version).values(made_at=at, changed_at=at)
        )
        was_live = ModelVersion.version == version, ModelVersion.live_from.is_not(None)
        connection.execute(update(ModelVersion).where(*was_live).values(live_from=at))


def _move_back(engine: Engine, answer: Answer, at: datetime) -> None:
    ids = [each.interaction_id for each in answer.ranked]
    with transaction(engine) as connection:
        group = connection.execute(
            select(Interaction.candidate_group).where(Interaction.external_id == ids[0])
        ).scalar_one()
        connection.execute(update(Interaction).where(Interaction.candidate_group == group).values(created_at=at))
        connection.execute(update(ServedQuestion).where(ServedQuestion.candidate_group == group).values(served_at=at))
