"""How end users rate on the page of answers, and that experts there are experts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from outage import Outage
from people_fakes import Site
from sqlalchemy import Engine, select
from web_fakes import GOOD, FakeService, Page

from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.errors import ConfigError
from rlhf_loop.store.engine import make_engine
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.store.tables import Interaction, Review
from rlhf_loop.web import create_app

ANSWERED = "/data-html?query=Why"


def page_with(scale: str) -> Page:
    app = create_app(Settings(end_user_scale=scale), service=FakeService(GOOD))
    return Page(app.test_client().get(ANSWERED).text)


def test_stars_are_buttons_with_words() -> None:
    """Five of them, each a form's button that says what it means."""
    buttons = [button for button in page_with("stars").all("button") if button.get("name") == "rating"]
    assert [button["value"] for button in buttons] == list("12345")
    assert buttons[3]["aria-label"] == "4 of 5: right, with small gaps"


def test_thumbs_are_buttons_with_words() -> None:
    """Two of them, and no stars beside them."""
    page = page_with("thumbs")
    buttons = [button for button in page.all("button") if button.get("name") == "thumb"]
    assert [(button["value"], button["aria-label"]) for button in buttons] == [
        ("up", "Thumb up: helpful"),
        ("down", "Thumb down: not helpful"),
    ]
    assert not [button for button in page.all("button") if button.get("name") == "rating"]


def test_a_scale_that_there_is_not() -> None:
    """The server does not start with it."""
    with pytest.raises(ConfigError, match=r"RLHF_END_USER_SCALE='emoji' is not a valid scale\. Choose from: stars"):
        create_app(Settings(end_user_scale="emoji"), service=FakeService())


@pytest.mark.parametrize(("thumb", "rating"), [("up", 5), ("down", 1)])
def test_a_thumb_is_a_rating(thumb: str, rating: int) -> None:
    """By JSON and by form, whatever the page shows; the words that come back are of a thumb."""
    service = FakeService(GOOD)
    web = create_app(Settings(), service=service).test_client()
    sent = {"interaction_id": "id-1", "thumb": thumb}
    answered = web.post("/data/ratings", json=sent)
    assert answered.json == {
        "interaction_id": "id-1",
        "rating": rating,
        "stored": True,
        "message": f"Thank you. Your thumb {thumb} is stored.",
    }
    assert f"Your thumb {thumb} is stored" in web.post("/data-html/ratings", data=sent).text
    assert [each[1] for each in service.rated] == [rating, rating]
    assert set(service.roles) == {ReviewerRole.END_USER}


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({}, "rating is missing: send it, from 1 to 5, or thumb, up or down"),
        ({"thumb": "sideways"}, "thumb is 'sideways': input should be 'up' or 'down'"),
        ({"thumb": "up", "rating": 5}, "rating 5 and thumb up are both there: send one of them"),
    ],
)
def test_one_of_the_two_is_needed(sent: dict[str, object], words: str) -> None:
    """Neither, both or something else is 422."""
    web = create_app(Settings(), service=FakeService(GOOD)).test_client()
    refused = web.post("/data/ratings", json={"interaction_id": "id-1", **sent})
    assert refused.status_code == 422
    assert refused.json is not None
    assert words in refused.json["detail"]


def test_who_is_signed_in_rates_as_an_expert(engine: Engine) -> None:
    """By their name, on the scale of five, and only from a page of their session."""
    site = Site(engine, end_user_scale="thumbs")
    rita = site.browser(site.rita)
    html = rita.get(ANSWERED).text
    assert 'name="thumb"' not in html
    assert html.count('name="rating"') == 5
    (token,) = set(re.findall(r'name="form_token" value="([0-9a-f]{64})"', html))
    sent = {"interaction_id": "id-1", "rating": "4"}
    assert rita.post("/data-html/ratings", sent, page=ANSWERED).status_code == 200
    by_script = {"interaction_id": "id-1", "rating": 2}
    assert rita.client.post("/data/ratings", json=by_script, headers={"X-Form-Token": token}).status_code == 200
    for how in ({"json": by_script}, {"json": by_script, "headers": {"X-Form-Token": "0" * 64}}):
        assert rita.client.post("/data/ratings", **how).status_code == 403
    assert rita.client.post("/data-html/ratings", data=sent).status_code == 403
    assert site.service.rated == [("id-1", 4, "rita", None), ("id-1", 2, "rita", None)]
    assert site.service.roles == [ReviewerRole.EXPERT, ReviewerRole.EXPERT]


def test_who_has_signed_out_is_a_visitor_again(engine: Engine) -> None:
    """And gets the page of visitors."""
    site = Site(engine)
    browser = site.browser(site.ada)
    assert browser.post("/sign-out", page="/account").status_code == 303
    assert browser.client.post("/data/ratings", json={"interaction_id": "id-1", "rating": 2}).status_code == 200
    ((_, _, reviewer, _),) = site.service.rated
    assert reviewer.startswith("visitor:")
    assert site.service.roles == [ReviewerRole.END_USER]


def test_an_expert_is_not_taken_for_a_visitor_while_the_database_is_down(postgres_url: str) -> None:
    """Then a visitor's rating waits in the outbox, but who has a session is told to come again."""
    outage = Outage(postgres_url)
    engine = make_engine(outage.url)
    site = Site(engine)
    rita, visitor = site.browser(site.rita), site.browser()
    engine.dispose()
    outage.cut()
    sent = {"interaction_id": "id-1", "rating": 5}
    refused = rita.client.post("/data/ratings", json=sent)
    assert (refused.status_code, refused.mimetype) == (503, "application/problem+json")
    assert visitor.client.post("/data/ratings", json=sent).status_code == 200
    assert site.service.roles == [ReviewerRole.END_USER]
    outage.close()


def test_the_consensus_of_experts_is_theirs_alone(engine: Engine, tmp_path: Path) -> None:
    """Through the whole way, from the page into the table: ten visitors move nothing of what one expert said."""
    (id,) = record(engine, [Rating("Why?", "So.", external_id="id-1")])
    rate(engine, id, reviewer="dr", rating=5, comment="right")
    site = Site(engine)
    settings = replace(site.settings, outbox_path=tmp_path / "outbox.db")
    service = AnswerService(settings)
    app = create_app(settings, service=service)
    for _ in range(10):
        sent = {"interaction_id": "id-1", "thumb": "down", "comment": "wrong"}
        assert app.test_client().post("/data/ratings", json=sent).status_code == 200
    service.close()
    with engine.connect() as connection:
        found = connection.execute(
            select(Interaction.rating, Interaction.end_user_rating, Interaction.feedback_comment)
        ).one()
        assert tuple(found) == (5, 1, "right")
        roles = connection.execute(select(Review.role).order_by(Review.id)).scalars().all()
    assert roles == ["expert", *["end_user"] * 10]
