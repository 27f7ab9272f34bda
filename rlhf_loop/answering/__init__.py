"""From a question to a recorded, ranked answer."""

from rlhf_loop.answering.service import MAX_QUERY_CHARS, AnswerService, Readiness

__all__ = ["MAX_QUERY_CHARS", "AnswerService", "Readiness"]
