"""What happened lately: how good the answers are, what drifts, what is amiss, and what more ratings would bring."""

from __future__ import annotations

from rlhf_loop.monitoring.figures.figure import Figure, Form, Series, Value

__all__ = ["Figure", "Form", "Series", "Value"]
