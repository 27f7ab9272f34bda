"""Alarms, drift, experiments, the figures of the dashboard and the report, and the worker's periodic jobs."""

from __future__ import annotations

from rlhf_loop.monitoring.figures.figure import Figure, Form, Series, Value

__all__ = ["Figure", "Form", "Series", "Value"]
