"""The loop closes over the rerank API: what is ranked there is rated by its id, and the next model learns from it."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from databases import sqlite_database
from sqlalchemy import func, select
from v1_apps import Caller, token_for

from rlhf_loop import sample
from rlhf_loop.accounts import tokens
from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.registry.training_run import run_training
from rlhf_loop.store import queries
from rlhf_loop.store.engine import open_database
from rlhf_loop.store.tables import Interaction, ServedQuestion
from rlhf_loop.web import create_app

SCOPES = (tokens.RERANK, tokens.REVIEW, tokens.REVIEW_AS_EXPERT)


def rated_lists() -> list[tuple[str, dict[str, int]]]:
    """Return 60 questions, each with its answers and their ratings: the sample's, and ten of them asked again."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for line in sample.RATINGS_FILE.read_text(encoding="utf-8").splitlines():
        each = json.loads(line)
        found[each["user_prompt"]][each["ai_response"]] = each["rating"]
    lists = list(found.items())
    return [*lists, *lists[:10]]


def test_what_is_ranked_over_http_is_what_the_next_model_learns_from(
    tmp_path: Path, encoder: TextEncoder, encoder_cache: Path
) -> None:
    """60 rankings in the incoming order, two documents of each rated; the model that is trained ranks another one."""
    settings = Settings(
        database_url=sqlite_database(tmp_path / "rlhf.db"),
        outbox_path=tmp_path / "outbox.db",
        model_path=tmp_path / "reward_model.joblib",
        cache_dir=encoder_cache,
        rerank_without_model="incoming",
        rate_limit="0",
    )
    engine = open_database(settings.database_url)
    service = AnswerService(settings, sources=[], encoder=encoder)
    web = create_app(settings, service=service).test_client()
    shop = Caller(web, token_for(engine, "shop", scopes=SCOPES))
    every = tokens.add(engine, "shop", user="shop", scopes=SCOPES, actor="test", record=1.0)
    shop = replace(shop, token=every.secret)
    chance = random.Random(0)
    lists = rated_lists()
    for question, answers in lists:
        documents = chance.sample(list(answers), len(answers))
        ranked = shop("POST", "/rerank", {"query": question, "documents": documents, "model": "any"})
        assert ranked.headers["X-RLHF-Ranking"] == "incoming"
        for one in ranked.json["results"][:2]:
            said = {"ranking": ranked.json["id"], "index": one["index"], "rating": answers[documents[one["index"]]]}
            assert shop("POST", "/feedback", {**said, "role": "expert", "reviewer": "anna"}).status_code == 201
    question, answers = lists[0]
    documents = sorted(answers, key=lambda text: answers[text])
    asked = {"query": question, "documents": documents}
    before = shop("POST", "/rerank", asked)
    outcome = run_training(engine, settings, encoder=encoder, recipe="passages")
    assert outcome.live, outcome.reason
    after = shop("POST", "/rerank", asked)
    assert after.headers["X-RLHF-Model"] == outcome.version.version
    orders = [[one["index"] for one in each.json["results"]] for each in (before, after)]
    assert orders[0] == list(range(len(documents)))
    assert answers[documents[orders[1][0]]] >= 4
    service.settle(after.json["id"])
    with engine.connect() as connection:
        wanted = select(ServedQuestion.policy, func.count()).where(ServedQuestion.caller == "shop")
        assert dict(connection.execute(wanted.group_by(ServedQuestion.policy)).all()) == {"incoming": 61, "live": 1}
        first = select(Interaction.external_id).where(Interaction.rating.is_(None)).order_by(Interaction.id.desc())
        waiting = connection.execute(first.limit(1)).scalar_one()
    history = queries.history(engine, waiting)
    assert {(of.door, of.caller) for of in history.served.values()} == {("/v1/rerank", "shop")}
    service.close()
    engine.dispose()
