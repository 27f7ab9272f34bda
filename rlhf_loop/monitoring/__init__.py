"""Alarms, drift, experiments, the figures of the dashboard and the report, and the worker's periodic jobs."""
