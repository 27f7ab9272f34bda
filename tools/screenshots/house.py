"""A service to take pictures of: trained on the sample, with people, opinions and answers that wait."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.engine import Engine
from werkzeug.serving import make_server

from rlhf_loop import sample
from rlhf_loop.accounts import tokens, users
from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.domain import Passage, UserRole
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.registry.training_run import run_training
from rlhf_loop.store.engine import open_database
from rlhf_loop.store.interactions import rate
from rlhf_loop.store.tables import Interaction
from rlhf_loop.web import create_app

PASSWORD = "seven quiet otters"
ADMIN = "dora"
#: How each of them leans, and how much of it comes in the second half of the weeks only.
_RATERS = {"anna": (0.0, 0.0), "bela": (-0.2, 0.0), "cleo": (0.1, 0.8)}
_RATED_BY_ALL = 120
_WEEKS = 8


class _Sample:
    """Finds the sample's candidates, as a search would."""

    name = "sample"

    def search(self, query: str, *, limit: int) -> list[Passage]:
        """Return them all, whatever the question."""
        return [
            Passage(
                text=found["text"],
                title=f"Sample article {number}",
                url=f"https://example.org/{number}",
                licence="sample text",
                retrieved_at=datetime.now(UTC),
            )
            for number, found in enumerate(sample.CANDIDATES[:limit], start=1)
        ]


@dataclass(frozen=True, slots=True)
class House:
    """A running service: its address, its database, and its settings."""

    address: str
    engine: Engine
    settings: Settings


@contextmanager
def open_house(folder: Path) -> Iterator[House]:
    """Train on the sample, let people rate, and serve until the block ends."""
    settings = Settings(
        database_url=f"sqlite:///{folder / 'rlhf.db'}",
        model_path=folder / "reward_model.joblib",
        outbox_path=folder / "outbox.db",
        rate_limit="0",
    )
    engine = open_database(settings.database_url)
    import_ratings(engine, sample.RATINGS_FILE)
    run_training(engine, settings)
    _let_people_in(engine)
    service = AnswerService(settings, sources=[_Sample()])
    service.warm_up()
    service.answer(sample.QUESTION)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, create_app(settings, service=service), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield House(f"http://127.0.0.1:{server.server_port}", engine, settings)
    server.shutdown()
    thread.join()
    server.server_close()
    service.close()
    engine.dispose()


def _let_people_in(engine: Engine) -> None:
    users.add(engine, ADMIN, role=UserRole.ADMIN, actor="pictures", password=PASSWORD)
    for name in _RATERS:
        users.add(engine, name, role=UserRole.RATER, actor=ADMIN, password=PASSWORD)
    users.add(engine, "clinic-app", role=UserRole.SERVICE, actor=ADMIN)
    tokens.add(engine, "feedback of the clinic's pages", user="clinic-app", scopes=["reviews:write"], actor=ADMIN)
    with engine.connect() as connection:
        rated = connection.execute(
            select(Interaction.id, Interaction.rating, Interaction.ai_response).order_by(Interaction.id)
        ).all()[:_RATED_BY_ALL]
    drawn = random.Random(7)
    begin = datetime.now(UTC) - timedelta(weeks=_WEEKS)
    for name, (lean, drift) in _RATERS.items():
        for number, row in enumerate(rated):
            late = number >= len(rated) / 2
            opinion = round((row.rating or 3) + lean + drift * late + drawn.gauss(0, 0.6))
            moment = begin + timedelta(weeks=_WEEKS * number / len(rated))
            rate(engine, row.id, reviewer=name, rating=min(5, max(1, opinion)), rated_at=moment)
    wrong = next(row for row in rated if row.rating == 2)
    correction = wrong.ai_response.rstrip() + " If it does not get better within two days, see a doctor."
    rate(engine, wrong.id, reviewer="anna", rating=2, correction=correction)
    worst = next(row for row in rated if row.rating == 1)
    rate(engine, worst.id, reviewer="bela", rating=1, comment="Nobody should act on this.", harmful=True)
