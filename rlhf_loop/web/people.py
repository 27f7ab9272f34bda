"""Signing in and out, setting a password by a one-time link, and the admin's pages on people and rights."""

from __future__ import annotations

from flask import Blueprint

from rlhf_loop.config import Settings
from rlhf_loop.web.database import Database
from rlhf_loop.web.guard import Guard


def add_routes(web: Blueprint, settings: Settings, database: Database, guard: Guard) -> None:
    """Give the blueprint these routes."""
