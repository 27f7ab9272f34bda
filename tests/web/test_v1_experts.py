"""The word of an expert at `/v1`: who may replace it, and take it back."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine
from test_v1 import count, stored
from v1_apps import ALL_BUT_EXPERT, Caller, another_token, caller, token_for

from rlhf_loop.accounts import tokens
from rlhf_loop.domain import UserRole
from rlhf_loop.store.tables import Preference

EXPERT = (*ALL_BUT_EXPERT, tokens.REVIEW_AS_EXPERT)


def test_an_experts_review_is_out_of_reach_without_the_scope(engine: Engine, tmp_path: Path) -> None:
    """Neither replaced nor deleted, in another's name or the application's own; with the scope both are done."""
    plain = caller(engine, tmp_path)
    trusted = Caller(plain.web, another_token(engine, "app", scopes=EXPERT))
    path = f"/interactions/{plain.record()}/reviews"
    for named, query in (({"reviewer": "dr-kim"}, "?reviewer=dr-kim"), ({}, "")):
        assert trusted("POST", path, {"rating": 5, "role": "expert", **named}).status_code == 201
        before = stored(engine)
        for refused in (
            plain("POST", path, {"rating": 1, **named}),
            plain("POST", path, {"rating": 1, **named}, key="k"),
            plain("DELETE", path + query),
        ):
            assert refused.status_code == 403
            assert "needs the scope reviews:expert" in refused.json["detail"]  # type: ignore[index]
        assert stored(engine) == before
        assert plain("GET", "/interactions/a-1").json["interaction"]["rating"] == 5  # type: ignore[index]
        assert trusted("POST", path, {"rating": 1, **named}).status_code == 200
        assert plain("DELETE", path + query).status_code == 204  # it is an end user's now
    assert stored(engine) == []


def test_an_experts_preference_is_out_of_reach_without_the_scope(engine: Engine, tmp_path: Path) -> None:
    """It stays what it was; with the scope it is replaced."""
    plain = caller(engine, tmp_path)
    trusted = Caller(plain.web, another_token(engine, "app", scopes=EXPERT))
    for id in ("a", "b"):
        plain.record(id=id)
    said = {"chosen_id": "a", "rejected_id": "b", "reviewer": "dr-kim"}
    turned = {**said, "chosen_id": "b", "rejected_id": "a"}
    assert trusted("POST", "/preferences", {**said, "role": "expert"}).status_code == 201
    refused = plain("POST", "/preferences", turned)
    assert refused.status_code == 403
    assert "needs the scope reviews:expert" in refused.json["detail"]  # type: ignore[index]
    with engine.connect() as connection:
        assert connection.execute(Preference.__table__.select()).one().preferred == "first"
    assert trusted("POST", "/preferences", {**turned, "role": "expert"}).status_code == 200
    assert count(engine, Preference) == 1


def test_raters_may_change_their_own_mind(engine: Engine, tmp_path: Path) -> None:
    """Their own word needs no scope for that of others."""
    app = caller(engine, tmp_path)
    rater = Caller(app.web, token_for(engine, "anna", role=UserRole.RATER))
    path = f"/interactions/{app.record()}/reviews"
    assert rater("POST", path, {"rating": 5}).status_code == 201
    assert rater("POST", path, {"rating": 2}).status_code == 200
    assert stored(engine) == [("anna", "expert", 2)]
    assert rater("DELETE", path).status_code == 204
