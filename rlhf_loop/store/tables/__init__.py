"""The tables of the ratings database, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from rlhf_loop.store.tables.columns import LARGEST_ID, Base, UtcDateTime
from rlhf_loop.store.tables.models import ModelVersion
from rlhf_loop.store.tables.operation import Alarm, ServedQuestion
from rlhf_loop.store.tables.people import AnsweredRequest, AuditEntry, OneTimeLink, Session, SignInFailure, Token, User
from rlhf_loop.store.tables.ratings import ANONYMOUS, CorrectionDecision, Interaction, Preference, Review
from rlhf_loop.store.tables.review import AnswerScore, Assignment, Draft, Guideline, PairAssignment
from rlhf_loop.store.tables.training import TrainingRun

__all__ = [
    "ANONYMOUS",
    "LARGEST_ID",
    "Alarm",
    "AnswerScore",
    "AnsweredRequest",
    "Assignment",
    "AuditEntry",
    "Base",
    "CorrectionDecision",
    "Draft",
    "Guideline",
    "Interaction",
    "ModelVersion",
    "OneTimeLink",
    "PairAssignment",
    "Preference",
    "Review",
    "ServedQuestion",
    "Session",
    "SignInFailure",
    "Token",
    "TrainingRun",
    "User",
    "UtcDateTime",
]
