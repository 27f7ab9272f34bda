"""Somebody's own Flask application with RLHF Loop in it: its pages under /loop, and the model in a route of one's own.

    .venv/bin/python examples/flask_app.py        # http://127.0.0.1:5000, after make demo

PORT is another port. In production a server runs it, from this folder: gunicorn "flask_app:create_app()".
"""

from __future__ import annotations

import os
from dataclasses import replace

from flask import Flask, abort, jsonify, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import escape

import rlhf_loop.web
from rlhf_loop import Ranker, Settings, rerank_candidates

#: What the shop would find in its own search.
SHELF = {
    "burn": [
        "Our new shop sells candles and matches.",
        "Cool a small burn under running water for twenty minutes, then cover it loosely. See a doctor if it is large.",
        "Put butter on the burn and keep it warm.",
    ],
    "cold": [
        "A cold passes by itself within ten days: rest, drink enough, and see a doctor if breathing gets hard.",
        "Antibiotics cure a cold in a day.",
    ],
}


def create_app(settings: Settings | None = None) -> Flask:
    """Make the application: the blueprint in two lines, then its own routes."""
    # Without this choice of sources, questions to /loop/data would also go to Wikipedia and arXiv.
    settings = settings or replace(Settings.from_env(), sources=("corrections", "index"))
    app = Flask(__name__)
    app.register_blueprint(rlhf_loop.web.blueprint(settings), url_prefix="/loop")
    ranker = Ranker(settings)  # one for all requests; it follows promotions of the model

    @app.get("/")
    def home() -> str:
        link = url_for("best", topic="burn", question="My hand is burnt. What now?")
        return f'<a href="{escape(link)}">Ask our shelf</a>, <a href="/loop/data-html">or all sources</a>'

    @app.get("/best")
    def best() -> ResponseReturnValue:
        """Answer from the shelf, the best candidate first."""
        question, topic = request.args.get("question", ""), request.args.get("topic", "")
        if not question.strip() or topic not in SHELF:
            abort(400, f"Ask with ?question= and ?topic=, one of {', '.join(SHELF)}.")
        return jsonify(rerank_candidates(question, SHELF[topic], ranker=ranker))

    return app


if __name__ == "__main__":
    create_app().run(port=int(os.environ.get("PORT", "5000")))
