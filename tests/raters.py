"""Answers to review, people who review them, and a browser without JavaScript: what the tests of the screens share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.engine import Engine
from web_fakes import GOOD, FakeService
from werkzeug.test import TestResponse

from rlhf_loop.accounts import users
from rlhf_loop.config import Settings
from rlhf_loop.domain import Rating, UserRole
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import record
from rlhf_loop.store.tables import Interaction, Review
from rlhf_loop.web import create_app

PASSWORD = "four quiet words here"
RESPONSE = "Drink water.\nRest in a dark room."
JSON = "application/json"


def put_answers(engine: Engine, count: int = 4, *, to_each: int = 1, **values: object) -> list[int]:
    """Store so many questions, each with so many answers that nobody has rated."""
    given = {"source": "wikipedia", "title": "Headache", "url": "https://example.org/a", "licence": "CC0", **values}
    return record(
        engine,
        [
            Rating(
                user_prompt=f"What helps against headache {number}?",
                ai_response=f"{RESPONSE} Answer {number}{'abc'[place]}.",
                candidate_group=f"question-{number}",
                **given,  # type: ignore[arg-type]
            )
            for number in range(count)
            for place in range(to_each)
        ],
    )


def put_people(engine: Engine) -> None:
    """Add anna and ben, who rate, and dora, an admin."""
    with transaction(engine) as connection:
        for name, role in (("anna", UserRole.RATER), ("ben", UserRole.RATER), ("dora", UserRole.ADMIN)):
            users.add_hashed(connection, name, role=role, actor="test", password_hash=_password_hash())


@cache
def _password_hash() -> str:
    # It is made to take long.
    return users.hash_password(PASSWORD, name="anna")


def reviews(engine: Engine) -> list[tuple[str, int, str | None, str | None, bool]]:
    """What the database holds of experts: reviewer, rating, comment, correction, flag; in the order of the answers."""
    wanted = select(Review).join(Interaction).where(Review.role == "expert").order_by(Review.interaction_key, Review.id)
    with engine.connect() as connection:
        return [
            (row.reviewer, row.rating, row.comment, row.correction, row.harmful) for row in connection.execute(wanted)
        ]


class Visitor:
    """Somebody with a browser, signed in by the form for that."""

    def __init__(self, settings: Settings, name: str | None = None) -> None:
        app = create_app(settings, service=FakeService(GOOD))
        self.client: FlaskClient = app.test_client()
        self.rules = [rule for rule in app.url_map.iter_rules()]
        self.token = ""
        if name:
            token = field(self.client.get("/sign-in").text, "form_token")
            form = {"name": name, "password": PASSWORD, "form_token": token}
            assert self.client.post("/sign-in", data=form).status_code == 303
            self.token = self.call("/review/session").json["form_token"]  # type: ignore[index]

    def page(self, address: str, *, status: int = 200) -> str:
        """Open a page; return its HTML."""
        response = self.client.get(address, follow_redirects=True)
        assert (response.status_code, response.mimetype) == (status, "text/html")
        return response.text

    def send(self, address: str, *, status: int = 200, **fields: object) -> str:
        """Send a form and go where it leads; return the HTML there."""
        data = {"form_token": self.token, **{name: str(value) for name, value in fields.items()}}
        response = self.client.post(address, data=data, follow_redirects=True)
        assert (response.status_code, response.mimetype) == (status, "text/html"), response.text
        return response.text

    def call(self, address: str, body: object = None, *, token: str | None = None) -> TestResponse:
        """Do what the script does: GET without a body, POST with one."""
        if body is None:
            return self.client.get(address, headers={"Accept": JSON})
        return self.client.post(
            address, json=body, headers={"X-Form-Token": self.token if token is None else token, "Accept": JSON}
        )


def field(html: str, name: str) -> str:
    """Return the value of the first field of that name."""
    found = re.search(rf'name="{name}" value="([^"]*)"', html)
    assert found is not None, f"There is no field {name}."
    return found.group(1)


def text(html: str) -> str:
    """Return what the page says, in one line."""
    return " ".join(re.sub(r"<[^>]*>", "", html).split())


def shown(html: str, of: Sequence[int]) -> int:
    """Return which of the answers the page shows."""
    id = int(field(html, "interaction_id"))
    assert id in of
    return id
