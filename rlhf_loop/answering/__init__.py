"""Question-answering: gather passages, draft, rank and record answers."""

from rlhf_loop.answering.service import MAX_QUERY_CHARS, AnswerService, Readiness, end_user_scale

__all__ = ["MAX_QUERY_CHARS", "AnswerService", "Readiness", "end_user_scale"]
