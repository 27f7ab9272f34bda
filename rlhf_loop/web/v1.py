"""The API for applications: `/v1/interactions`, reviews and preferences, by token."""

from __future__ import annotations

from flask import Blueprint

from rlhf_loop.config import Settings
from rlhf_loop.web.database import Database
from rlhf_loop.web.guard import Guard


def add_routes(web: Blueprint, settings: Settings, database: Database, guard: Guard) -> None:
    """Give the blueprint these routes."""
