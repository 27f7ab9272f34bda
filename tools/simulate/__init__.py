"""Months of the loop in minutes: docs/SIMULATION.md is what comes out."""
