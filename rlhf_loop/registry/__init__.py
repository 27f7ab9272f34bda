"""The registry: every trained model is a version, with its file, its card, and its state; at most one is live."""

from __future__ import annotations

from rlhf_loop.registry.off_switch import follow, switch_off, switch_on, switched_off
from rlhf_loop.registry.promotion import add, promote, rollback, settle
from rlhf_loop.registry.versions import (
    Version,
    card,
    card_path,
    find,
    fitted_questions,
    frozen_before,
    live,
    load,
    tidy,
    version_path,
    versions,
)

__all__ = [
    "Version",
    "add",
    "card",
    "card_path",
    "find",
    "fitted_questions",
    "follow",
    "frozen_before",
    "live",
    "load",
    "promote",
    "rollback",
    "settle",
    "switch_off",
    "switch_on",
    "switched_off",
    "tidy",
    "version_path",
    "versions",
]
